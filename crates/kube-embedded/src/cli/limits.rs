//! `kube-embedded explain-limits`: what differs from Kubernetes.

const LIMITS: &str = "\
Refused:
  - Containers that are privileged or ask for the capability SYS_ADMIN; a user or group per container,
    if the cluster runs as an ordinary user.
  - hostPath volumes, but below the directories of --allow-host-path; pods that violate the level of
    the pod-security.kubernetes.io labels of their namespace.
  - Resources that are not listed below: 404, as on a server without them.
  - CronJobs, DaemonSets, StatefulSets, PersistentVolumes and PersistentVolumeClaims, except as a dry
    run: they are served only so that clients find none.
  - CustomResourceDefinitions with conversion by webhook: serve all versions with strategy None.
  - CustomResourceDefinitions with a rule (x-kubernetes-validations) that calls functions for time zones
    other than UTC, or makes a protobuf message; all other functions of Kubernetes 1.36 are there.
  - HorizontalPodAutoscalers, ResourceQuotas and LimitRanges, except as a dry run: there are no
    metrics, and nothing is limited.
  - Protobuf responses (406): protobuf requests are accepted, responses are JSON.
  - A continue token or a watch from a resource version that the history no longer holds (2048
    events a resource; for continue tokens 5 to 10 minutes): 410, as in Kubernetes.
Accepted but ignored:
  - Pods: limits of processor time without delegated cgroups, readinessGates, hostNetwork, hostPID,
    hostIPC, shareProcessNamespace, persistent volumes, supplementary groups and fsGroup if the
    cluster runs as an ordinary user. An event of the pod, UnsupportedField, lists what is not honored on
    this machine.
  - Pods in the plain sandbox: all volume mounts, including the service account token; only static
    programs run.
  - Scheduling: pod affinity, priorities, preemption. Nodes never fail; they renew their Leases, and
    no controller checks these.
  - Services: SCTP, externalIPs, loadBalancerSourceRanges, IPv6. Pods see connections come from the cluster, not from the client. A pod that declares a port
    cannot reach other Services on that port by their cluster IP.
  - Ingress: annotations other than kubernetes.io/ingress.class, parameters of a class, and backends
    that are resources or ExternalName Services (503, and an event).
  - Custom resources: patternProperties, formats other than date-time, date, byte, uuid, email, uri, ipv4,
    ipv6 and cidr.
  - Admission webhooks and network policies. The audits of ValidatingAdmissionPolicies go to the log.
Differences from Kubernetes:
  - Rules of CustomResourceDefinitions (CEL) that Kubernetes refuses by its estimate of their cost are
    accepted; a rule that costs more than its budget when it is evaluated fails, as in Kubernetes.
    So it is with ValidatingAdmissionPolicies. Their expressions are not checked against the schemas of
    what they match, and see a new Service before its addresses are allocated.
  - Containers without a seccomp profile get RuntimeDefault, as with seccompDefault: true.
  - Names of Services and pods are served by the cluster itself, at the Service kube-dns; there are no
    CoreDNS pods. dnsPolicy Default has that server, too, since pods cannot reach the host's. A pod that
    declares port 53 has no name server. Plain processes have the host's /etc/resolv.conf: the names
    are at 127.A.0.10:10053 for them, and at port 53 of kube-dns where that may be bound.
  - Authorization is RBAC alone: there is no Node authorizer and no webhook, and controllers, scheduler,
    kubelets and proxy act as the administrator, not as users of their own. The only certificate that
    authenticates is the kubeconfig's.
  - A program started by exec is killed when its client disconnects; in Kubernetes it may continue.
  - Objects live in memory and are lost when the process exits.
  - Ingresses of a namespace share one address, and are one set of rules in which the oldest wins.
    Every address serves HTTP and HTTPS, with a self-signed certificate where no Secret has one.
    pathType ImplementationSpecific is Prefix, or what GKE makes of a path that ends in /*. A host
    that has rules takes no paths from a wildcard, nor from rules without a host. An Ingress without
    a class is served. Pods get HTTP/1.1 requests and have 60 s to begin a response; clients may use
    HTTP/2 over TLS; X-Forwarded-* headers are overwritten.
  - Connections are made to pods of the cluster only: an EndpointSlice written by hand that lists
    another address gets an event. Probes and hooks with a host of their own fail for that reason.
  - A rollout never exceeds its surge, not even briefly.
  - A sidecar that does not handle SIGTERM gets 5 s once its pod is done, not the whole grace period.
    The containers of a pod whose pause process died get 2 s.
  - A memory limit is measured four times a second where no cgroups are delegated.
";

/// Returns the text with the lists of served resources and of fields that are not acted upon.
pub(super) fn text() -> String {
    let resources: String = kube_embedded_apiserver::resources::registry::all()
        .iter()
        .map(|kind| format!("  - {} {}\n", kind.api_version(), kind.kind))
        .collect();
    let fields: String = unsupported_fields().concat();
    format!(
        "{LIMITS}\nFields that are not acted upon, as the API warns whoever sets them:\n{fields}\nResources that are \
         served:\n{resources}"
    )
}

/// Returns a line for each note on fields that are not acted upon.
fn unsupported_fields() -> Vec<String> {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for (field, note) in kube_embedded_apiserver::unsupported_fields() {
        match lines.iter_mut().find(|(known, _)| *known == note) {
            Some((_, fields)) => fields.push_str(&format!(", {field}")),
            None => lines.push((note, field)),
        }
    }
    lines.into_iter().map(|(note, fields)| wrapped(&format!("{fields}: {note}"))).collect()
}

/// Wraps an entry of a list.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 100;
    let (mut lines, mut line) = (String::new(), "  -".to_owned());
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = "   ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    format!("{lines}{line}\n")
}
