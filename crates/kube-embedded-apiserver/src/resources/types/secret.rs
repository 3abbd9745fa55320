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
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    defaults: |secret| {
        default_empty(secret, "type", "Opaque");
        encode_string_data(secret);
    },
    validate,
    warnings: tls_warnings,
    columns: &[
        column("Type", "#/io.k8s.api.core.v1.Secret/type", |secret, _| {
            text(secret, &["type"]).into()
        }),
        column("Data", "#/io.k8s.api.core.v1.Secret/data", |secret, _| {
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

/// Warns of a certificate or key without the PEM that it should have (`tls.X509KeyPair`). That they are a pair is not
/// checked.
fn tls_warnings(secret: &Value, _: Option<&Value>) -> Vec<String> {
    if text(secret, &["type"]) != "kubernetes.io/tls" {
        return Vec::new();
    }
    let blocks = |key: &str| {
        let bytes = secret["data"][key].as_str().unwrap_or_default();
        pem_types(&base64::engine::general_purpose::STANDARD.decode(bytes).unwrap_or_default())
    };
    let is_key = |block: &String| block.ends_with("PRIVATE KEY");
    let (certificate, key) = (blocks("tls.crt"), blocks("tls.key"));
    let warning = if certificate.is_empty() {
        "failed to find any PEM data in certificate input".to_owned()
    } else if !certificate.iter().any(|block| block == "CERTIFICATE") {
        match certificate.as_slice() {
            [one] if is_key(one) => {
                "failed to find certificate PEM data in certificate input, but did find a \
                                     private key; PEM inputs may have been switched"
                    .to_owned()
            }
            all => format!(
                "failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
                 following types: [{}]",
                all.join(" ")
            ),
        }
    } else if key.is_empty() {
        "failed to find any PEM data in key input".to_owned()
    } else if !key.iter().any(is_key) {
        match key.as_slice() {
            [one] if one == "CERTIFICATE" => {
                "found a certificate rather than a key in the PEM for the private key".to_owned()
            }
            all => format!(
                "failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM \
                 blocks of the following types: [{}]",
                all.join(" ")
            ),
        }
    } else {
        return Vec::new();
    };
    vec![format!("tls: {warning}")]
}

/// Returns the types of the PEM blocks of a text.
fn pem_types(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let begun = text
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    begun.filter(|block| text.contains(&format!("-----END {block}-----"))).map(Into::into).collect()
}

/// Stands for `ValidateSecret` and `ValidateSecretUpdate`.
fn validate(secret: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(secret, old, &METADATA);
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

    #[test]
    fn tls_secret_without_pem_is_warned_of() {
        let pem = |block: &str| {
            let text = format!("-----BEGIN {block}-----\nAAAA\n-----END {block}-----\n");
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let (certificate, key) = (pem("CERTIFICATE"), pem("EC PRIVATE KEY"));
        for (given_certificate, given_key, expected) in [
            ("AAAA", "AAAA", Some("tls: failed to find any PEM data in certificate input")),
            (&*certificate, "AAAA", Some("tls: failed to find any PEM data in key input")),
            (
                &certificate,
                &certificate,
                Some("tls: found a certificate rather than a key in the PEM for the private key"),
            ),
            (
                &key,
                &certificate,
                Some(
                    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM \
                     inputs may have been switched",
                ),
            ),
            (&certificate, &key, None),
        ] {
            let data = json!({ "tls.crt": given_certificate, "tls.key": given_key });
            let secret = json!({ "type": "kubernetes.io/tls", "data": data });
            assert_eq!(tls_warnings(&secret, None), Vec::from_iter(expected));
        }
        assert_eq!(tls_warnings(&json!({ "type": "Opaque" }), None), [""; 0]);
    }
}
