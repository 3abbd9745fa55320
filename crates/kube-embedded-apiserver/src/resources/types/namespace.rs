//! `namespaces`. A namespace that is being deleted stays until the namespace controller has deleted
//! its contents and removed the finalizer `kubernetes` from `spec.finalizers`.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::{
    admission::pod_security,
    fields::{default, list, object, text},
    resources::{
        deletion::Deletion,
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        names::dns_label,
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Whole, Part::Changes],
    ..Rules::of(dns_label)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ns"],
    namespaced: false,
    subresources: &["status", "finalize"],
    defaults: |namespace| {
        // By which selectors find a namespace of a name. Clients cannot change it.
        let name = text(namespace, &["metadata", "name"]).to_owned();
        if !name.is_empty()
            && let Some(labels) =
                object(namespace, "metadata").and_then(|metadata| object(metadata, "labels"))
        {
            labels["kubernetes.io/metadata.name"] = name.into();
        }
    },
    prepare_create: |namespace| {
        namespace["status"] = json!({ "phase": "Active" });
        if let Some(spec) = object(namespace, "spec") {
            spec["finalizers"] = json!(["kubernetes"]);
        }
    },
    prepare_update: |namespace, old| {
        // Only the subresource `finalize` changes them.
        if let Some(spec) = object(namespace, "spec") {
            let kept: &Value = &old["spec"]["finalizers"];
            if !kept.is_null() {
                spec["finalizers"] = kept.clone();
            }
        }
        if let Some(status) = object(namespace, "status") {
            default(status, "phase", "Active");
        }
    },
    validate: |namespace, old| {
        let mut errors = object_meta::validate(namespace, old, &METADATA);
        errors.extend(pod_security::validate_labels(namespace, old));
        errors
    },
    reviews: &[pod_security::review_namespace],
    columns: &[
        column("Status", "The status of the namespace", |namespace, _| {
            text(namespace, &["status", "phase"]).into()
        }),
        AGE,
    ],
    deletion: &Deletion {
        grace_period: |_, _| None,
        protected: Some((
            &["default", "kube-system", "kube-public"],
            "this namespace may not be deleted",
        )),
        begin: |namespace| namespace["status"]["phase"] = "Terminating".into(),
        is_held: |namespace| !list(namespace, &["spec", "finalizers"]).is_empty(),
        ..Deletion::IMMEDIATE
    },
    selectable: &["status.phase"],
    ..ResourceType::of::<Namespace>("namespace", "io.k8s.api.core.v1.Namespace")
};
