//! The controls of the Pod Security Standards (`k8s.io/pod-security-admission/policy`), as of Kubernetes 1.36:
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.

mod baseline;
mod restricted;

use super::policy::{Level, LevelVersion, Version};
use crate::fields::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// A pod, or the template of pods.
#[derive(Clone, Copy)]
pub(super) struct Template<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

/// A control that a pod violates.
#[derive(Debug, PartialEq)]
pub(super) struct Violation {
    /// `host namespaces`: all that is shown of it where several pods are summarized.
    pub(super) reason: String,
    /// `hostNetwork=true`.
    pub(super) detail: String,
}

type Check = fn(Template<'_>) -> Option<Violation>;

/// A control of a level.
struct Control {
    id: &'static str,
    /// The check since a minor version of Kubernetes, oldest first.
    checks: &'static [(u32, Check)],
    /// The weaker control of the baseline that this one replaces.
    overrides: &'static str,
}

const fn control(id: &'static str, checks: &'static [(u32, Check)]) -> Control {
    Control { id, checks, overrides: "" }
}

/// In the order of their names, which is that of the message.
static BASELINE: &[Control] = &[
    control("appArmorProfile", &[(0, baseline::app_armor_profile)]),
    control("capabilities_baseline", &[(0, baseline::capabilities)]),
    control("hostNamespaces", &[(0, baseline::host_namespaces)]),
    control("hostPathVolumes", &[(0, baseline::host_path_volumes)]),
    control("hostPorts", &[(0, baseline::host_ports)]),
    control("hostProbesAndHostLifecycle", &[(34, baseline::host_of_probes)]),
    control("privileged", &[(0, baseline::privileged)]),
    control(
        "procMount",
        &[(0, baseline::proc_mount), (35, |pod| in_user_namespace_or(pod, baseline::proc_mount))],
    ),
    control(
        "seLinuxOptions",
        &[
            (0, |pod| baseline::selinux_options(pod, &baseline::SELINUX_TYPES_1_0)),
            (31, |pod| baseline::selinux_options(pod, &baseline::SELINUX_TYPES_1_31)),
        ],
    ),
    control(
        "seccompProfile_baseline",
        &[(0, baseline::seccomp_annotations), (19, baseline::seccomp_profile)],
    ),
    control(
        "sysctls",
        &[
            (0, |pod| baseline::sysctls(pod, 0)),
            (27, |pod| baseline::sysctls(pod, 27)),
            (29, |pod| baseline::sysctls(pod, 29)),
            (32, |pod| baseline::sysctls(pod, 32)),
        ],
    ),
    control("windowsHostProcess", &[(0, baseline::windows_host_process)]),
];

static RESTRICTED: &[Control] = &[
    control(
        "allowPrivilegeEscalation",
        &[
            (8, restricted::allow_privilege_escalation),
            (25, |pod| on_windows_or(pod, restricted::allow_privilege_escalation)),
        ],
    ),
    Control {
        overrides: "capabilities_baseline",
        ..control(
            "capabilities_restricted",
            &[
                (22, restricted::capabilities),
                (25, |pod| on_windows_or(pod, restricted::capabilities)),
            ],
        )
    },
    Control {
        overrides: "procMount",
        ..control("procMount_restricted", &[(35, baseline::proc_mount)])
    },
    Control {
        overrides: "hostPathVolumes",
        ..control("restrictedVolumes", &[(0, restricted::volume_types)])
    },
    control(
        "runAsNonRoot",
        &[
            (0, restricted::run_as_non_root),
            (35, |pod| in_user_namespace_or(pod, restricted::run_as_non_root)),
        ],
    ),
    control(
        "runAsUser",
        &[
            (23, restricted::run_as_user),
            (35, |pod| in_user_namespace_or(pod, restricted::run_as_user)),
        ],
    ),
    Control {
        overrides: "seccompProfile_baseline",
        ..control(
            "seccompProfile_restricted",
            &[
                (19, restricted::seccomp_profile),
                (25, |pod| on_windows_or(pod, restricted::seccomp_profile)),
            ],
        )
    },
];

/// Returns the controls of a level that a pod violates.
pub(super) fn violations(mode: LevelVersion, pod: Template<'_>) -> Vec<Violation> {
    let in_force = |control: &Control| {
        let is_due = |since: u32| match mode.version {
            Version::Latest => true,
            Version::Minor(minor) => since <= minor,
        };
        control.checks.iter().rev().find(|(since, _)| is_due(*since)).map(|(_, check)| *check)
    };
    let restricted: &[Control] = match mode.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &[],
        Level::Restricted => RESTRICTED,
    };
    let is_overridden = |control: &Control| {
        restricted.iter().any(|other| other.overrides == control.id && in_force(other).is_some())
    };
    let baseline = BASELINE.iter().filter(|control| !is_overridden(control));
    let checks = baseline.chain(restricted).filter_map(in_force);
    checks.filter_map(|check| check(pod)).collect()
}

/// Pods of Windows nodes have none of the fields that a control asks for.
fn on_windows_or(pod: Template<'_>, check: Check) -> Option<Violation> {
    if text(pod.spec, &["os", "name"]) == "windows" { None } else { check(pod) }
}

/// Root of a user namespace is an ordinary user of the host.
fn in_user_namespace_or(pod: Template<'_>, check: Check) -> Option<Violation> {
    if pod.spec["hostUsers"] == false { None } else { check(pod) }
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

/// Returns the containers in the order in which they start.
fn containers(pod: Template<'_>) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(move |field| list(pod.spec, &[field]))
}

/// Returns the names of the containers of which `is_bad` is true.
fn named<'a>(pod: Template<'a>, mut is_bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod)
        .filter(|container| is_bad(container))
        .map(|container| text(container, &["name"]))
        .collect()
}

/// `container "a"`, `containers "a", "b"`.
fn shown(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// The pod itself and its containers as the setters of a field: `pod and container "a"`.
fn setters(is_pod: bool, names: &[&str]) -> Option<String> {
    let containers = (!names.is_empty()).then(|| shown(names));
    let pod = is_pod.then(|| "pod".to_owned());
    let all: Vec<String> = pod.into_iter().chain(containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn plural<'a>(count: usize, singular: &'a str, plural: &'a str) -> &'a str {
    if count == 1 { singular } else { plural }
}

/// `"a", "b"`.
fn quoted<'a>(items: impl IntoIterator<Item = &'a &'a str>) -> String {
    items.into_iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
}

/// A set that is shown in order.
type Values<'a> = BTreeSet<&'a str>;

/// Returns the security context of a container or of a pod's spec.
fn context(of: &Value) -> &Value {
    &of["securityContext"]
}
