//! `podtemplates` (`pkg/registry/core/podtemplate/strategy.go`), which nothing reads, in Kubernetes neither.

use k8s_openapi::api::core::v1::PodTemplate;

use crate::{
    fields::at,
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{column, container_images, container_names, map},
    },
    validation::{names::dns_subdomain, object_meta::metadata, pod_spec, warnings},
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    generation: true,
    defaults: pod_defaults::template_defaults,
    validate: |object, old| {
        let mut errors = metadata(object, old, dns_subdomain);
        errors.extend(pod_spec::validate_template(&object["template"], "template"));
        errors
    },
    warnings: |object, old| match old {
        Some(old) if old["template"] == object["template"] => Vec::new(),
        _ => warnings::of_pod(&object["template"], "template."),
    },
    columns: &[
        column("Containers", "Names of each container in the template.", |object, _| {
            container_names(at(object, &["template", "spec"]))
        }),
        column("Images", "Images referenced by each container in the template.", |object, _| {
            container_images(at(object, &["template", "spec"]))
        }),
        column("Pod Labels", "The labels for the pod template.", |object, _| {
            map(at(object, &["template", "metadata", "labels"]))
        }),
    ],
    ..ResourceType::of::<PodTemplate>("podtemplate", "io.k8s.api.core.v1.PodTemplate")
};
