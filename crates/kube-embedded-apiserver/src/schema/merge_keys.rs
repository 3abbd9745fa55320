//! How lists and maps merge: what Kubernetes' types say in `+listType`, `+mapType` and
//! `patchStrategy` markers, which no crate carries. The test holds the keys against the merge code of
//! `k8s-openapi`, so a field that a new version adds cannot be missed.

use serde_json::Value;

use crate::schema::tree::{Shape, Strategy, Topology, reference};

/// A list with keys for server-side apply, and the one that a strategic merge patch uses.
struct Keyed {
    owner: &'static str,
    field: &'static str,
    /// For server-side apply; empty where the list is atomic there.
    keys: &'static [&'static str],
    /// For strategic merge patches.
    patch: Option<&'static str>,
    retain_keys: bool,
}

const fn keyed(owner: &'static str, field: &'static str, key: &'static [&'static str]) -> Keyed {
    Keyed { owner, field, keys: key, patch: Some(key[0]), retain_keys: false }
}

const fn apply_only(
    owner: &'static str,
    field: &'static str,
    keys: &'static [&'static str],
) -> Keyed {
    Keyed { owner, field, keys, patch: None, retain_keys: false }
}

const fn patch_only(owner: &'static str, field: &'static str, patch: &'static str) -> Keyed {
    Keyed { owner, field, keys: &[], patch: Some(patch), retain_keys: false }
}

const fn retaining(owner: &'static str, field: &'static str) -> Keyed {
    Keyed { owner, field, keys: &["name"], patch: Some("name"), retain_keys: true }
}

/// By short name of the structure that has the field.
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
    patch_only("JobStatus", "conditions", "type"),
    apply_only("CustomResourceDefinitionStatus", "conditions", &["type"]),
    keyed("HorizontalPodAutoscalerStatus", "conditions", &["type"]),
];

/// Lists of distinct scalars, which a strategic merge patch merges too.
const SETS: &[(&str, &str)] = &[("ObjectMeta", "finalizers"), ("NodeSpec", "podCIDRs")];

/// Lists of distinct scalars for server-side apply alone.
const APPLY_SETS: &[(&str, &str)] = &[
    ("PodFailurePolicyOnExitCodesRequirement", "values"),
    ("UncountedTerminatedPods", "failed"),
    ("UncountedTerminatedPods", "succeeded"),
];

/// Structures owned as a whole.
const ATOMIC_STRUCTURES: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "ServiceBackendPort",
    "TypedLocalObjectReference",
];

/// Maps owned as a whole.
const ATOMIC_MAPS: &[(&str, &str)] =
    &[("Endpoint", "deprecatedTopology"), ("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

/// Fields whose Go type is a structure and no pointer to one (or a list without `omitempty`): there
/// in every encoded object, and so never newly added by an update.
const ALWAYS: &[(&str, &str)] = &[
    ("Container", "resources"),
    ("ContainerStatus", "lastState"),
    ("ContainerStatus", "state"),
    ("CustomResourceDefinitionSpec", "names"),
    ("CustomResourceDefinitionStatus", "acceptedNames"),
    ("CustomResourceDefinitionStatus", "conditions"),
    ("CustomResourceDefinitionStatus", "storedVersions"),
    ("DeploymentSpec", "strategy"),
    ("DeploymentSpec", "template"),
    ("Endpoint", "conditions"),
    ("EndpointSlice", "endpoints"),
    ("EndpointSlice", "ports"),
    ("EphemeralContainer", "resources"),
    ("Event", "involvedObject"),
    ("Event", "regarding"),
    ("Event", "source"),
    ("Event", "deprecatedSource"),
    ("HTTPIngressPath", "backend"),
    ("HTTPIngressRuleValue", "paths"),
    ("HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    ("IngressServiceBackend", "port"),
    ("IngressStatus", "loadBalancer"),
    ("JobSpec", "template"),
    ("LimitRangeSpec", "limits"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    ("PodSpec", "containers"),
    ("ReplicaSetSpec", "template"),
    ("ServiceStatus", "loadBalancer"),
];

/// Who owns what in a field's value.
pub(crate) fn topology(owner: &str, field: &str, shape: &Shape, schema: &Value) -> Topology {
    let owner = short(owner);
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
            Some(name) if ATOMIC_STRUCTURES.contains(&short(name)) => Topology::Atomic,
            _ => Topology::Granular,
        },
        _ => Topology::Atomic,
    }
}

/// What a strategic merge patch does with the field.
pub(crate) fn strategy(owner: &str, field: &str, topology: &Topology) -> Option<Strategy> {
    let owner = short(owner);
    if *topology == Topology::Set && SETS.contains(&(owner, field)) {
        return Some(Strategy { key: None, merge: true, retain_keys: false });
    }
    if (owner, field) == ("DeploymentSpec", "strategy") {
        return Some(Strategy { key: None, merge: false, retain_keys: true });
    }
    let keyed = find(owner, field)?;
    Some(Strategy { key: Some(keyed.patch?), merge: true, retain_keys: keyed.retain_keys })
}

/// Whether Kubernetes encodes the field even where it is empty.
pub(crate) fn always_encoded(owner: &str, field: &str) -> bool {
    matches!(field, "metadata" | "spec" | "status")
        && (owner.starts_with("io.k8s.api.") || short(owner) == "CustomResourceDefinition")
        || ALWAYS.contains(&(short(owner), field))
}

/// Whether the structure is owned as a whole, by full name.
pub(crate) fn atomic_structure(name: &str) -> bool {
    ATOMIC_STRUCTURES.contains(&short(name))
}

fn find(owner: &str, field: &str) -> Option<&'static Keyed> {
    KEYED.iter().find(|keyed| keyed.owner == owner && keyed.field == field)
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// Every field that the tables name.
#[cfg(test)]
pub(crate) fn named() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYED
        .iter()
        .map(|keyed| (keyed.owner, keyed.field))
        .chain(SETS.iter().copied())
        .chain(APPLY_SETS.iter().copied())
        .chain(ATOMIC_MAPS.iter().copied())
        .chain(ALWAYS.iter().copied())
}
