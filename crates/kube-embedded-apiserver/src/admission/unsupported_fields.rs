//! The fields of pods, workloads, Services and Ingresses that this cluster does not act upon. A client that sets one is
//! informed in the response: by a warning, or by a refusal where going on would be worse than not to start. What is
//! acted upon is listed too ([`table::HONORED`]), so that a test finds a field that is in neither list.

mod table;
#[cfg(test)]
mod tests;

use crate::{
    resources::resource_type::{Attributes, ResourceType},
    schema::types::{Shape, Structure},
};
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};
use table::{Field, UNSUPPORTED};

/// The table by structure and field.
static BY_NAME: LazyLock<HashMap<(&str, &str), &Field>> =
    LazyLock::new(|| UNSUPPORTED.iter().map(|of| ((of.structure, of.name), of)).collect());

/// Lists the fields, as `PodSpec.hostNetwork`, with what happens to them.
pub fn listed() -> impl Iterator<Item = (String, &'static str)> {
    UNSUPPORTED.iter().map(|field| (format!("{}.{}", field.structure, field.name), field.note))
}

/// A field of an object that is not acted upon.
struct Found<'a> {
    path: String,
    field: &'static Field,
    value: &'a Value,
}

impl Found<'_> {
    fn text(&self) -> String {
        format!("{}: {}", self.path, self.field.note.replace("{}", &self.value.to_string()))
    }
}

/// Returns a warning for each field that is ignored in the spec of an object. An update that leaves the spec alone has
/// none.
pub(crate) fn warnings(
    resource: &ResourceType<'_>,
    new: &Value,
    old: Option<&Value>,
) -> Vec<String> {
    if resource.is_unstructured() || old.is_some_and(|old| old["spec"] == new["spec"]) {
        return Vec::new();
    }
    let found = find(resource.structure(), new, "spec");
    found.iter().filter(|found| !found.field.is_refused).map(Found::text).collect()
}

/// Refuses a new pod with a field that cannot be ignored.
pub(crate) fn review_pod(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let found = refused(review);
    match found.into_iter().next().filter(|_| review.old.is_none()) {
        Some(why) => Err(why),
        None => Ok(Vec::new()),
    }
}

/// Warns of a workload whose pods would be refused.
pub(crate) fn review_workload(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let found = refused(review).into_iter();
    Ok(found.map(|why| format!("pods will be refused: {why}")).collect())
}

fn refused(review: &Attributes<'_>) -> Vec<String> {
    let found = find(review.resource.structure(), review.new, "spec");
    found.iter().filter(|found| found.field.is_refused).map(Found::text).collect()
}

/// Finds the fields below a field of an object's root.
fn find<'a>(structure: &Structure, object: &'a Value, root: &str) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    if let Some(field) = structure.field(root) {
        walk(&field.shape, &object[root], &mut root.to_owned(), "", &mut found);
    }
    found
}

/// Walks a value; `list` is the name of the field that holds it, or the list that it is in.
fn walk<'a>(
    shape: &Shape,
    value: &'a Value,
    path: &mut String,
    list: &str,
    found: &mut Vec<Found<'a>>,
) {
    let length = path.len();
    match (shape, value) {
        (Shape::List(element), Value::Array(values)) => {
            for (at, value) in values.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                walk(element, value, path, list, found);
                path.truncate(length);
            }
        }
        (_, Value::Object(values)) => {
            let Some(structure) = shape.structure() else { return };
            for (name, value) in values {
                let Some(field) = structure.field(name) else { continue };
                path.push('.');
                path.push_str(name);
                match BY_NAME.get(&(structure.short_name(), name.as_str())) {
                    Some(field) if field.applies_in(list) => {
                        if field.is_set(value) {
                            found.push(Found { path: path.clone(), field, value });
                        }
                    }
                    _ => walk(&field.shape, value, path, name, found),
                }
                path.truncate(length);
            }
        }
        _ => {}
    }
}
