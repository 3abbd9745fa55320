//! `persistentvolumes` and `persistentvolumeclaims`. Accepted with dry-run only, because nothing binds or provisions them
//! here. They are served so that clients which expect every cluster to list them find none: `kubectl apply --prune` and
//! `kubectl get all` do.

use crate::{
    fields::{at, default, default_empty, existing, list, object, text},
    resources::resource_type::ResourceType,
    validation::{
        field_error::{
            FieldError, forbidden, invalid, invalid_shown, not_supported, required, too_long,
        },
        names::{dns_label, dns_subdomain, label_selector},
        object_meta::{self, Part, Rules, metadata},
        paths::no_backsteps,
        scheduling::node_selector,
        volume::host_path,
    },
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_embedded_core::quantity;
use serde_json::{Value, json};

mod printer;

const METADATA: Rules = Rules { update: &[Part::Whole, Part::Whole], ..Rules::of(dns_subdomain) };
const UNSUPPORTED: Option<&str> = Some("this cluster has no persistent volumes: use an emptyDir");

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["pv"],
    namespaced: false,
    subresources: &["status"],
    unsupported: UNSUPPORTED,
    defaults: |volume| {
        let Some(spec) = object(volume, "spec") else { return };
        default_empty(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        if let Some(path) = existing(spec, "hostPath") {
            default(path, "type", "");
        }
        for (source, kind) in [("rbd", "fsType"), ("azureDisk", "fsType"), ("scaleIO", "fsType")] {
            if let Some(source) = existing(spec, source) {
                default_empty(source, kind, "ext4");
            }
        }
    },
    prepare_create: |volume| {
        volume["status"] =
            json!({ "phase": "Pending", "lastPhaseTransitionTime": crate::timestamps::now() });
        protect(volume, "kubernetes.io/pv-protection");
    },
    validate: validate_volume,
    warnings: |volume, _| {
        match text(volume, &["spec", "persistentVolumeReclaimPolicy"]) {
        "Recycle" => vec![
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        ],
        _ => Vec::new(),
    }
    },
    columns: printer::VOLUME_COLUMNS,
    ..ResourceType::of::<PersistentVolume>(
        "persistentvolume",
        "io.k8s.api.core.v1.PersistentVolume",
    )
};

pub(crate) const CLAIM: ResourceType = ResourceType {
    short_names: &["pvc"],
    subresources: &["status"],
    unsupported: UNSUPPORTED,
    defaults: |claim| {
        let Some(spec) = object(claim, "spec") else { return };
        default(spec, "volumeMode", "Filesystem");
    },
    prepare_create: |claim| {
        match_sources(&mut claim["spec"]);
        claim["status"] = json!({ "phase": "Pending" });
        protect(claim, "kubernetes.io/pvc-protection");
    },
    validate: |claim, old| {
        let mut errors = metadata(claim, old, dns_subdomain);
        errors.extend(claim_spec(&claim["spec"], "spec"));
        errors
    },
    columns: printer::CLAIM_COLUMNS,
    ..ResourceType::of::<PersistentVolumeClaim>(
        "persistentvolumeclaim",
        "io.k8s.api.core.v1.PersistentVolumeClaim",
    )
};

/// Keeps the source of a claim and the field that replaced it equal. The old one has two kinds only, and others are
/// dropped (`EnforceDataSourceBackwardsCompatibility`, `NormalizeDataSources`).
fn match_sources(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    let is_known = |source: &Value| {
        matches!(
            (text(source, &["apiGroup"]), text(source, &["kind"])),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if !spec.contains_key("dataSourceRef")
        && spec.get("dataSource").is_some_and(|source| !is_known(source))
    {
        spec.remove("dataSource");
    }
    // A feature that is not enabled by default.
    if spec.get("dataSourceRef").is_some_and(|source| !text(source, &["namespace"]).is_empty()) {
        spec.remove("dataSourceRef");
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(reference)) => {
            spec.insert("dataSource".to_owned(), reference);
        }
        _ => {}
    }
}

/// Adds the finalizer that keeps an object while it is in use (the admission plugin `StorageObjectInUseProtection`).
fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers = list(object, &["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|known| known == finalizer) {
        finalizers.push(finalizer.into());
        object["metadata"]["finalizers"] = finalizers.into();
    }
}

/// The sources of volumes, in the order in which kube-apiserver looks at them.
const SOURCES: [(&str, &str); 22] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", ""),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

/// Stands for `ValidatePersistentVolume`, but for sources of vendors and for updates: no volume is stored.
fn validate_volume(volume: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &volume["spec"];
    let mut errors = object_meta::validate(volume, old, &METADATA);
    errors.extend(access_modes(spec, "spec", ""));
    errors.extend(capacity(&spec["capacity"]));
    let policy = &spec["persistentVolumeReclaimPolicy"];
    const POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
    if !policy.is_null() && !POLICIES.iter().any(|known| policy == known) {
        errors.push(not_supported("spec.persistentVolumeReclaimPolicy", policy, &POLICIES));
    }
    let affinity = &spec["nodeAffinity"];
    if !affinity.is_null() {
        match &affinity["required"] {
            Value::Null => errors.push(required(
                "spec.nodeAffinity.required",
                "must specify required node constraints",
            )),
            selector => errors.extend(node_selector(selector, "spec.nodeAffinity.required")),
        }
    }
    errors.extend(sources(spec));
    let path = text(spec, &["hostPath", "path"]);
    if policy == "Recycle"
        && path.starts_with('/')
        && path.split('/').all(|p| matches!(p, "" | "."))
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(forbidden("spec.persistentVolumeReclaimPolicy", detail));
    }
    errors.extend(class_name(spec, "storageClassName", "spec"));
    errors.extend(volume_mode(spec, "spec"));
    let class = &spec["volumeAttributesClassName"];
    if !class.is_null() {
        if class == "" {
            let detail = "an empty string is disallowed";
            errors.push(required("spec.volumeAttributesClassName", detail));
        }
        errors.extend(class_name(spec, "volumeAttributesClassName", "spec"));
        if spec["csi"].is_null() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(required("spec.csi", detail));
        }
    }
    errors
}

fn access_modes(spec: &Value, field: &str, missing: &str) -> Vec<FieldError> {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let (modes, field) = (list(spec, &["accessModes"]), format!("{field}.accessModes"));
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(required(&*field, missing));
    }
    let is_known = |mode: &&Value| MODES.iter().any(|known| *mode == known);
    errors.extend(modes.iter().filter(|m| !is_known(m)).map(|m| not_supported(&*field, m, &MODES)));
    let mut known = modes.iter().filter(is_known);
    if modes.iter().any(|mode| mode == "ReadWriteOncePod")
        && known.any(|mode| mode != "ReadWriteOncePod")
    {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(forbidden(&*field, detail));
    }
    errors
}

fn capacity(capacity: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.capacity";
    let amounts = capacity.as_object();
    let mut errors = Vec::new();
    if amounts.is_none_or(serde_json::Map::is_empty) {
        errors.push(required(FIELD, ""));
    }
    if amounts.is_none_or(|amounts| amounts.len() > 1 || !amounts.contains_key("storage")) {
        errors.push(FieldError {
            reason: "FieldValueNotSupported",
            field: FIELD.to_owned(),
            message: format!("Unsupported value: {capacity}: supported values: \"storage\""),
        });
    }
    for (name, amount) in amounts.into_iter().flatten() {
        let field = format!("{FIELD}[{name}]");
        let value = billionths(amount);
        if value < 0 {
            let shown = (value / 1_000_000_000).to_string();
            errors.push(invalid_shown(&*field, &shown, "must be a valid resource quantity"));
        }
        errors.extend(positive(value, amount, &field));
    }
    errors
}

fn positive(value: i128, amount: &Value, field: &str) -> Option<FieldError> {
    (value <= 0).then(|| invalid(field, amount, "must be greater than zero"))
}

fn billionths(amount: &Value) -> i128 {
    let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
    quantity::parse(&text).unwrap_or_default()
}

/// Validates that a volume has one source, and this source.
fn sources(spec: &Value) -> Vec<FieldError> {
    let (mut errors, mut count) = (Vec::new(), 0);
    for (source, shown) in SOURCES {
        if spec[source].is_null() {
            continue;
        }
        if count > 0 && !shown.is_empty() {
            let detail = "may not specify more than 1 volume type";
            errors.push(forbidden(format!("spec.{shown}"), detail));
            continue;
        }
        count += 1;
        errors.extend(validate_source(source, &spec[source]));
        if source == "local" && spec["nodeAffinity"].is_null() {
            errors.push(required("spec.nodeAffinity", "Local volume requires node affinity"));
        }
    }
    if count == 0 {
        errors.push(required("spec", "must specify a volume type"));
    }
    errors
}

fn validate_source(kind: &str, source: &Value) -> Vec<FieldError> {
    let field = |name: &str| format!("spec.{kind}.{name}");
    let missing = |name: &str| text(source, &[name]).is_empty().then(|| required(field(name), ""));
    match kind {
        "hostPath" => host_path(source, "spec.hostPath"),
        "local" => match missing("path") {
            Some(error) => vec![error],
            None => no_backsteps(&source["path"], &field("path")).into_iter().collect(),
        },
        "nfs" => {
            let mut errors: Vec<_> = missing("server").into_iter().chain(missing("path")).collect();
            if !text(source, &["path"]).starts_with('/') {
                let detail = "must be an absolute path";
                errors.push(invalid(field("path"), &source["path"], detail));
            }
            errors
        }
        "csi" => {
            let mut errors = csi_driver(text(source, &["driver"]), &field("driver"));
            errors.extend(missing("volumeHandle"));
            for name in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                if !source[name].is_null() {
                    errors.extend(secret(&source[name], &field(name)));
                }
            }
            errors
        }
        _ => Vec::new(),
    }
}

fn csi_driver(name: &str, field: &str) -> Vec<FieldError> {
    const MAX: usize = 63;
    if name.is_empty() {
        return vec![required(field, "")];
    }
    let mut errors = Vec::new();
    if name.len() > MAX {
        errors.push(too_long(field, MAX));
    }
    let details = dns_subdomain(&name.to_lowercase());
    errors.extend(details.iter().map(|detail| invalid(field, &name.into(), detail)));
    errors
}

fn secret(reference: &Value, field: &str) -> Vec<FieldError> {
    let rules: [(&str, fn(&str) -> Vec<String>); 2] =
        [("name", dns_subdomain), ("namespace", dns_label)];
    let errors = rules.into_iter().flat_map(|(name, rule)| {
        let (value, field) = (text(reference, &[name]), format!("{field}.{name}"));
        if value.is_empty() {
            return vec![required(field, "")];
        }
        rule(value).iter().map(|detail| invalid(&*field, &value.into(), detail)).collect()
    });
    errors.collect()
}

fn class_name(spec: &Value, name: &str, field: &str) -> Vec<FieldError> {
    let class = text(spec, &[name]);
    if class.is_empty() {
        return Vec::new();
    }
    let details = dns_subdomain(class);
    details.iter().map(|d| invalid(format!("{field}.{name}"), &class.into(), d)).collect()
}

fn volume_mode(spec: &Value, field: &str) -> Option<FieldError> {
    const MODES: [&str; 2] = ["Block", "Filesystem"];
    let mode = &spec["volumeMode"];
    (!mode.is_null() && !MODES.iter().any(|known| mode == known))
        .then(|| not_supported(format!("{field}.volumeMode"), mode, &MODES))
}

/// Stands for `ValidatePersistentVolumeClaimSpec`.
fn claim_spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut modes = access_modes(spec, field, "at least 1 access mode is required").into_iter();
    if list(spec, &["accessModes"]).is_empty() {
        errors.extend(modes.next());
    }
    if !spec["selector"].is_null() {
        errors.extend(label_selector(&spec["selector"], &format!("{field}.selector")));
    }
    errors.extend(modes);
    let (storage, at_storage) =
        (at(spec, &["resources", "requests", "storage"]), format!("{field}.resources[storage]"));
    if storage.is_null() {
        errors.push(required(&*at_storage, ""));
    } else {
        errors.extend(positive(billionths(storage), storage, &at_storage));
    }
    errors.extend(class_name(spec, "storageClassName", field));
    errors.extend(volume_mode(spec, field));
    for name in ["dataSource", "dataSourceRef"] {
        if !spec[name].is_null() {
            errors.extend(data_source(&spec[name], &format!("{field}.{name}")));
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if !source.is_null() && !reference.is_null() {
        let same = ["apiGroup", "kind", "name"].iter().all(|name| source[name] == reference[name]);
        let detail = match text(reference, &["namespace"]) {
            "" if same => "",
            "" => "must match dataSourceRef",
            _ => "may not be specified when dataSourceRef.namespace is specified",
        };
        if !detail.is_empty() {
            errors.push(invalid_shown(field, "{}", detail));
        }
    }
    errors.extend(class_name(spec, "volumeAttributesClassName", field));
    errors
}

fn data_source(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["name", "kind"] {
        if text(source, &[name]).is_empty() {
            errors.push(required(format!("{field}.{name}"), ""));
        }
    }
    let group = text(source, &["apiGroup"]);
    if group.is_empty() && text(source, &["kind"]) != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(invalid(field, &source["kind"], detail));
    }
    let rules: [(&str, fn(&str) -> Vec<String>); 2] =
        [("apiGroup", dns_subdomain), ("namespace", dns_label)];
    for (name, rule) in rules {
        let value = text(source, &[name]);
        if !value.is_empty() {
            let details = rule(value);
            let invalid = |d: &String| invalid(format!("{field}.{name}"), &value.into(), d);
            errors.extend(details.iter().map(invalid));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(resource: &ResourceType, spec: Value) -> Vec<String> {
        let mut object = json!({ "metadata": { "name": "v", "namespace": "d" }, "spec": spec });
        if !resource.namespaced {
            object["metadata"] = json!({ "name": "v" });
        }
        (resource.defaults)(&mut object);
        let errors = (resource.validate)(&object, None).into_iter();
        errors.map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn volume_has_one_source() {
        let of = |source: Value| {
            let mut spec =
                json!({ "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"] });
            spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            messages(&RESOURCE, spec)
        };
        for (source, expected) in [
            (json!({ "hostPath": { "path": "/x" } }), &[][..]),
            (json!({}), &["spec: Required value: must specify a volume type"]),
            (
                json!({ "hostPath": { "path": "/x" }, "csi": { "driver": "a", "volumeHandle": "h" } }),
                &["spec.csi: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                json!({ "local": { "path": "/x" } }),
                &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
            ),
            (
                json!({ "nfs": { "server": "s", "path": "x" } }),
                &["spec.nfs.path: Invalid value: \"x\": must be an absolute path"],
            ),
            (
                json!({ "hostPath": { "path": "/" }, "persistentVolumeReclaimPolicy": "Recycle" }),
                &[
                    "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount \
                     of '/'",
                ],
            ),
            (
                json!({ "hostPath": { "path": "/x" }, "capacity": null, "accessModes": ["x"] }),
                &[
                    "spec.accessModes: Unsupported value: \"x\": supported values: \"ReadOnlyMany\", \
                     \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                ],
            ),
        ] {
            assert_eq!(of(source.clone()), expected, "{source}");
        }
    }

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn claim_requests_storage_in_modes_that_fit() {
        let storage = json!({ "requests": { "storage": "1Gi" } });
        for (spec, expected) in [
            (json!({ "accessModes": ["ReadWriteOnce"], "resources": storage }), &[][..]),
            (
                json!({}),
                &[
                    "spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.resources[storage]: Required value",
                ],
            ),
            (
                json!({ "accessModes": ["ReadWriteOncePod", "ReadOnlyMany"], "resources": storage }),
                &[
                    "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                json!({
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "0" } },
                    "volumeMode": "x",
                }),
                &[
                    "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
                    "spec.volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\"",
                ],
            ),
        ] {
            assert_eq!(messages(&CLAIM, spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn sources_of_a_claim_are_kept_equal() {
        let claim = json!({ "kind": "PersistentVolumeClaim", "name": "x" });
        let other = json!({ "apiGroup": "a.b", "kind": "K", "name": "x" });
        for (spec, expected) in [
            (
                json!({ "dataSource": claim }),
                json!({ "dataSource": claim, "dataSourceRef": claim }),
            ),
            (
                json!({ "dataSourceRef": other }),
                json!({ "dataSource": other, "dataSourceRef": other }),
            ),
            (json!({ "dataSource": other }), json!({})),
        ] {
            let mut found = spec;
            match_sources(&mut found);
            assert_eq!(found, expected);
        }
    }
}
