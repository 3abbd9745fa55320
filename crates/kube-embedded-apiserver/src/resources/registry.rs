//! Every kind that a cluster serves at a moment: those of the table, and the custom resources that
//! its CustomResourceDefinitions define. A request holds on to one such moment.

use crate::resources::{
    crd::CustomResource,
    resource_type::ResourceType,
    types::{
        config_map, custom_resource_definition, deployment, endpoint_slice, endpoints, event,
        horizontal_pod_autoscaler, ingress, ingress_class, job, lease, namespace, node, pod, quota,
        replica_set, secret, service, service_account,
    },
};
use crate::schema::tree;
use std::sync::Arc;

/// Every kind served, in the order that discovery lists groups.
static ALL: &[&ResourceType<'static>] = &[
    &namespace::RESOURCE,
    &node::RESOURCE,
    &pod::RESOURCE,
    &service::RESOURCE,
    &endpoints::RESOURCE,
    &event::RESOURCE,
    &config_map::RESOURCE,
    &secret::RESOURCE,
    &service_account::RESOURCE,
    &quota::RESOURCE_QUOTA,
    &quota::LIMIT_RANGE,
    &deployment::RESOURCE,
    &replica_set::RESOURCE,
    &endpoint_slice::RESOURCE,
    &event::EVENTS_RESOURCE,
    &horizontal_pod_autoscaler::RESOURCE,
    &horizontal_pod_autoscaler::RESOURCE_V1,
    &job::RESOURCE,
    &ingress_class::RESOURCE,
    &ingress::RESOURCE,
    &lease::RESOURCE,
    &custom_resource_definition::RESOURCE,
];

/// Every kind of the table, core group first. What a cluster serves besides, [`ResourceRegistry`] knows.
pub fn all() -> &'static [&'static ResourceType<'static>] {
    ALL
}

/// Builds the schemas of all built-in types at once. For a background thread at start-up, so that no request has to wait.
pub fn build_schemas() {
    tree::build(ALL.iter().map(|resource| resource.define));
}

/// The kind behind a path, `("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static ResourceType<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of an object, `("apps", "v1", "Deployment")`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceType<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// See the module. Without custom resources by default.
#[derive(Debug, Default)]
pub struct ResourceRegistry {
    crds: Vec<Arc<CustomResource>>,
}

impl ResourceRegistry {
    pub(crate) fn new(crds: Vec<Arc<CustomResource>>) -> Self {
        Self { crds }
    }

    /// Every kind, those of the table first.
    pub fn resources(&self) -> impl Iterator<Item = ResourceType<'_>> {
        all().iter().map(|resource| **resource).chain(self.custom_resources())
    }

    /// The custom resources.
    pub fn custom_resources(&self) -> impl Iterator<Item = ResourceType<'_>> {
        self.crds.iter().map(ResourceType::custom)
    }

    /// The kind behind a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<ResourceType<'_>> {
        let fits = |resource: &ResourceType<'_>| {
            resource.group == group && resource.version == version && resource.plural == plural
        };
        let fixed: Option<&ResourceType<'_>> = find(group, version, plural);
        fixed.copied().or_else(|| self.custom_resources().find(fits))
    }

    /// The kind of an object.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<ResourceType<'_>> {
        let fits = |found: &ResourceType<'_>| {
            (found.group, found.version, found.kind) == (group, version, kind)
        };
        let fixed: Option<&ResourceType<'_>> = find_kind(group, version, kind);
        fixed.copied().or_else(|| self.custom_resources().find(fits))
    }

    /// Whether there is a group.
    pub fn has_group(&self, group: &str) -> bool {
        all().iter().any(|resource| resource.group == group)
            || self.crds.iter().any(|crd| crd.group == group)
    }

    /// Whether a group has a version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        all().iter().any(|resource| (resource.group, resource.version) == (group, version))
            || self.crds.iter().any(|c| c.group == group && c.version == version)
    }

    /// Something to keep a kind by for longer than a request.
    pub fn owned(resource: &ResourceType<'_>) -> OwnedResourceType {
        match resource.crd {
            Some(crd) => OwnedResourceType::CustomResource(crd.clone()),
            None => match find(resource.group, resource.version, resource.plural) {
                Some(resource) => OwnedResourceType::Fixed(resource),
                None => OwnedResourceType::Fixed(&namespace::RESOURCE),
            },
        }
    }
}

/// A kind that is kept.
#[derive(Clone, Debug)]
pub enum OwnedResourceType {
    /// Of the table.
    Fixed(&'static ResourceType<'static>),
    /// A custom resource.
    CustomResource(Arc<CustomResource>),
}

impl OwnedResourceType {
    /// The kind.
    pub fn get(&self) -> ResourceType<'_> {
        match self {
            Self::Fixed(resource) => **resource,
            Self::CustomResource(crd) => ResourceType::custom(crd),
        }
    }
}
