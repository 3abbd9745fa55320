//! Types that this cluster does not act upon, and refuses except with dry-run. They are served so
//! that clients which expect every cluster to list them find none: `kubectl apply --prune` and
//! `kubectl get all` do.

use crate::{
    resources::resource_type::ResourceType,
    validation::{names::dns_subdomain, object_meta::metadata},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

pub(crate) const PERSISTENT_VOLUME: ResourceType = ResourceType {
    short_names: &["pv"],
    unsupported: Some("this cluster has no persistent volumes: use an emptyDir"),
    validate: |object, old| metadata(object, old, dns_subdomain),
    ..ResourceType::of::<PersistentVolume>(
        "persistentvolume",
        "io.k8s.api.core.v1.PersistentVolume",
    )
};

pub(crate) const PERSISTENT_VOLUME_CLAIM: ResourceType = ResourceType {
    short_names: &["pvc"],
    unsupported: Some("this cluster has no persistent volumes: use an emptyDir"),
    validate: |object, old| metadata(object, old, dns_subdomain),
    ..ResourceType::of::<PersistentVolumeClaim>(
        "persistentvolumeclaim",
        "io.k8s.api.core.v1.PersistentVolumeClaim",
    )
};
