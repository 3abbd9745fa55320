//! Fields of an applied object that its schema does not declare (`typed.ParseableType.FromUnstructured`).

use crate::{
    patch::{
        field_set::show_step,
        parts::{Parts, key_step, parts, parts_of},
    },
    resources::resource_type::ResourceType,
};
use serde_json::Value;

/// Returns their paths: `.spec.containers[name="c"].imagee`.
pub(crate) fn undeclared(resource: &ResourceType, applied: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(&Parts::Struct(resource.structure()), applied, &mut String::new(), &mut found);
    found
}

fn walk(parts_here: &Parts<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (parts_here, value) {
        (Parts::Struct(structure), Value::Object(object)) => {
            for (name, value) in object {
                path.push('.');
                path.push_str(name);
                match structure.field(name) {
                    Some(field) => {
                        // A structure or list that is owned as a whole has declared fields, too.
                        let below = match parts_of(field) {
                            Parts::Leaf => parts(&field.shape, None),
                            parts => parts,
                        };
                        walk(&below, value, path, found);
                    }
                    None => found.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        (Parts::Map(element), Value::Object(object)) => {
            for (name, value) in object {
                path.push('.');
                path.push_str(name);
                walk(&parts(element, None), value, path, found);
                path.truncate(length);
            }
        }
        (Parts::Keyed(element, keys), Value::Array(items)) => {
            for item in items {
                path.push_str(&show_step(&key_step(item, *keys)));
                walk(&parts(element, None), item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}
