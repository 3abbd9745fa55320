//! `secrets`. Kept in memory like all objects, so there is nothing to encrypt at rest.

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::{
    fields::{default_empty, object, remove, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
        types::config_map::{count_keys, validate_immutable, validate_keys},
    },
    validation::{
        field_error::{FieldError, changed, required},
        names::dns_subdomain,
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    defaults: |secret| {
        default_empty(secret, "type", "Opaque");
        encode_string_data(secret);
    },
    validate,
    columns: &[
        column("Type", "Used to facilitate programmatic handling of secret data.", |secret, _| {
            text(secret, &["type"]).into()
        }),
        column("Data", "Data contains the secret data.", |secret, _| {
            count_keys(secret, &["data"]).into()
        }),
        AGE,
    ],
    selectable: &["type"],
    ..ResourceType::of::<Secret>("secret", "io.k8s.api.core.v1.Secret")
};

/// Moves the write-only field `stringData` to `data`, where it takes precedence.
fn encode_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = remove(secret, "stringData") else { return };
    if plain.is_empty() {
        return;
    }
    if let Some(data) = object(secret, "data") {
        for (key, value) in plain {
            let bytes = value.as_str().unwrap_or_default();
            data[key] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
        }
    }
}

/// Stands for `ValidateSecret` and `ValidateSecretUpdate`.
fn validate(secret: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(secret, old, dns_subdomain);
    errors.extend(validate_keys(secret, "data"));
    // Types that clients define themselves have no required keys.
    let needed: &[&str] = match text(secret, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if secret["data"].get(*key).is_none() {
            errors.push(required(format!("data[{key}]"), ""));
        }
    }
    match text(secret, &["type"]) {
        // One of the two is enough.
        "kubernetes.io/basic-auth" => {
            let keys = ["username", "password"];
            if keys.iter().all(|key| secret["data"].get(*key).is_none()) {
                errors.extend(keys.iter().map(|key| required(format!("data[{key}]"), "")));
            }
        }
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if text(secret, &["metadata", "annotations", ACCOUNT]).is_empty() {
                errors.push(required(format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
        _ => {}
    }
    if let Some(old) = old {
        errors.extend(changed(secret, old, "type"));
        errors.extend(validate_immutable(secret, old, &["data"]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_is_moved_to_data() {
        let mut secret = json!({ "data": { "a": "YQ==" }, "stringData": { "b": "b" } });
        (RESOURCE.defaults)(&mut secret);
        assert_eq!(secret, json!({ "type": "Opaque", "data": { "a": "YQ==", "b": "Yg==" } }));
    }
}
