//! Validation of a pod's volumes (`ValidateVolumes` in `pkg/apis/core/validation`).

use crate::{
    fields::{list, text},
    validation::{
        downward,
        field_error::{FieldError, forbidden, invalid, not_supported, required},
        names::check_name,
        paths::{descending_path, file_mode, no_backsteps, non_reserved_path},
    },
};
use serde_json::Value;
use std::collections::HashSet;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Adds the errors of the volumes at `field`, and returns the names of those without any, which containers may mount.
pub(super) fn validate<'a>(
    volumes: &'a [Value],
    field: &str,
    errors: &mut Vec<FieldError>,
) -> HashSet<&'a str> {
    let (mut seen, mut valid) = (HashSet::new(), HashSet::new());
    for (at, volume) in volumes.iter().enumerate() {
        let (field, before) = (format!("{field}[{at}]"), errors.len());
        errors.extend(source(volume, &field));
        let name = text(volume, &["name"]);
        check_name(name, &volume["name"], &format!("{field}.name"), &mut seen, errors);
        if errors.len() == before {
            valid.insert(name);
        }
    }
    valid
}

/// Validates the source of a volume, of which there is one: all fields but the name are sources.
fn source(volume: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let sources = volume.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    for (at, (name, source)) in sources.enumerate() {
        let field = format!("{field}.{name}");
        if at > 0 {
            errors.push(forbidden(field, "may not specify more than 1 volume type"));
            continue;
        }
        match name.as_str() {
            "emptyDir" if text(source, &["sizeLimit"]).starts_with('-') => errors.push(forbidden(
                format!("{field}.sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            )),
            "hostPath" => errors.extend(host_path(source, &field)),
            "secret" => errors.extend(keys(source, "secretName", &field)),
            "configMap" => errors.extend(keys(source, "name", &field)),
            "downwardAPI" => {
                errors.extend(file_mode(&source["defaultMode"], format!("{field}.defaultMode")));
                errors.extend(downward_items(source, &field));
            }
            "projected" => errors.extend(projected(source, &field)),
            "persistentVolumeClaim" if text(source, &["claimName"]).is_empty() => {
                errors.push(required(format!("{field}.claimName"), ""));
            }
            "nfs" => errors.extend(nfs(source, &field)),
            "csi" if text(source, &["driver"]).is_empty() => {
                errors.push(required(format!("{field}.driver"), ""));
            }
            _ => {}
        }
    }
    errors
}

pub(crate) fn host_path(source: &Value, field: &str) -> Vec<FieldError> {
    let path = text(source, &["path"]);
    if path.is_empty() {
        return vec![required(format!("{field}.path"), "")];
    }
    let mut errors: Vec<_> =
        no_backsteps(&source["path"], &format!("{field}.path")).into_iter().collect();
    if !HOST_PATH_TYPES.contains(&text(source, &["type"])) {
        let field = format!("{field}.type");
        errors.push(not_supported(field, &source["type"], &HOST_PATH_TYPES));
    }
    errors
}

fn nfs(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(source, &["server"]).is_empty() {
        errors.push(required(format!("{field}.server"), ""));
    }
    match text(source, &["path"]) {
        "" => errors.push(required(format!("{field}.path"), "")),
        path if !path.starts_with('/') => {
            errors.push(invalid(
                format!("{field}.path"),
                &source["path"],
                "must be an absolute path",
            ));
        }
        _ => {}
    }
    errors
}

/// Validates a Secret or ConfigMap with the keys of it that become files.
fn keys(source: &Value, name: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(source, &[name]).is_empty() {
        errors.push(required(format!("{field}.{name}"), ""));
    }
    errors.extend(file_mode(&source["defaultMode"], format!("{field}.defaultMode")));
    errors.extend(items(source, field));
    errors
}

/// Stands for `validateKeyToPath`.
fn items(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, item) in list(source, &["items"]).iter().enumerate() {
        let field = format!("{field}.items[{at}]");
        if text(item, &["key"]).is_empty() {
            errors.push(required(format!("{field}.key"), ""));
        }
        if text(item, &["path"]).is_empty() {
            errors.push(required(format!("{field}.path"), ""));
        }
        errors.extend(non_reserved_path(&item["path"], &format!("{field}.path")));
        errors.extend(file_mode(&item["mode"], format!("{field}.mode")));
    }
    errors
}

/// Stands for `validateDownwardAPIVolumeFile`, the paths of which have no index in Kubernetes.
fn downward_items(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for item in list(source, &["items"]) {
        if text(item, &["path"]).is_empty() {
            errors.push(required(format!("{field}.path"), ""));
        }
        errors.extend(non_reserved_path(&item["path"], &format!("{field}.path")));
        let (of_field, of_resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
        if !of_field.is_null() {
            let at = format!("{field}.fieldRef");
            errors.extend(downward::field_ref(of_field, &downward::VOLUME_FIELDS, &at));
            if !of_resource.is_null() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(invalid(field, &"resource".into(), detail));
            }
        } else if !of_resource.is_null() {
            let at = format!("{field}.resourceFieldRef");
            if text(of_resource, &["containerName"]).is_empty() {
                errors.push(required(format!("{at}.containerName"), ""));
            }
            errors.extend(downward::resource_field_ref(of_resource, &at));
        } else {
            errors.push(required(field, "one of fieldRef and resourceFieldRef is required"));
        }
        errors.extend(file_mode(&item["mode"], format!("{field}.mode")));
    }
    errors
}

/// Stands for `validateProjectionSources`.
fn projected(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors: Vec<_> =
        file_mode(&source["defaultMode"], format!("{field}.defaultMode")).into_iter().collect();
    let mut paths = HashSet::new();
    for (at, projection) in list(source, &["sources"]).iter().enumerate() {
        let at = format!("{field}.sources[{at}]");
        let sources: Vec<&str> =
            projection.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        if sources.len() > 1 {
            errors.push(forbidden(&*at, "may not specify more than 1 volume type per source"));
        }
        for name in sources {
            let (given, at) = (&projection[name], format!("{at}.{name}"));
            match name {
                "secret" | "configMap" => errors.extend(keys(given, "name", &at)),
                "downwardAPI" => errors.extend(downward_items(given, &at)),
                "serviceAccountToken" => errors.extend(token(given, &at)),
                _ => {}
            }
            let items = list(given, &["items"]).iter().map(|item| text(item, &["path"]));
            let named = items.chain(std::iter::once(text(given, &["path"])));
            for _ in named.filter(|path| !path.is_empty() && !paths.insert(*path)) {
                errors.push(invalid(field, &given["name"], "conflicting duplicate paths"));
            }
        }
    }
    errors
}

fn token(source: &Value, field: &str) -> Vec<FieldError> {
    const MIN_SECONDS: i64 = 10 * 60;
    const MAX_SECONDS: i64 = 1 << 32;
    let (mut errors, seconds) = (Vec::new(), &source["expirationSeconds"]);
    let detail = match seconds.as_i64() {
        Some(given) if given < MIN_SECONDS => "may not specify a duration less than 10 minutes",
        Some(given) if given > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !detail.is_empty() {
        errors.push(invalid(format!("{field}.expirationSeconds"), seconds, detail));
    }
    match text(source, &["path"]) {
        "" => errors.push(required(format!("{field}.path"), "")),
        _ => errors.extend(descending_path(&source["path"], &format!("{field}.path"))),
    }
    errors
}
