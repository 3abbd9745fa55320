//! `metadata.managedFields`: which manager owns which fields, and how a write that is no apply
//! changes that (`k8s.io/apimachinery/pkg/util/managedfields`,
//! `structured-merge-diff/merge.Updater`).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    patch::{compare::Comparison, field_set::FieldSet},
    resources::resource_type::{CLIENT_METADATA, ResourceType},
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
    /// Returns false for the entries that are made of those of a `Scale`: they lose their times
    /// (`ScaleHandler.ToParent`).
    fn has_time(&self) -> bool {
        self.subresource != "scale"
    }

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
            let leaves = self.resource.status_leaves;
            for name in leaves {
                set.remove(&["metadata", name]);
            }
            // A status without any metadata of its own does not own the metadata either.
            if leaves == CLIENT_METADATA {
                set.remove(&["metadata"]);
            }
            set.remove(&["spec"]);
        } else if self.resource.separates_status() {
            set.remove(&["status"]);
        }
        set
    }

    pub(super) fn comparison(&self, old: &Value, new: &Value) -> Comparison {
        Comparison::between(self.resource.structure(), old, new)
    }

    /// Returns the fields that a write changes (added or modified), and those that it removes.
    pub(super) fn changed_and_removed(&self, changes: Comparison) -> (FieldSet, FieldSet) {
        let changed = self.ownable(changes.added).union(&self.ownable(changes.modified));
        (changed, self.ownable(changes.removed))
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
    let live = old.unwrap_or(&empty);
    let mut managers = match old {
        // Only a write of the object itself sets them.
        Some(old) if !subresource.is_empty() => Managers::of(old),
        _ if is_reset(&new["metadata"]["managedFields"]) => Managers(Vec::new()),
        _ => Managers::of(new),
    };
    if managers.is_empty() && !is_reset(&new["metadata"]["managedFields"]) {
        // A client that leaves them out means no change.
        managers = Managers::of(live);
    }
    if managers.is_empty() && old.is_some() {
        // Not tracked, until an apply.
        managers.write(new);
        return;
    }
    let changes = writer.comparison(live, new);
    let (changed, removed) = writer.changed_and_removed(changes);
    if changed.is_empty() && removed.is_empty() {
        managers.write(new);
        return;
    }
    let own = managers.position(&writer);
    managers.take_over(own, &changed, &removed);
    match own.and_then(|at| managers.0.get_mut(at)) {
        Some(entry) => {
            entry.set = entry.set.difference(&removed).union(&changed);
            // A manager that only loses fields keeps its time.
            if !changed.is_empty() && writer.has_time() {
                entry.time = to_seconds(now);
            }
        }
        None => managers.0.push(Manager::new(&writer, changed)),
    }
    managers.cap_updates();
    managers.write(new);
}

/// Returns true for the empty list, or one empty entry, with which a client removes all managers.
fn is_reset(managed_fields: &Value) -> bool {
    let is_empty =
        |entry: &Value| entry.as_object().is_none_or(|fields| fields.values().all(Value::is_null));
    let entries = managed_fields.as_array();
    entries.is_some_and(|entries| entries.len() < 2 && entries.iter().all(is_empty))
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
            time: if writer.has_time() { to_seconds(writer.now) } else { String::new() },
            set,
        }
    }

    /// Returns nothing for an entry that is malformed.
    fn decode(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if entry["fieldsType"] != "FieldsV1" || text("apiVersion").is_empty() {
            return None;
        }
        Some(Self {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_v1(&entry["fieldsV1"])?,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": self.operation.name(),
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_v1(),
        });
        if !self.time.is_empty() {
            entry["time"] = self.time.as_str().into();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
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
    /// Decodes the entries of an object: none, if any is malformed.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        Self(entries.map(Manager::decode).collect::<Option<_>>().unwrap_or_default())
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

    /// Sets the fields of an applying manager. If it leaves the object the same, it sets no time: a new manager
    /// has none then, as in Kubernetes.
    pub(super) fn set_applied(
        &mut self,
        own: Option<usize>,
        writer: &Writer<'_>,
        set: FieldSet,
        is_same: bool,
    ) {
        let mut applied = Manager::new(writer, set);
        if is_same || !writer.has_time() {
            let before = own.and_then(|at| self.0.get(at));
            applied.time = before.map(|entry| entry.time.clone()).unwrap_or_default();
        }
        match own.and_then(|at| self.0.get_mut(at)) {
            Some(entry) => *entry = applied,
            None => self.push(applied),
        }
    }

    /// Merges the oldest updates of each version into one if there are too many (`capManagersManager`).
    fn cap_updates(&mut self) {
        const MAX_UPDATES: usize = 10;
        const MERGED: &str = "ancient-changes";
        let is_update = |entry: &Manager| entry.operation == Operation::Update;
        self.0.retain(|entry| !entry.set.is_empty());
        let mut excess = self.0.iter().filter(|e| is_update(e)).count().saturating_sub(MAX_UPDATES);
        if excess == 0 {
            return;
        }
        self.sort();
        let mut merged: Vec<Manager> = Vec::new();
        for mut entry in std::mem::take(&mut self.0) {
            let same =
                |first: &&mut Manager| is_update(first) && first.api_version == entry.api_version;
            match merged.iter_mut().find(same) {
                Some(first) if excess > 0 && is_update(&entry) => {
                    excess -= 1;
                    first.set.add(&entry.set);
                    first.time = std::mem::take(&mut entry.time);
                    MERGED.clone_into(&mut first.name);
                    first.subresource.clear();
                }
                _ => merged.push(entry),
            }
        }
        self.0 = merged;
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

    /// Sorts the entries as Kubernetes does (`sortEncodedManagedFields`).
    fn sort(&mut self) {
        self.0.sort_by_cached_key(|entry| {
            let operation = u8::from(entry.operation == Operation::Update);
            let Manager { time, name, api_version, subresource, .. } = entry;
            let text = [time, name, api_version, subresource].map(Clone::clone);
            (operation, text)
        });
    }

    /// Writes the entries to an object. Managers without fields are dropped.
    pub(super) fn write(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.set.is_empty());
        self.sort();
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
