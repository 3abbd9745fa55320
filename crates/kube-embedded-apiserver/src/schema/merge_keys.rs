//! How lists and maps of built-in types merge: the `+listType`, `+mapType` and `patchStrategy`
//! markers of Kubernetes' Go types (`staging/src/k8s.io/api`), which the schemas of `k8s-openapi`
//! lack. A test compares the keys with the merge code of `k8s-openapi`, so a field that a new
//! version adds is not missed.

use serde_json::Value;

use crate::schema::types::{PatchStrategy, Shape, Topology, reference, short_name};

/// A list of objects that merges by keys.
struct Keyed {
    owner: &'static str,
    field: &'static str,
    /// `+listMapKey`: the keys of server-side apply; empty if the list is atomic there.
    keys: &'static [&'static str],
    /// `patchMergeKey`: the key of strategic merge patches; `None` if they replace the list.
    patch: Option<&'static str>,
    retain_keys: bool,
}

/// A list that both merge, a patch by the first key.
const fn keyed(owner: &'static str, field: &'static str, key: &'static [&'static str]) -> Keyed {
    Keyed { owner, field, keys: key, patch: Some(key[0]), retain_keys: false }
}

/// A list that a strategic merge patch replaces.
const fn apply_only(
    owner: &'static str,
    field: &'static str,
    keys: &'static [&'static str],
) -> Keyed {
    Keyed { owner, field, keys, patch: None, retain_keys: false }
}

/// A list that is atomic in server-side apply.
const fn patch_only(owner: &'static str, field: &'static str, patch: &'static str) -> Keyed {
    Keyed { owner, field, keys: &[], patch: Some(patch), retain_keys: false }
}

/// A list of unions: clients send `$retainKeys`, so that a new member replaces the old one.
const fn retaining(owner: &'static str, field: &'static str) -> Keyed {
    Keyed { owner, field, keys: &["name"], patch: Some("name"), retain_keys: true }
}

/// By the short name of the structure that has the field, in the order of Kubernetes' `types.go`.
const KEYED: &[Keyed] = &[
    keyed("ObjectMeta", "ownerReferences", &["uid"]),
    keyed("PodSpec", "containers", &["name"]),
    keyed("PodSpec", "ephemeralContainers", &["name"]),
    keyed("PodSpec", "hostAliases", &["ip"]),
    keyed("PodSpec", "imagePullSecrets", &["name"]),
    keyed("PodSpec", "initContainers", &["name"]),
    retaining("PodSpec", "resourceClaims"),
    keyed("PodSpec", "schedulingGates", &["name"]),
    keyed("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    retaining("PodSpec", "volumes"),
    keyed("Container", "env", &["name"]),
    keyed("Container", "ports", &["containerPort", "protocol"]),
    keyed("Container", "volumeDevices", &["devicePath"]),
    keyed("Container", "volumeMounts", &["mountPath"]),
    keyed("EphemeralContainer", "env", &["name"]),
    keyed("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    keyed("EphemeralContainer", "volumeDevices", &["devicePath"]),
    keyed("EphemeralContainer", "volumeMounts", &["mountPath"]),
    apply_only("ResourceRequirements", "claims", &["name"]),
    keyed("PodStatus", "conditions", &["type"]),
    patch_only("PodStatus", "hostIPs", "ip"),
    keyed("PodStatus", "podIPs", &["ip"]),
    retaining("PodStatus", "resourceClaimStatuses"),
    keyed("ContainerStatus", "allocatedResourcesStatus", &["name"]),
    keyed("ContainerStatus", "volumeMounts", &["mountPath"]),
    apply_only("ResourceStatus", "resources", &["resourceID"]),
    keyed("ServiceSpec", "ports", &["port", "protocol"]),
    keyed("ServiceStatus", "conditions", &["type"]),
    keyed("ServiceAccount", "secrets", &["name"]),
    keyed("NamespaceStatus", "conditions", &["type"]),
    keyed("NodeStatus", "addresses", &["type"]),
    keyed("NodeStatus", "conditions", &["type"]),
    keyed("DeploymentStatus", "conditions", &["type"]),
    keyed("ReplicaSetStatus", "conditions", &["type"]),
    keyed("ReplicationControllerStatus", "conditions", &["type"]),
    keyed("StatefulSetStatus", "conditions", &["type"]),
    keyed("DaemonSetStatus", "conditions", &["type"]),
    keyed("JSONSchemaProps", "x-kubernetes-validations", &["rule"]),
    patch_only("JobStatus", "conditions", "type"),
    apply_only("CustomResourceDefinitionStatus", "conditions", &["type"]),
    keyed("HorizontalPodAutoscalerStatus", "conditions", &["type"]),
    apply_only("ValidatingAdmissionPolicyStatus", "conditions", &["type"]),
    keyed("ValidatingAdmissionPolicySpec", "matchConditions", &["name"]),
    keyed("ValidatingAdmissionPolicySpec", "variables", &["name"]),
];

/// Lists of distinct scalars (`+listType=set`) that a strategic merge patch merges, too.
const SETS: &[(&str, &str)] = &[("ObjectMeta", "finalizers"), ("NodeSpec", "podCIDRs")];

/// Lists of distinct scalars that a strategic merge patch replaces.
const APPLY_SETS: &[(&str, &str)] = &[
    ("ContainerRestartRuleOnExitCodes", "values"),
    ("Endpoint", "addresses"),
    ("NodeAllocatableResourceClaimStatus", "containers"),
    ("PodFailurePolicyOnExitCodesRequirement", "values"),
    ("UncountedTerminatedPods", "failed"),
    ("UncountedTerminatedPods", "succeeded"),
    ("ValidatingAdmissionPolicyBindingSpec", "validationActions"),
];

/// Structures with one owner (`+structType=atomic`).
const ATOMIC_STRUCTURES: &[&str] = &[
    "ConfigMapKeySelector",
    "CrossVersionObjectReference",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "MatchResources",
    "NamedRuleWithOperations",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ParamKind",
    "ParamRef",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "ServiceBackendPort",
    "Subject",
    "TypedLocalObjectReference",
    "Variable",
];

/// Maps with one owner (`+mapType=atomic`).
const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("PodSpec", "nodeSelector"),
    ("ReplicationControllerSpec", "selector"),
    ("ServiceSpec", "selector"),
];

/// Fields whose Go type is a structure, not a pointer to one, or a list without `omitempty`. They
/// are part of every encoded object, so an update never adds them, and `managedFields` must not say
/// that it did.
const ALWAYS: &[(&str, &str)] = &[
    ("ClusterRole", "rules"),
    ("ClusterRoleBinding", "roleRef"),
    ("Container", "resources"),
    ("ContainerImage", "names"),
    ("ContainerResourceMetricSource", "target"),
    ("ContainerResourceMetricStatus", "current"),
    ("ContainerStatus", "lastState"),
    ("ContainerStatus", "state"),
    ("CronJobSpec", "jobTemplate"),
    ("CustomResourceDefinitionSpec", "names"),
    ("CustomResourceDefinitionSpec", "versions"),
    ("CustomResourceDefinitionStatus", "acceptedNames"),
    ("CustomResourceDefinitionStatus", "conditions"),
    ("CustomResourceDefinitionStatus", "storedVersions"),
    ("DaemonSetSpec", "template"),
    ("DaemonSetSpec", "updateStrategy"),
    ("DeploymentSpec", "strategy"),
    ("DeploymentSpec", "template"),
    ("Endpoint", "addresses"),
    ("Endpoint", "conditions"),
    ("EndpointSlice", "endpoints"),
    ("EndpointSlice", "ports"),
    ("EphemeralContainer", "resources"),
    ("Event", "deprecatedSource"),
    ("Event", "involvedObject"),
    ("Event", "regarding"),
    ("Event", "source"),
    ("ExternalMetricSource", "metric"),
    ("ExternalMetricSource", "target"),
    ("ExternalMetricStatus", "current"),
    ("ExternalMetricStatus", "metric"),
    ("HTTPIngressPath", "backend"),
    ("HTTPIngressRuleValue", "paths"),
    ("HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    ("HorizontalPodAutoscalerStatus", "currentMetrics"),
    ("IngressServiceBackend", "port"),
    ("IngressStatus", "loadBalancer"),
    ("JobSpec", "template"),
    ("JobTemplateSpec", "metadata"),
    ("JobTemplateSpec", "spec"),
    ("LimitRangeSpec", "limits"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeSelector", "nodeSelectorTerms"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    // A client that sends an empty list removes all managers.
    ("ObjectMeta", "managedFields"),
    ("ObjectMetricSource", "describedObject"),
    ("ObjectMetricSource", "metric"),
    ("ObjectMetricSource", "target"),
    ("ObjectMetricStatus", "current"),
    ("ObjectMetricStatus", "describedObject"),
    ("ObjectMetricStatus", "metric"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("PodFailurePolicy", "rules"),
    ("PodFailurePolicyOnExitCodesRequirement", "values"),
    ("PodSpec", "containers"),
    ("PodTemplate", "template"),
    ("PodsMetricSource", "metric"),
    ("PodsMetricSource", "target"),
    ("PodsMetricStatus", "current"),
    ("PodsMetricStatus", "metric"),
    ("PolicyRule", "verbs"),
    ("PreferredSchedulingTerm", "preference"),
    ("ProjectedVolumeSource", "sources"),
    ("ReplicaSetSpec", "template"),
    ("ResourceMetricSource", "target"),
    ("ResourceMetricStatus", "current"),
    ("Role", "rules"),
    ("RoleBinding", "roleRef"),
    ("ServiceStatus", "loadBalancer"),
    ("StatefulSetSpec", "template"),
    ("StatefulSetSpec", "updateStrategy"),
    ("SuccessPolicy", "rules"),
    ("WebhookConversion", "conversionReviewVersions"),
    ("WeightedPodAffinityTerm", "podAffinityTerm"),
];

/// Returns how the parts of a field's value are owned; `owner` is the full name of the structure.
pub(crate) fn topology(owner: &str, field: &str, shape: &Shape, schema: &Value) -> Topology {
    let owner = short_name(owner);
    match shape {
        Shape::List(_) if [SETS, APPLY_SETS].iter().any(|sets| sets.contains(&(owner, field))) => {
            Topology::Set
        }
        Shape::List(_) => match find(owner, field) {
            Some(keyed) if !keyed.keys.is_empty() => Topology::Keyed(keyed.keys),
            _ => Topology::Atomic,
        },
        Shape::Map(_) if ATOMIC_MAPS.contains(&(owner, field)) => Topology::Atomic,
        Shape::Map(_) => Topology::Granular,
        Shape::Struct(_) => match reference(schema) {
            Some(name) if is_atomic_structure(name) => Topology::Atomic,
            _ => Topology::Granular,
        },
        _ => Topology::Atomic,
    }
}

/// Returns how a strategic merge patch treats a field.
pub(crate) fn strategy(owner: &str, field: &str, topology: &Topology) -> Option<PatchStrategy> {
    let owner = short_name(owner);
    if *topology == Topology::Set && SETS.contains(&(owner, field)) {
        return Some(PatchStrategy { key: None, merge: true, retain_keys: false });
    }
    if (owner, field) == ("DeploymentSpec", "strategy") {
        // `patchStrategy:"retainKeys"`: changing the type drops the other type's parameters.
        return Some(PatchStrategy { key: None, merge: false, retain_keys: true });
    }
    let keyed = find(owner, field)?;
    let key = Some(keyed.patch?);
    Some(PatchStrategy { key, merge: true, retain_keys: keyed.retain_keys })
}

/// Returns true if Kubernetes encodes the field even if it is empty.
pub(crate) fn is_always_encoded(owner: &str, field: &str) -> bool {
    matches!(field, "metadata" | "spec" | "status")
        && (owner.starts_with("io.k8s.api.") || short_name(owner) == "CustomResourceDefinition")
        || ALWAYS.contains(&(short_name(owner), field))
}

/// Returns true if the structure of a full name has one owner.
pub(crate) fn is_atomic_structure(name: &str) -> bool {
    ATOMIC_STRUCTURES.contains(&short_name(name))
}

fn find(owner: &str, field: &str) -> Option<&'static Keyed> {
    KEYED.iter().find(|keyed| keyed.owner == owner && keyed.field == field)
}

/// Returns every field that the tables name.
#[cfg(test)]
pub(crate) fn named_fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYED
        .iter()
        .map(|keyed| (keyed.owner, keyed.field))
        .chain(SETS.iter().copied())
        .chain(APPLY_SETS.iter().copied())
        .chain(ATOMIC_MAPS.iter().copied())
        .chain(ALWAYS.iter().copied())
}
