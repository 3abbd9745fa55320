//! The columns of volumes and their claims.

use crate::{
    fields::{list, text},
    resources::table_columns::{AGE, Column, NAME, column, wide},
};
use serde_json::Value;

pub(super) const VOLUME_COLUMNS: &[Column] = &[
    NAME,
    column("Capacity", "#/io.k8s.api.core.v1.PersistentVolumeSpec/capacity", |volume, _| {
        text(volume, &["spec", "capacity", "storage"]).into()
    }),
    column("Access Modes", "#/io.k8s.api.core.v1.PersistentVolumeSpec/accessModes", |volume, _| {
        shown_modes(volume, "spec")
    }),
    column(
        "Reclaim Policy",
        "#/io.k8s.api.core.v1.PersistentVolumeSpec/persistentVolumeReclaimPolicy",
        |volume, _| text(volume, &["spec", "persistentVolumeReclaimPolicy"]).into(),
    ),
    column("Status", "#/io.k8s.api.core.v1.PersistentVolumeStatus/phase", |volume, _| {
        text(volume, &["status", "phase"]).into()
    }),
    column(
        "Claim",
        "#/io.k8s.api.core.v1.PersistentVolumeSpec/claimRef",
        |volume, _| match &volume["spec"]["claimRef"] {
            Value::Null => "".into(),
            claim => format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])).into(),
        },
    ),
    column("StorageClass", "StorageClass of the pv", |volume, _| {
        text(volume, &["spec", "storageClassName"]).into()
    }),
    column("VolumeAttributesClass", "VolumeAttributesClass of the pv", shown_attributes),
    column("Reason", "#/io.k8s.api.core.v1.PersistentVolumeStatus/reason", |volume, _| {
        text(volume, &["status", "reason"]).into()
    }),
    AGE,
    wide("VolumeMode", "#/io.k8s.api.core.v1.PersistentVolumeSpec/volumeMode", |volume, _| {
        text(volume, &["spec", "volumeMode"]).into()
    }),
];

pub(super) const CLAIM_COLUMNS: &[Column] = &[
    NAME,
    column("Status", "#/io.k8s.api.core.v1.PersistentVolumeClaimStatus/phase", |claim, _| {
        text(claim, &["status", "phase"]).into()
    }),
    column("Volume", "#/io.k8s.api.core.v1.PersistentVolumeClaimSpec/volumeName", |claim, _| {
        text(claim, &["spec", "volumeName"]).into()
    }),
    column("Capacity", "#/io.k8s.api.core.v1.PersistentVolumeClaimStatus/capacity", |claim, _| {
        match text(claim, &["spec", "volumeName"]) {
            "" => "".into(),
            _ => text(claim, &["status", "capacity", "storage"]).into(),
        }
    }),
    column(
        "Access Modes",
        "#/io.k8s.api.core.v1.PersistentVolumeClaimStatus/accessModes",
        |claim, _| match text(claim, &["spec", "volumeName"]) {
            "" => "".into(),
            _ => shown_modes(claim, "status"),
        },
    ),
    column("StorageClass", "StorageClass of the pvc", |claim, _| {
        text(claim, &["spec", "storageClassName"]).into()
    }),
    column("VolumeAttributesClass", "VolumeAttributesClass of the pvc", shown_attributes),
    AGE,
    wide("VolumeMode", "#/io.k8s.api.core.v1.PersistentVolumeClaimSpec/volumeMode", |claim, _| {
        text(claim, &["spec", "volumeMode"]).into()
    }),
];

fn shown_attributes(object: &Value, _: jiff::Timestamp) -> Value {
    match text(object, &["spec", "volumeAttributesClassName"]) {
        "" => "<unset>".into(),
        class => class.into(),
    }
}

/// `RWO,ROX`.
fn shown_modes(object: &Value, part: &str) -> Value {
    let modes = list(object, &[part, "accessModes"]);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown = short.iter().filter(|(mode, _)| modes.iter().any(|known| known == mode));
    shown.map(|(_, short)| *short).collect::<Vec<_>>().join(",").into()
}
