//! `metadata.managedFields`: which manager owns which fields, and how a write that is no apply
//! changes that (`k8s.io/apimachinery/pkg/util/managedfields`,
//! `structured-merge-diff/merge.Updater`).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    patch::{compare::Comparison, field_set::FieldSet},
    resources::resource_type::ResourceType,
};

/// `operation` of a `managedFields` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Server-side apply.
    Apply,
    /// All other writes: create, update, and the other patches.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// The manager that writes, and the part of the object that the write covers.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) resource: &'a ResourceType<'a>,
    pub(super) manager: &'a str,
    pub(super) operation: Operation,
    /// Empty for the object itself.
    pub(super) subresource: &'a str,
    pub(super) now: Timestamp,
}

impl Writer<'_> {
    /// Removes fields that have no owner, because the server sets them (`stripMeta`) or because the
    /// write does not cover them (`GetResetFields` of the strategies).
    pub(super) fn ownable(&self, mut set: FieldSet) -> FieldSet {
        for name in ["apiVersion", "kind"] {
            set.remove(&[name]);
        }
        for name in [
            "clusterName",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "selfLink",
            "uid",
        ] {
            set.remove(&["metadata", name]);
        }
        set.remove_member("metadata");
        if self.subresource == "status" {
            // The status of a custom resource is written without its metadata.
            if self.resource.is_unstructured() {
                set.remove(&["metadata"]);
            }
            set.remove(&["spec"]);
        } else if self.resource.separates_status() {
            set.remove(&["status"]);
        }
        set
    }

    /// Returns the fields that a write changes (added or modified), and those that it removes.
    pub(super) fn changes(&self, old: &Value, new: &Value) -> (FieldSet, FieldSet) {
        let comparison = Comparison::between(self.resource.structure(), old, new);
        let changed = self.ownable(comparison.added).union(&self.ownable(comparison.modified));
        (changed, self.ownable(comparison.removed))
    }
}

/// Updates `new.metadata.managedFields` after a create, update or patch: `manager` owns the fields
/// that differ from `old` (all fields if `old` is `None`), and other managers lose them. To be
/// called on the object with its defaults, before admission and allocation, whose changes have no
/// owner.
pub(crate) fn track_update(
    resource: &ResourceType,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: Timestamp,
) {
    let writer = Writer { resource, manager, operation, subresource, now };
    let empty = Value::Object(Map::new());
    let old = old.unwrap_or(&empty);
    let mut managers = Managers::of(new);
    if managers.is_empty() {
        // A client that leaves them out means no change.
        managers = Managers::of(old);
    }
    let (changed, removed) = writer.changes(old, new);
    if changed.is_empty() && removed.is_empty() {
        managers.write(new);
        return;
    }
    let own = managers.position(&writer);
    managers.take_over(own, &changed, &removed);
    match own.and_then(|at| managers.0.get_mut(at)) {
        Some(entry) => {
            entry.set = entry.set.difference(&removed);
            let set = entry.set.clone().union(&changed);
            entry.replace(set, now);
        }
        None => managers.0.push(Manager::new(&writer, changed)),
    }
    managers.write(new);
}

/// One entry of `managedFields`.
pub(super) struct Manager {
    name: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Manager {
    pub(super) fn new(writer: &Writer<'_>, set: FieldSet) -> Self {
        Self {
            name: writer.manager.to_owned(),
            operation: writer.operation,
            api_version: writer.resource.api_version(),
            subresource: writer.subresource.to_owned(),
            time: to_seconds(writer.now),
            set,
        }
    }

    fn decode(entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("manager"),
            operation: match entry["operation"] == "Apply" {
                true => Operation::Apply,
                false => Operation::Update,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_v1(&entry["fieldsV1"]),
        }
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": self.operation.name(),
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_v1(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    /// Replaces the fields, and the time if they differ. A manager that only loses fields keeps its
    /// time, as in Kubernetes.
    fn replace(&mut self, set: FieldSet, now: Timestamp) {
        if self.set != set {
            self.set = set;
            self.time = to_seconds(now);
        }
    }

    /// Returns the manager as conflicts name it.
    fn display(&self) -> String {
        let mut shown = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            shown.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            shown.push_str(&format!(" using {}", self.api_version));
        }
        shown
    }
}

/// The fields that a write takes from one manager, by its name in messages.
pub(super) type Contested = (String, Vec<String>);

/// The entries of `managedFields`.
pub(super) struct Managers(Vec<Manager>);

impl Managers {
    /// Decodes the entries of an object.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        Self(entries.map(Manager::decode).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, manager: Manager) {
        self.0.push(manager);
    }

    /// Returns the position of a writer's entry. An apply of another version replaces that of the
    /// previous one, while updates have an entry for each version.
    pub(super) fn position(&self, writer: &Writer<'_>) -> Option<usize> {
        self.0.iter().position(|entry| {
            entry.name == writer.manager
                && entry.operation == writer.operation
                && entry.subresource == writer.subresource
                && (writer.operation == Operation::Apply
                    || entry.api_version == writer.resource.api_version())
        })
    }

    /// Returns the fields of the manager at a position.
    pub(super) fn set(&self, at: usize) -> Option<&FieldSet> {
        Some(&self.0.get(at)?.set)
    }

    /// Returns the fields of all managers but the one at a position.
    pub(super) fn others(&self, own: Option<usize>) -> impl Iterator<Item = &FieldSet> {
        let others = self.0.iter().enumerate().filter(move |(at, _)| Some(*at) != own);
        others.map(|(_, manager)| &manager.set)
    }

    /// Sets the fields of an applying manager.
    pub(super) fn set_applied(&mut self, own: Option<usize>, writer: &Writer<'_>, set: FieldSet) {
        match own.and_then(|at| self.0.get_mut(at)) {
            Some(entry) => entry.replace(set, writer.now),
            None => self.push(Manager::new(writer, set)),
        }
    }

    /// Takes changed and removed fields from all managers but the one at a position. Returns the
    /// changed fields that had an owner: conflicts, if the write is an apply that does not force
    /// them.
    pub(super) fn take_over(
        &mut self,
        own: Option<usize>,
        changed: &FieldSet,
        removed: &FieldSet,
    ) -> Vec<Contested> {
        let mut all_contested = Vec::new();
        for (_, other) in self.0.iter_mut().enumerate().filter(|(at, _)| Some(*at) != own) {
            let contested = other.set.intersection(changed);
            if !contested.is_empty() {
                all_contested.push((other.display(), contested.paths()));
            }
            other.set = other.set.difference(changed).difference(removed);
        }
        all_contested
    }

    /// Writes the entries to an object. Managers without fields are dropped.
    pub(super) fn write(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.set.is_empty());
        // The order of Kubernetes (`sortEncodedManagedFields`).
        self.0.sort_by_cached_key(|entry| {
            let operation = u8::from(entry.operation == Operation::Update);
            (operation, entry.time.clone(), entry.name.clone(), entry.subresource.clone())
        });
        let entries: Vec<Value> = self.0.iter().map(Manager::encode).collect();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let Some(metadata) = object["metadata"].as_object_mut() else { return };
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), entries.into());
        }
    }
}

/// `metav1.Time` has whole seconds.
fn to_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
