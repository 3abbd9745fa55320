//! The registry of resource types: the built-in ones, and a snapshot of the custom resources that are served.

use crate::resources::{
    crd::CustomResource,
    resource_type::ResourceType,
    types::{
        config_map, cron_job, custom_resource_definition, daemon_set, deployment, endpoint_slice,
        endpoints, event, horizontal_pod_autoscaler, ingress, ingress_class, job, lease,
        limit_range, namespace, node, persistent_volume, pod, pod_template, quota, replica_set,
        replication_controller, role, role_binding, secret, service, service_account, stateful_set,
        validating_admission_policy, validating_admission_policy_binding,
    },
};
use crate::schema::tree;
use std::sync::Arc;

/// The built-in types, in the order in which discovery lists groups.
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
    &limit_range::RESOURCE,
    &replication_controller::RESOURCE,
    &pod_template::RESOURCE,
    &persistent_volume::RESOURCE,
    &persistent_volume::CLAIM,
    &deployment::RESOURCE,
    &replica_set::RESOURCE,
    &stateful_set::RESOURCE,
    &daemon_set::RESOURCE,
    &endpoint_slice::RESOURCE,
    &event::EVENTS_RESOURCE,
    &horizontal_pod_autoscaler::RESOURCE,
    &horizontal_pod_autoscaler::RESOURCE_V1,
    &job::RESOURCE,
    &cron_job::RESOURCE,
    &ingress_class::RESOURCE,
    &ingress::RESOURCE,
    &role_binding::CLUSTER_RESOURCE,
    &role::CLUSTER_RESOURCE,
    &role_binding::RESOURCE,
    &role::RESOURCE,
    &validating_admission_policy::RESOURCE,
    &validating_admission_policy_binding::RESOURCE,
    &lease::RESOURCE,
    &custom_resource_definition::RESOURCE,
];

/// Returns the built-in types, core group first.
pub fn all() -> &'static [&'static ResourceType<'static>] {
    ALL
}

/// Builds the schemas of all built-in types at once, on a background thread at start-up, so that no
/// request has to wait.
pub fn build_schemas() {
    tree::build(ALL.iter().map(|resource| resource.define));
}

/// Finds the built-in type of a path, `("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static ResourceType<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// Finds the built-in type of an object, `("apps", "v1", "Deployment")`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceType<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// See the module. The default has no custom resources.
#[derive(Debug, Default)]
pub struct ResourceRegistry {
    crds: Vec<Arc<CustomResource>>,
}

impl ResourceRegistry {
    pub(crate) fn new(crds: Vec<Arc<CustomResource>>) -> Self {
        Self { crds }
    }

    /// Returns every type, the built-in ones first.
    pub fn resources(&self) -> impl Iterator<Item = ResourceType<'_>> {
        all().iter().map(|resource| **resource).chain(self.custom_resources())
    }

    /// Returns the custom resources.
    pub fn custom_resources(&self) -> impl Iterator<Item = ResourceType<'_>> {
        self.crds.iter().map(ResourceType::custom)
    }

    /// Finds the type of a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<ResourceType<'_>> {
        let fits = |resource: &ResourceType<'_>| {
            resource.group == group && resource.version == version && resource.plural == plural
        };
        let built_in: Option<&ResourceType<'_>> = find(group, version, plural);
        built_in.copied().or_else(|| self.custom_resources().find(fits))
    }

    /// Finds the type of an object.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<ResourceType<'_>> {
        let fits = |found: &ResourceType<'_>| {
            (found.group, found.version, found.kind) == (group, version, kind)
        };
        let built_in: Option<&ResourceType<'_>> = find_kind(group, version, kind);
        built_in.copied().or_else(|| self.custom_resources().find(fits))
    }

    /// Returns true if a group is served.
    pub fn has_group(&self, group: &str) -> bool {
        all().iter().any(|resource| resource.group == group)
            || self.crds.iter().any(|crd| crd.group == group)
    }

    /// Returns true if a version of a group is served.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        all().iter().any(|resource| (resource.group, resource.version) == (group, version))
            || self.crds.iter().any(|c| c.group == group && c.version == version)
    }

    /// Returns a handle that outlives the request; `None` if the type is of no registry.
    pub fn owned(resource: &ResourceType<'_>) -> Option<OwnedResourceType> {
        match resource.crd {
            Some(crd) => Some(OwnedResourceType::CustomResource(crd.clone())),
            None => find(resource.group, resource.version, resource.plural)
                .map(OwnedResourceType::BuiltIn),
        }
    }
}

/// A resource type that outlives the request, for watches.
#[derive(Clone, Debug)]
pub enum OwnedResourceType {
    /// A built-in type.
    BuiltIn(&'static ResourceType<'static>),
    /// A custom resource.
    CustomResource(Arc<CustomResource>),
}

impl OwnedResourceType {
    /// Returns the type.
    pub fn get(&self) -> ResourceType<'_> {
        match self {
            Self::BuiltIn(resource) => **resource,
            Self::CustomResource(crd) => ResourceType::custom(crd),
        }
    }
}
