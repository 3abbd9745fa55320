//! Server-side apply, and who owns what after any write.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    patch::{
        Conflict, Operation, PatchError,
        managed_fields::{Difference, Fields, Parts, key_step, of_object, parts, parts_of},
    },
    resources::resource_type::ResourceType,
    schema::tree::{Structure, forest},
};

/// See [`crate::patch::apply`].
pub(crate) fn apply(
    resource: &ResourceType,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Timestamp,
) -> Result<Value, PatchError> {
    let Some(root) = forest().root(resource) else {
        return Err(PatchError::BadRequest(format!("no schema for {}", resource.kind)));
    };
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(PatchError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let applied = relevant(resource, applied, subresource);
    let empty = Value::Object(Map::new());
    let live = current.unwrap_or(&empty);
    let mut managers = Managers::of(live);
    if current.is_some() && managers.0.is_empty() {
        // What was there before anybody was asked belongs to somebody all the same.
        let set = stripped(resource, of_object(root, live), subresource);
        managers.0.push(Manager {
            set,
            ..Manager::new(resource, "before-first-apply", Operation::Update, "", now)
        });
    }
    let mut object = live.clone();
    merge(&Parts::Struct(root), &mut object, &applied);

    let set = stripped(resource, of_object(root, &applied), subresource);
    let mine = managers.position(resource, manager, Operation::Apply, subresource);
    let last = mine.and_then(|at| managers.0.get(at)).map(|manager| manager.set.clone());
    if let Some(last) = &last {
        let others = managers.0.iter().enumerate().filter(|(at, _)| Some(*at) != mine);
        let kept = others.fold(set.clone(), |kept, (_, other)| kept.union(&other.set));
        for top in ["f:metadata", "f:spec", "f:status"] {
            prune_top(root, top, &mut object, last, &kept);
        }
        prune_rest(root, &mut object, last, &kept);
    }

    let mut difference = Difference::between(root, live, &object);
    let changed = stripped(resource, difference.modified.clone(), subresource).union(&stripped(
        resource,
        difference.added.clone(),
        subresource,
    ));
    difference.removed = stripped(resource, difference.removed, subresource);
    let mut conflicts = Vec::new();
    for (at, other) in managers.0.iter_mut().enumerate() {
        if Some(at) == mine {
            continue;
        }
        let contested = other.set.intersection(&changed);
        if !contested.is_empty() {
            if !force {
                conflicts.push((other.shown(), contested.paths()));
            }
            other.lose(&contested, now);
        }
        other.lose(&difference.removed, now);
    }
    if !conflicts.is_empty() {
        return Err(conflict(conflicts));
    }
    match mine.and_then(|at| managers.0.get_mut(at)) {
        Some(entry) if entry.set == set => {}
        Some(entry) => {
            entry.set = set;
            entry.time = seconds(now);
        }
        None => managers.0.push(Manager {
            set,
            ..Manager::new(resource, manager, Operation::Apply, subresource, now)
        }),
    }
    managers.write(&mut object);
    Ok(object)
}

/// See [`crate::patch::track_update`].
pub(crate) fn track_update(
    resource: &ResourceType,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: Timestamp,
) {
    let Some(root) = forest().root(resource) else { return };
    let empty = Value::Object(Map::new());
    let before = old.unwrap_or(&empty);
    let mut managers = Managers::of(new);
    if managers.0.is_empty() {
        managers = Managers::of(before);
    }
    let difference = Difference::between(root, before, new);
    let changed = stripped(resource, difference.added, subresource).union(&stripped(
        resource,
        difference.modified,
        subresource,
    ));
    let removed = stripped(resource, difference.removed, subresource);
    if changed.is_empty() && removed.is_empty() {
        managers.write(new);
        return;
    }
    let mine = managers.position(resource, manager, operation, subresource);
    for (at, other) in managers.0.iter_mut().enumerate() {
        if Some(at) != mine {
            other.lose(&changed, now);
        }
        other.lose(&removed, now);
    }
    match mine.and_then(|at| managers.0.get_mut(at)) {
        Some(entry) => {
            let set = entry.set.clone().union(&changed);
            if set != entry.set {
                entry.set = set;
                entry.time = seconds(now);
            }
        }
        None => managers.0.push(Manager {
            set: changed,
            ..Manager::new(resource, manager, operation, subresource, now)
        }),
    }
    managers.write(new);
}

/// One entry of `managedFields`.
struct Manager {
    name: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    set: Fields,
}

impl Manager {
    fn new(
        resource: &ResourceType,
        name: &str,
        operation: Operation,
        subresource: &str,
        now: Timestamp,
    ) -> Self {
        Self {
            name: name.to_owned(),
            operation,
            api_version: resource.api_version(),
            subresource: subresource.to_owned(),
            time: seconds(now),
            set: Fields::default(),
        }
    }

    fn lose(&mut self, fields: &Fields, now: Timestamp) {
        let left = self.set.difference(fields);
        if left != self.set {
            self.set = left;
            // Kubernetes keeps the time of those who only lose something.
            let _ = now;
        }
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
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

struct Managers(Vec<Manager>);

impl Managers {
    fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array();
        let text =
            |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let read = entries.into_iter().flatten().map(|entry| Manager {
            name: text(entry, "manager"),
            operation: match entry["operation"] == "Apply" {
                true => Operation::Apply,
                false => Operation::Update,
            },
            api_version: text(entry, "apiVersion"),
            subresource: text(entry, "subresource"),
            time: text(entry, "time"),
            set: Fields::from_v1(&entry["fieldsV1"]),
        });
        Self(read.collect())
    }

    fn position(
        &self,
        resource: &ResourceType,
        name: &str,
        operation: Operation,
        subresource: &str,
    ) -> Option<usize> {
        self.0.iter().position(|entry| {
            entry.name == name
                && entry.operation == operation
                && entry.subresource == subresource
                && (operation == Operation::Apply || entry.api_version == resource.api_version())
        })
    }

    fn write(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.set.is_empty());
        let order = |entry: &Manager| {
            let operation = u8::from(entry.operation == Operation::Update);
            (operation, entry.time.clone(), entry.name.clone(), entry.subresource.clone())
        };
        self.0.sort_by_cached_key(order);
        let entries: Vec<Value> = self
            .0
            .iter()
            .map(|entry| {
                let mut written = json!({
                    "manager": entry.name,
                    "operation": match entry.operation {
                        Operation::Apply => "Apply",
                        Operation::Update => "Update",
                    },
                    "apiVersion": entry.api_version,
                    "time": entry.time,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": entry.set.to_v1(),
                });
                if !entry.subresource.is_empty() {
                    written["subresource"] = entry.subresource.as_str().into();
                }
                written
            })
            .collect();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        match (entries.is_empty(), object["metadata"].as_object_mut()) {
            (true, Some(metadata)) => {
                metadata.remove("managedFields");
            }
            (false, Some(metadata)) => {
                metadata.insert("managedFields".to_owned(), entries.into());
            }
            _ => {}
        }
    }
}

fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Fields that the server sets, and parts that a write does not reach, have no owner.
fn stripped(resource: &ResourceType, mut set: Fields, subresource: &str) -> Fields {
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
    set.forget("metadata");
    if subresource == "status" {
        if resource.crd.is_some() {
            set.remove(&["metadata"]);
        }
        set.remove(&["spec"]);
    } else if resource.subresources.contains(&"status") {
        set.remove(&["status"]);
    }
    set
}

/// The applied object without what this write does not reach, and without nulls.
fn relevant(resource: &ResourceType, applied: &Value, subresource: &str) -> Value {
    let mut applied = without_nulls(applied);
    if let Some(object) = applied.as_object_mut() {
        if subresource == "status" {
            object.remove("spec");
        } else if resource.subresources.contains(&"status") {
            object.remove("status");
        }
    }
    applied
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Puts the applied value over the live one.
fn merge(parts_here: &Parts<'_>, live: &mut Value, applied: &Value) {
    match (parts_here, applied) {
        (Parts::Struct(_) | Parts::Map(_), Value::Object(applied)) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Some(live) = live.as_object_mut() else { return };
            for (name, value) in applied {
                let below = match parts_here {
                    Parts::Struct(structure) => structure.field(name).map(parts_of),
                    Parts::Map(element) => Some(parts(element, None)),
                    _ => None,
                };
                let entry = live.entry(name.clone()).or_insert(Value::Null);
                merge(&below.unwrap_or(Parts::Leaf), entry, value);
            }
        }
        (Parts::Keyed(element, keys), Value::Array(items)) => {
            let live_items = live.as_array().cloned().unwrap_or_default();
            *live = Value::Array(interleaved(
                &live_items,
                items,
                |item| key_step(item, *keys),
                |old, new| {
                    let mut merged = old.clone();
                    merge(&parts(element, None), &mut merged, new);
                    merged
                },
            ));
        }
        (Parts::Set, Value::Array(items)) => {
            let live_items = live.as_array().cloned().unwrap_or_default();
            *live = Value::Array(interleaved(&live_items, items, Value::to_string, |_, new| {
                new.clone()
            }));
        }
        _ => *live = applied.clone(),
    }
}

/// Applied elements in their order, and the others where they stood between those that both have;
/// where one of either could come first, it is the one that was there.
fn interleaved(
    live: &[Value],
    applied: &[Value],
    id: impl Fn(&Value) -> String,
    merged: impl Fn(&Value, &Value) -> Value,
) -> Vec<Value> {
    let old: Vec<String> = live.iter().map(&id).collect();
    let new: Vec<String> = applied.iter().map(&id).collect();
    let mut shared = new.iter().filter(|name| old.contains(name)).peekable();
    let (mut list, mut left, mut right) = (Vec::new(), 0, 0);
    loop {
        match (live.get(left).zip(old.get(left)), applied.get(right).zip(new.get(right))) {
            (None, None) => return list,
            (Some((item, name)), _) if !new.contains(name) => {
                list.push(item.clone());
                left += 1;
            }
            // What both have comes when the applied list says so.
            (Some(_), None) => left += 1,
            (Some((_, name)), Some((_, next)))
                if name != next && shared.peek().is_some_and(|wanted| *wanted != name) =>
            {
                left += 1;
            }
            (here, Some((item, name))) => {
                let before = old.iter().position(|known| known == name);
                list.push(match before.and_then(|at| live.get(at)) {
                    Some(old) => merged(old, item),
                    None => item.clone(),
                });
                if before.is_some() {
                    shared.next();
                }
                if here.is_some_and(|(_, known)| known == name) {
                    left += 1;
                }
                right += 1;
            }
        }
    }
}

/// A top-level part is thinned out, never removed as a whole.
fn prune_top(root: &Structure, top: &str, object: &mut Value, last: &Fields, kept: &Fields) {
    let name = top.trim_start_matches("f:");
    let (Some(field), Some(last)) = (root.field(name), last.get(top)) else { return };
    let nothing = Fields::default();
    let kept = kept.get(top).unwrap_or(&nothing);
    if let Some(value) = object.get_mut(name) {
        prune(&parts_of(field), value, last, kept);
    }
}

fn prune_rest(root: &Structure, object: &mut Value, last: &Fields, kept: &Fields) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, value| {
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status") {
            return true;
        }
        let step = format!("f:{name}");
        match root.field(name) {
            Some(field) => stays(&parts_of(field), value, last.get(&step), kept.get(&step)),
            None => true,
        }
    });
}

/// Removes what was applied last time and is neither now nor by anybody else.
fn prune(parts_here: &Parts<'_>, value: &mut Value, last: &Fields, kept: &Fields) {
    match (parts_here, value) {
        (Parts::Struct(structure), Value::Object(object)) => object.retain(|name, value| {
            let step = format!("f:{name}");
            match structure.field(name) {
                Some(field) => stays(&parts_of(field), value, last.get(&step), kept.get(&step)),
                None => true,
            }
        }),
        (Parts::Map(element), Value::Object(object)) => object.retain(|name, value| {
            let step = format!("f:{name}");
            stays(&parts(element, None), value, last.get(&step), kept.get(&step))
        }),
        (Parts::Keyed(element, keys), Value::Array(items)) => items.retain_mut(|item| {
            let step = key_step(item, *keys);
            stays(&parts(element, None), item, last.get(&step), kept.get(&step))
        }),
        (Parts::Set, Value::Array(items)) => items.retain(|item| {
            let step = format!("v:{item}");
            last.get(&step).is_none() || kept.get(&step).is_some()
        }),
        _ => {}
    }
}

fn stays(
    parts_here: &Parts<'_>,
    value: &mut Value,
    last: Option<&Fields>,
    kept: Option<&Fields>,
) -> bool {
    match (last, kept) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(last), Some(kept)) => {
            prune(parts_here, value, last, kept);
            true
        }
    }
}

fn conflict(mut conflicts: Vec<(String, Vec<String>)>) -> PatchError {
    conflicts.sort();
    let causes: Vec<Conflict> = conflicts
        .iter()
        .flat_map(|(manager, fields)| {
            fields.iter().map(move |field| Conflict {
                field: field.clone(),
                message: format!("conflict with {manager}"),
            })
        })
        .collect();
    let message = match causes.as_slice() {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        _ => {
            let mut lines = Vec::new();
            for (manager, fields) in &conflicts {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(fields.iter().map(|field| format!("- {field}")));
            }
            format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
        }
    };
    PatchError::Conflict { message, causes }
}
