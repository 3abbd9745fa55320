//! Warnings of what is valid and probably not meant (`GetWarningsForPod`, `GetWarningsForPodTemplate`,
//! `GetWarningsForService`).

use crate::{
    fields::{at, list, text},
    validation::names::dns_label,
};
use kube_embedded_core::quantity;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const NODE_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Returns the warning of a name that becomes part of host names, where `what` says of which.
pub(crate) fn host_name(object: &Value, what: &str) -> Option<String> {
    let details = dns_label(text(object, &["metadata", "name"]));
    (!details.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            details.join(" ")
        )
    })
}

/// Returns the warnings of a workload with a pod template, on creation and where an update changes the spec.
pub(crate) fn of_workload(object: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old["spec"] == object["spec"]) {
        return Vec::new();
    }
    let named = old.is_none().then(|| host_name(object, "Pod names and hostnames")).flatten();
    named.into_iter().chain(of_pod(at(object, &["spec", "template"]), "spec.template.")).collect()
}

/// Returns the warnings of a pod, or of a template at `prefix`.
pub(crate) fn of_pod(pod: &Value, prefix: &str) -> Vec<String> {
    let (spec, annotations) = (&pod["spec"], &pod["metadata"]["annotations"]);
    let field = format!("{prefix}spec");
    let mut warnings = node_labels(spec, &field);
    for (key, message) in ANNOTATIONS {
        if !annotations[key].is_null() {
            warnings.push(format!("{prefix}metadata.annotations[{key}]: {message}"));
        }
    }
    for (n, volume) in list(spec, &["volumes"]).iter().enumerate() {
        for (name, message) in VOLUMES {
            if !volume[name].is_null() {
                let shown = if name == "storageos" { "storageOS" } else { name };
                warnings.push(format!("{field}.volumes[{n}].{shown}: {message}"));
            }
        }
    }
    let mut seen = HashSet::new();
    for (n, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        if !seen.insert(text(alias, &["ip"])) {
            warnings.push(format!("{field}.hostAliases[{n}].ip: duplicate ip {}", alias["ip"]));
        }
    }
    let mut seen = HashSet::new();
    for (n, secret) in list(spec, &["imagePullSecrets"]).iter().enumerate() {
        if !seen.insert(text(secret, &["name"])) {
            let name = &secret["name"];
            warnings.push(format!("{field}.imagePullSecrets[{n}].name: duplicate name {name}"));
        }
    }
    for (container, field) in containers(spec, &field) {
        warnings.extend(of_container(container, &field, prefix, annotations, spec));
    }
    warnings.extend(ports(spec, &field));
    warnings.extend(port_names(spec, &field));
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{field}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be \
             treated as 1"
        ));
    }
    warnings.extend(null_selectors(spec, &field));
    warnings
}

/// Returns the containers with their paths, init containers first.
fn containers<'a>(spec: &'a Value, field: &str) -> Vec<(&'a Value, String)> {
    let of = |name: &'static str| {
        let field = field.to_owned();
        list(spec, &[name])
            .iter()
            .enumerate()
            .map(move |(n, container)| (container, format!("{field}.{name}[{n}]")))
    };
    of("initContainers").chain(of("containers")).chain(of("ephemeralContainers")).collect()
}

fn deprecated(label: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(known, _)| *known == label).map(|(_, message)| *message)
}

/// The deprecated labels of nodes in selectors.
fn node_labels(spec: &Value, field: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, _) in spec["nodeSelector"].as_object().into_iter().flatten() {
        warnings.extend(deprecated(key).map(|w| format!("{field}.nodeSelector[{key}]: {w}")));
    }
    let (node, affinity) = (at(spec, &["affinity", "nodeAffinity"]), "affinity.nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let terms = list(node, &[required, "nodeSelectorTerms"]).iter().enumerate();
    let terms = terms
        .map(|(n, term)| (term, format!("{field}.{affinity}.{required}.nodeSelectorTerms[{n}]")));
    let preferences = list(node, &[preferred]).iter().enumerate();
    let preferences = preferences.map(|(n, preferred_term)| {
        let field = format!("{field}.{affinity}.{preferred}[{n}].preference");
        (&preferred_term["preference"], field)
    });
    for (term, field) in terms.chain(preferences) {
        for (n, expression) in list(term, &["matchExpressions"]).iter().enumerate() {
            let key = text(expression, &["key"]);
            let message = deprecated(key);
            warnings.extend(
                message.map(|w| format!("{field}.matchExpressions[{n}].key: {key} is {w}")),
            );
        }
    }
    for (n, constraint) in list(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let (key, field) =
            (text(constraint, &["topologyKey"]), format!("{field}.topologySpreadConstraints[{n}]"));
        warnings.extend(deprecated(key).map(|w| format!("{field}.topologyKey: {key} is {w}")));
        if constraint["labelSelector"].is_null() {
            warnings.push(format!(
                "{field}.labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
    warnings
}

fn of_container(
    container: &Value,
    field: &str,
    prefix: &str,
    annotations: &Value,
    spec: &Value,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let name = text(container, &["name"]);
    for (key, profile, message) in [
        (
            "container.seccomp.security.alpha.kubernetes.io/",
            "seccompProfile",
            "non-functional in v1.27+; use the \"seccompProfile\" field instead",
        ),
        (
            "container.apparmor.security.beta.kubernetes.io/",
            "appArmorProfile",
            "deprecated since v1.30; use the \"appArmorProfile\" field instead",
        ),
    ] {
        let key = format!("{key}{name}");
        let set = [container, spec].iter().any(|of| !of["securityContext"][profile].is_null());
        if !annotations[&key].is_null() && !set {
            warnings.push(format!("{prefix}metadata.annotations[{key}]: {message}"));
        }
    }
    for part in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage"] {
            let amount = &container["resources"][part][resource];
            let parsed = amount.as_str().and_then(|amount| quantity::parse(amount).ok());
            // In billionths.
            if parsed.is_some_and(|amount| amount % 1_000_000_000 != 0) {
                warnings.push(format!(
                    "{field}.resources.{part}[{resource}]: fractional byte value {amount} is \
                     invalid, must be an integer"
                ));
            }
        }
    }
    let mut seen = HashSet::new();
    for (n, env) in list(container, &["env"]).iter().enumerate() {
        let name = text(env, &["name"]);
        if seen.insert(name) {
            continue;
        }
        // A value that is made of the one before does not hide it.
        let (value, earlier) = (text(env, &["value"]), format!("$({name})"));
        if !env["valueFrom"].is_null() || value == earlier || !value.contains(&earlier) {
            warnings.push(format!(
                "{field}.env[{n}]: hides previous definition of {name:?}, which may be dropped when \
                 using apply"
            ));
        }
    }
    warnings
}

/// Ports that are declared twice, in whichever container.
fn ports(spec: &Value, field: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut known: HashMap<(i64, &str), Vec<(&Value, String)>> = HashMap::new();
    for (container, field) in containers(spec, field) {
        for (n, port) in list(container, &["ports"]).iter().enumerate() {
            let field = format!("{field}.ports[{n}]");
            let number = port["containerPort"].as_i64().unwrap_or_default();
            let others = known.entry((number, text(port, &["protocol"]))).or_default();
            for (other, path) in others.iter() {
                let host_port = |port: &Value| port["hostPort"].as_i64().unwrap_or_default();
                let (own, theirs) = (text(port, &["hostIP"]), text(other, &["hostIP"]));
                let (one, two) = (host_port(port), host_port(other));
                let what = match () {
                    () if own == theirs && one == two => "duplicate",
                    () if one == 0 || two == 0 => "overlapping",
                    () if one == two && own.is_empty() != theirs.is_empty() => {
                        "dangerously ambiguous"
                    }
                    () => continue,
                };
                warnings.push(format!("{field}: {what} port definition with {path}"));
            }
            others.push((port, field));
        }
    }
    warnings
}

/// Names of ports that occur again, in whichever container.
fn port_names(spec: &Value, field: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut known: HashMap<&str, String> = HashMap::new();
    for (container, field) in containers(spec, field) {
        for (n, port) in list(container, &["ports"]).iter().enumerate() {
            let (name, field) = (text(port, &["name"]), format!("{field}.ports[{n}]"));
            match known.get(name) {
                _ if name.is_empty() => {}
                Some(first) => warnings.push(format!(
                    "{field}: duplicate port name {name:?} with {first}, services and probes that select ports by \
                     name will use {first}"
                )),
                None => {
                    known.insert(name, field);
                }
            }
        }
    }
    warnings
}

/// Affinities to no pod at all.
fn null_selectors(spec: &Value, field: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in ["podAffinity", "podAntiAffinity"] {
        for (terms, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            for (n, term) in list(spec, &["affinity", name, terms]).iter().enumerate() {
                let (term, at) = match inner {
                    "" => (term, String::new()),
                    inner => (&term[inner], format!(".{inner}")),
                };
                if term["labelSelector"].is_null() {
                    warnings.push(format!(
                        "{field}.affinity.{name}.{terms}[{n}]{at}.labelSelector: a null labelSelector \
                         results in matching no pod"
                    ));
                }
            }
        }
    }
    warnings
}

/// Returns the warnings of a Service.
pub(crate) fn of_service(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let kind = text(spec, &["type"]);
    let is_external_name = kind == "ExternalName";
    let is_headless = kind == "ClusterIP" && spec["clusterIP"] == "None";
    let has_external_ips = !list(spec, &["externalIPs"]).is_empty();
    let hints = "service.kubernetes.io/topology-aware-hints";
    let named = |field: &str| !text(spec, &[field]).is_empty();
    let conditions = [
        (
            !service["metadata"]["annotations"][hints].is_null(),
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead",
        ),
        (
            is_headless && named("loadBalancerIP"),
            "spec.loadBalancerIP is ignored for headless services",
        ),
        (is_headless && has_external_ips, "spec.externalIPs is ignored for headless services"),
        (
            is_headless && spec["sessionAffinity"] != "None",
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            has_external_ips && !is_headless && !is_external_name,
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        ),
        (
            is_external_name && has_external_ips,
            "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
        ),
        (
            !is_external_name && named("externalName"),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            spec["trafficDistribution"] == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ];
    let given = conditions.into_iter().filter(|(applies, _)| *applies);
    given.map(|(_, warning)| warning.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_and_deprecated_parts_of_a_template_are_warned_of() {
        let deployment = json!({
            "metadata": { "name": "d" },
            "spec": { "template": { "spec": {
                "nodeSelector": { "beta.kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux" },
                "containers": [{
                    "name": "c",
                    "env": [
                        { "name": "A", "value": "1" },
                        { "name": "A", "value": "2" },
                        { "name": "A", "value": "$(A)3" },
                    ],
                    "ports": [
                        { "containerPort": 80, "protocol": "TCP", "name": "aa" },
                        { "containerPort": 80, "protocol": "TCP", "name": "bb" },
                        { "containerPort": 80, "protocol": "UDP", "name": "aa" },
                    ],
                    "resources": { "limits": { "memory": "100m" } },
                }],
            } } },
        });
        assert_eq!(
            of_workload(&deployment, None),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use \
                 \"kubernetes.io/arch\" instead",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is \
                 invalid, must be an integer",
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped \
                 when using apply",
                "spec.template.spec.containers[0].ports[1]: duplicate port definition with \
                 spec.template.spec.containers[0].ports[0]",
                "spec.template.spec.containers[0].ports[2]: duplicate port name \"aa\" with \
                 spec.template.spec.containers[0].ports[0], services and probes that select ports by name will use \
                 spec.template.spec.containers[0].ports[0]",
            ]
        );
        assert_eq!(of_workload(&deployment, Some(&deployment)), [""; 0]);
    }

    #[test]
    fn ports_overlap_by_host_port() {
        let port = |host_port: i64, ip: &str| json!({ "containerPort": 80, "protocol": "TCP", "hostPort": host_port, "hostIP": ip });
        for (one, two, what) in [
            (port(1, ""), port(0, ""), "overlapping"),
            (port(1, ""), port(1, "10.0.0.1"), "dangerously ambiguous"),
            (port(1, "10.0.0.2"), port(1, "10.0.0.1"), ""),
            (port(1, ""), port(2, ""), ""),
        ] {
            let spec = json!({ "initContainers": [{ "ports": [one] }], "containers": [{ "ports": [two] }] });
            let expected: Vec<String> = (!what.is_empty())
                .then(|| {
                    format!(
                        "spec.containers[0].ports[0]: {what} port definition with spec.initContainers[0].ports[0]"
                    )
                })
                .into_iter()
                .collect();
            assert_eq!(ports(&spec, "spec"), expected);
        }
    }

    #[test]
    fn service_is_warned_of_what_its_type_ignores() {
        for (spec, warnings) in [
            (json!({ "type": "ClusterIP", "sessionAffinity": "None" }), 0),
            (json!({ "type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP" }), 1),
            (json!({ "type": "ClusterIP", "externalIPs": ["1.2.3.4"] }), 1),
            (
                json!({ "type": "ExternalName", "externalName": "a.b", "externalIPs": ["1.2.3.4"] }),
                1,
            ),
            (json!({ "type": "ClusterIP", "externalName": "a.b" }), 1),
            (json!({ "type": "ClusterIP", "trafficDistribution": "PreferClose" }), 1),
        ] {
            assert_eq!(of_service(&json!({ "spec": spec })).len(), warnings, "{spec}");
        }
    }
}
