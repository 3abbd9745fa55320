//! Conditions in the status of a CustomResourceDefinition (`pkg/apis/apiextensions/helpers.go` of
//! the apiextensions API server).

use crate::{fields::copy_field, timestamps};
use serde_json::{Value, json};

/// Returns the status of a condition: `True`, `False` or `Unknown`.
pub(crate) fn condition<'a>(definition: &'a Value, name: &str) -> Option<&'a str> {
    let conditions = definition["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == name)?["status"].as_str()
}

/// Sets a condition, and the time of its last transition only if its status changes.
pub(crate) fn set_condition(
    definition: &mut Value,
    name: &str,
    status: &str,
    reason: &str,
    message: &str,
) {
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let mut new = json!({
        "type": name,
        "status": status,
        "lastTransitionTime": timestamps::now(),
        "reason": reason,
        "message": message,
    });
    match conditions.iter_mut().find(|condition| condition["type"] == name) {
        Some(old) => {
            if old["status"] == new["status"] {
                copy_field(&mut new, old, "lastTransitionTime");
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}
