//! Strategic merge patches (`k8s.io/apimachinery/pkg/util/strategicpatch`): merge patches that
//! merge lists of objects by a merge key, with directives in the patch for what this cannot
//! express. The directives are described in
//! <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>.

use serde_json::{Map, Value};

use crate::{
    patch::error::PatchError,
    resources::resource_type::ResourceType,
    schema::types::{Field, PatchStrategy, Shape, Structure},
};

/// How to treat an object or an element: `merge` (the default), `replace` or `delete`.
const DIRECTIVE: &str = "$patch";
/// The fields that stay; all others are removed, so that a union has one member.
const RETAIN_KEYS: &str = "$retainKeys";
/// Prefix of a list of scalars to remove.
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
/// Prefix of the order of a list after the patch.
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch, `application/strategic-merge-patch+json`.
///
/// # Errors
/// `BadRequest` if a directive is malformed, `Unprocessable` if an element lacks its merge key. The
/// target is then partially patched.
pub(crate) fn strategic(
    resource: &ResourceType,
    target: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    match (target.as_object_mut(), patch.as_object()) {
        (Some(target), Some(patch)) => merge(Some(resource.structure()), target, patch),
        _ => Err(PatchError::BadRequest("invalid JSON document".to_owned())),
    }
}

/// Merges a patch into an object. Without a structure (below a map or a field of any type), all
/// lists are replaced.
fn merge(
    structure: Option<&Structure>,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).map(|directive| (directive.as_str(), directive)) {
        None | Some((Some("merge"), _)) => {}
        Some((Some("replace"), _)) => {
            *target = without_nulls(patch);
            return Ok(());
        }
        Some((Some("delete"), _)) => {
            target.clear();
            return Ok(());
        }
        Some((_, other)) => {
            return Err(PatchError::BadRequest(format!("unknown patch type: {other}")));
        }
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let Some(retained) = retained.as_array() else {
            return Err(PatchError::BadRequest("invalid patch format of retainKeys".to_owned()));
        };
        target.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    for (key, values) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            let Some(values) = values.as_array() else {
                return Err(PatchError::BadRequest(
                    "invalid patch format of primitive list".to_owned(),
                ));
            };
            if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|item| !values.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let before = target.get(key).and_then(Value::as_array).cloned();
        let field = structure.and_then(|structure| structure.field(key));
        merge_field(field, key, target, value)?;
        let order = patch.get(&format!("{ELEMENT_ORDER}{key}"));
        order_field(field, key, target, order, before.as_deref())?;
    }
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ELEMENT_ORDER)
            && !patch.contains_key(name)
        {
            let before = target.get(name).and_then(Value::as_array).cloned();
            let field = structure.and_then(|structure| structure.field(name));
            order_field(field, name, target, Some(order), before.as_deref())?;
        }
    }
    Ok(())
}

/// Merges one field of the patch.
fn merge_field(
    field: Option<&Field>,
    key: &str,
    target: &mut Map<String, Value>,
    value: &Value,
) -> Result<(), PatchError> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(patch) => {
            let shape = field.map(|field| &field.shape);
            let structure = shape.and_then(Shape::structure);
            let entry = target.entry(key).or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Some(entry) = entry.as_object_mut() {
                merge(structure, entry, patch)?;
            }
        }
        Value::Array(patch) => {
            let list = target.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let merged = match field.and_then(|field| Some((field, field.strategy?))) {
                Some((field, PatchStrategy { merge: true, key: Some(key), .. })) => {
                    merge_keyed(element(field), key, list, patch)?
                }
                Some((_, PatchStrategy { merge: true, key: None, .. })) => {
                    merge_scalars(list, patch)
                }
                _ => patch.clone(),
            };
            target.insert(key.to_owned(), Value::Array(merged));
        }
        scalar => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn element(field: &Field) -> Option<&Structure> {
    match &field.shape {
        Shape::List(element) => element.structure(),
        _ => None,
    }
}

/// Merges a list of distinct scalars.
fn merge_scalars(list: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut merged = list.to_vec();
    for value in patch {
        if !merged.contains(value) {
            merged.push(value.clone());
        }
    }
    arranged(merged, patch, list, Clone::clone)
}

/// Merges a list of objects by its merge key.
fn merge_keyed(
    element: Option<&Structure>,
    key: &str,
    list: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, PatchError> {
    // `{ "$patch": "replace" }` as an element replaces the whole list with the other elements.
    let replaces = |item: &Value| item[DIRECTIVE] == "replace" && item.get(key).is_none();
    if patch.iter().any(replaces) {
        let kept = patch.iter().filter(|item| item.get(DIRECTIVE).is_none());
        return kept.map(|item| cleaned(element, item)).collect();
    }
    let mut merged = list.to_vec();
    let mut kept = Vec::new();
    for item in patch {
        let Some(patch) = item.as_object() else {
            return Err(PatchError::BadRequest(format!(
                "cannot merge {item} into a list of objects with merge key {key}"
            )));
        };
        let Some(id) = patch.get(key) else {
            return Err(PatchError::Unprocessable(format!(
                "map: {} does not contain declared merge key: {key}",
                go_map(patch)
            )));
        };
        match patch.get(DIRECTIVE).and_then(Value::as_str) {
            Some("delete") => {
                merged.retain(|old| old.get(key) != Some(id));
                continue;
            }
            Some("replace") => {
                merged.retain(|old| old.get(key) != Some(id));
                merged.push(Value::Object(without_nulls(patch)));
            }
            _ => match merged.iter_mut().find(|old| old.get(key) == Some(id)) {
                Some(Value::Object(old)) => merge(element, old, patch)?,
                _ => merged.push(cleaned(element, item)?),
            },
        }
        kept.push(item.clone());
    }
    Ok(arranged(merged, &kept, list, |item| item[key].clone()))
}

/// Returns a new element, without directives and nulls.
fn cleaned(element: Option<&Structure>, item: &Value) -> Result<Value, PatchError> {
    match item {
        Value::Object(patch) => {
            let mut new = Map::new();
            merge(element, &mut new, patch)?;
            Ok(Value::Object(new))
        }
        other => Ok(other.clone()),
    }
}

/// Applies `$setElementOrder` to a list; `before` is the list before the patch.
fn order_field(
    field: Option<&Field>,
    name: &str,
    target: &mut Map<String, Value>,
    order: Option<&Value>,
    before: Option<&[Value]>,
) -> Result<(), PatchError> {
    let Some(order) = order else { return Ok(()) };
    let Some(order) = order.as_array() else {
        return Err(PatchError::BadRequest("invalid patch format of setElementOrder list".into()));
    };
    let key = field.and_then(|field| field.strategy?.key);
    if let Some(Value::Array(list)) = target.get_mut(name) {
        let id = |item: &Value| match key {
            Some(key) => item[key].clone(),
            None => item.clone(),
        };
        *list = arranged(std::mem::take(list), order, before.unwrap_or_default(), id);
    }
    Ok(())
}

/// Orders a list: the elements that the patch names in its order, and the others where the server
/// had them, that is before the next named element that they preceded, otherwise last
/// (`normalizeElementOrder`).
fn arranged(
    list: Vec<Value>,
    patch: &[Value],
    server: &[Value],
    id: impl Fn(&Value) -> Value,
) -> Vec<Value> {
    let position = |among: &[Value], item: &Value| {
        let wanted = id(item);
        among.iter().position(|other| id(other) == wanted)
    };
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|item| position(patch, item).is_some());
    named.sort_by_key(|item| position(patch, item));
    let mut arranged = Vec::with_capacity(named.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for item in named {
        while let Some(other) = rest.peek() {
            match (position(server, other), position(server, &item)) {
                (Some(left), Some(right)) if left < right => arranged.extend(rest.next()),
                _ => break,
            }
        }
        arranged.push(item);
    }
    arranged.extend(rest);
    arranged
}

/// Removes what a replacing patch must not store: nulls and directives.
fn without_nulls(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(key, value)| !value.is_null() && !key.starts_with('$'))
        .map(|(key, value)| {
            let value = match value {
                Value::Object(inner) => Value::Object(without_nulls(inner)),
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
}

/// Formats a map as Go does, for the message: `map[image:x tty:true]`.
fn go_map(map: &Map<String, Value>) -> String {
    let pairs: Vec<String> = map
        .iter()
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}:{text}"),
            Value::Object(inner) => format!("{key}:{}", go_map(inner)),
            other => format!("{key}:{other}"),
        })
        .collect();
    format!("map[{}]", pairs.join(" "))
}
