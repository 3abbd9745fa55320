//! Import circles that are accepted.

/// The crate, its files and the reason of each circle. An entry has to shrink with its circle; the failing
/// test prints what to write here.
pub(super) const ACCEPTED_CIRCLES: &[(&str, &str, &str)] = &[
    ("kube-embedded", "cli.rs cli/edge.rs cli/reference.rs cli/serve.rs", "being opened"),
    (
        "kube-embedded-apiserver",
        "admission.rs admission/service_account.rs admission/service_ip.rs api.rs crd.rs discovery.rs subresources.rs subresources/stream.rs subresources/stream/exec.rs subresources/stream/port_forward.rs subresources/stream/spdy.rs subresources/stream/upgrade.rs subresources/token.rs verbs/delete.rs verbs/patch.rs verbs/read.rs verbs/watch.rs verbs/write.rs",
        "being opened",
    ),
    (
        "kube-embedded-apiserver",
        "http/decode.rs http/output.rs http/path.rs http/protobuf.rs http/status.rs",
        "being opened",
    ),
    ("kube-embedded-apiserver", "patch.rs patch/apply.rs patch/strategic.rs", "being opened"),
    (
        "kube-embedded-apiserver",
        "resources/crd.rs resources/registry.rs resources/resource_type.rs resources/types/config_map.rs resources/types/custom_resource_definition.rs resources/types/deployment.rs resources/types/endpoint_slice.rs resources/types/endpoints.rs resources/types/event.rs resources/types/horizontal_pod_autoscaler.rs resources/types/ingress.rs resources/types/ingress_class.rs resources/types/job.rs resources/types/lease.rs resources/types/namespace.rs resources/types/node.rs resources/types/pod.rs resources/types/quota.rs resources/types/replica_set.rs resources/types/secret.rs resources/types/service.rs resources/types/service_account.rs schema.rs schema/check.rs schema/merge_keys.rs schema/openapi.rs schema/structural/owned.rs schema/structural/rules.rs schema/structural/validate.rs schema/tree.rs",
        "being opened",
    ),
    ("kube-embedded-proxy", "entrance.rs plan.rs", "being opened"),
    (
        "kube-embedded-proxy",
        "ingress.rs ingress/keeper.rs ingress/objects.rs keeper.rs lib.rs",
        "being opened",
    ),
    (
        "kube-embedded-proxy",
        "ingress/front.rs ingress/proxy.rs ingress/proxy/answer.rs ingress/proxy/head.rs ingress/proxy/pool.rs ingress/proxy/socket.rs ingress/proxy/tunnel.rs ingress/proxy/upload.rs ingress/table.rs plane.rs plane/threads.rs route.rs",
        "being opened",
    ),
    (
        "kube-embedded-proxy",
        "outside.rs outside/dialler.rs outside/objects.rs outside/way.rs",
        "being opened",
    ),
    (
        "labs",
        "context.rs kubernetes.rs kubernetes/external.rs kubernetes/fit.rs kubernetes/ingress_class.rs kubernetes/pods.rs lab.rs phases/phase0.rs phases/phase1.rs phases/phase2.rs phases/phase2/cluster.rs phases/phase3.rs phases/phase4.rs phases/phase5.rs phases/phase5/publish.rs",
        "being opened",
    ),
    ("labs", "lock.rs namespace.rs", "being opened"),
    ("labs", "report.rs report/json.rs report/terminal.rs", "being opened"),
    ("labs", "sample.rs sample/session.rs", "being opened"),
    ("labs", "sample/http1.rs sample/target.rs sample/tls.rs", "being opened"),
];
