//! Import circles that are accepted.

/// The crate, its files and the reason of each circle. An entry has to shrink with its circle; the failing
/// test prints what to write here.
pub(super) const ACCEPTED_CIRCLES: &[(&str, &str, &str)] = &[
    ("kube-embedded", "cli.rs cli/edge.rs cli/reference.rs cli/serve.rs", "being opened"),
    (
        "kube-embedded-apiserver",
        "admission/service_account.rs resources/crd.rs resources/registry.rs resources/resource_type.rs resources/types/config_map.rs resources/types/custom_resource_definition.rs resources/types/deployment.rs resources/types/endpoint_slice.rs resources/types/endpoints.rs resources/types/event.rs resources/types/horizontal_pod_autoscaler.rs resources/types/ingress.rs resources/types/ingress_class.rs resources/types/job.rs resources/types/lease.rs resources/types/namespace.rs resources/types/node.rs resources/types/pod.rs resources/types/quota.rs resources/types/replica_set.rs resources/types/secret.rs resources/types/service.rs resources/types/service_account.rs schema.rs schema/check.rs schema/merge_keys.rs schema/openapi.rs schema/structural/owned.rs schema/structural/rules.rs schema/structural/validate.rs schema/tree.rs",
        "being opened",
    ),
    ("kube-embedded-apiserver", "patch.rs patch/apply.rs patch/strategic.rs", "being opened"),
    (
        "kube-embedded-apiserver",
        "subresources/stream.rs subresources/stream/exec.rs subresources/stream/port_forward.rs subresources/stream/spdy.rs subresources/stream/upgrade.rs",
        "being opened",
    ),
    (
        "kube-embedded-proxy",
        "external.rs external/dialer.rs external/reachability.rs",
        "being opened",
    ),
];
