//! Server-side apply (`application/apply-patch+yaml`): merges an object into the stored one by the
//! ownership of fields (`structured-merge-diff/merge.Updater.Apply`;
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    patch::{
        error::{Conflict, PatchError},
        field_set::FieldSet,
        last_applied,
        managed_fields::{Contested, Manager, Managers, Operation, Writer},
        parts::{Parts, fields_of, key_step, parts, parts_of},
    },
    resources::resource_type::ResourceType,
    schema::types::Structure,
};

/// Returns the object to store, `metadata.managedFields` included. Applying the same object again
/// returns the same.
///
/// `current` is `None` if the object is to be created. `subresource` is empty for the object
/// itself.
///
/// # Errors
/// `Conflict` unless `force`.
pub(crate) fn apply(
    resource: &ResourceType,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Timestamp,
) -> Result<Value, PatchError> {
    let writer = Writer { resource, manager, operation: Operation::Apply, subresource, now };
    let root = resource.structure();
    let given = applied;
    let applied = covered(&writer, applied);
    let empty = Value::Object(Map::new());
    let live = current.unwrap_or(&empty);
    let mut managers = Managers::of(live);
    if current.is_some() && managers.is_empty() {
        // Fields set before the first apply are attributed to a manager of this name, so that they
        // conflict.
        let before =
            Writer { manager: "before-first-apply", operation: Operation::Update, ..writer };
        let (set, _) = before.changed_and_removed(before.comparison(&empty, live));
        managers.push(Manager::new(&before, set));
    }
    let mut object = live.clone();
    merge(&Parts::Struct(root), &mut object, &applied);

    let set = writer.ownable(fields_of(root, &applied));
    let own = managers.position(&writer);
    if let Some(last) = own.and_then(|at| managers.set(at)) {
        let kept = managers.others(own).fold(set.clone(), |kept, other| kept.union(other));
        prune_object(root, &mut object, last, &kept);
    }

    let changes = writer.comparison(live, &object);
    // The order of elements, which has no owner, counts here.
    let is_same = object == *live;
    let (changed, removed) = writer.changed_and_removed(changes);
    let uncontested = last_applied::uncontested(resource, manager, live);
    let contested = managers.take_over(own, &changed.difference(&uncontested), &removed);
    if !uncontested.is_empty() {
        managers.take_over(own, &changed, &removed);
    }
    if !force && !contested.is_empty() {
        return Err(conflict(contested));
    }
    managers.set_applied(own, &writer, set, is_same);
    managers.write(&mut object);
    if object["metadata"].get("managedFields").is_none() {
        // Without the field, the managers would stay as they are.
        object["metadata"]["managedFields"] = json!([]);
    }
    last_applied::update(&mut object, manager, given);
    Ok(object)
}

/// Returns the applied object without the part that this write does not cover.
fn covered(writer: &Writer<'_>, applied: &Value) -> Value {
    let mut applied = applied.clone();
    if let Some(object) = applied.as_object_mut() {
        if writer.subresource == "status" {
            object.remove("spec");
        } else if writer.resource.separates_status() {
            object.remove("status");
        }
    }
    applied
}

/// Merges an applied value into the live one.
fn merge(parts_here: &Parts<'_>, live: &mut Value, applied: &Value) {
    match (parts_here, applied) {
        // Of parts, null applies none.
        (Parts::Struct(_) | Parts::Map(_), Value::Null)
            if live.as_object().is_some_and(|fields| !fields.is_empty()) => {}
        (Parts::Keyed(..) | Parts::Set, Value::Null)
            if live.as_array().is_some_and(|items| !items.is_empty()) => {}
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

/// Merges two lists of elements with identities: applied elements keep their order, and live ones
/// stay where they were between the shared ones. If either could come next, the live one does
/// (`visitListItems` in structured-merge-diff's `merge.go`).
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
            // A shared element comes in the order of the applied list.
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

/// Removes the fields that were in the manager's last applied set (`last`), and that neither its
/// new set nor another manager has (`kept`).
fn prune_object(root: &Structure, object: &mut Value, last: &FieldSet, kept: &FieldSet) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, value| {
        let step = format!("f:{name}");
        match (name.as_str(), root.field(name)) {
            ("apiVersion" | "kind", _) | (_, None) => true,
            // Go encodes these even if they are empty, so they are pruned inside but never removed.
            (name, Some(field)) if name == "metadata" || field.always => {
                if let Some(last) = last.get(&step) {
                    let nothing = FieldSet::default();
                    prune(&parts_of(field), value, last, kept.get(&step).unwrap_or(&nothing));
                }
                true
            }
            (_, Some(field)) => stays(&parts_of(field), value, last.get(&step), kept.get(&step)),
        }
    });
}

/// [`prune_object`] for a value inside of the object.
fn prune(parts_here: &Parts<'_>, value: &mut Value, last: &FieldSet, kept: &FieldSet) {
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
            entry_stays(&parts(element, None), value, last.get(&step), kept.get(&step))
        }),
        (Parts::Keyed(element, keys), Value::Array(items)) => items.retain_mut(|item| {
            let step = key_step(item, *keys);
            entry_stays(&parts(element, None), item, last.get(&step), kept.get(&step))
        }),
        (Parts::Set, Value::Array(items)) => items.retain(|item| {
            let step = format!("v:{item}");
            last.get(&step).is_none() || kept.get(&step).is_some()
        }),
        _ => {}
    }
}

/// [`stays`] for an entry of a map or an element of a list, which is removed with all its fields: it has owners of its
/// own, while those of a structure are those of its fields.
fn entry_stays(
    parts_here: &Parts<'_>,
    value: &mut Value,
    last: Option<&FieldSet>,
    kept: Option<&FieldSet>,
) -> bool {
    let Some(last) = last else { return true };
    if last.member && !kept.is_some_and(|kept| kept.member) {
        return false;
    }
    prune(parts_here, value, last, kept.unwrap_or(&FieldSet::default()));
    true
}

/// Prunes a field, and returns false if it is to be removed itself.
fn stays(
    parts_here: &Parts<'_>,
    value: &mut Value,
    last: Option<&FieldSet>,
    kept: Option<&FieldSet>,
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

/// Returns the error with Kubernetes' message (`managedfields.NewConflictError`).
fn conflict(mut conflicts: Vec<Contested>) -> PatchError {
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
