//! The controls of the level `baseline`, which prevents known privilege escalations.

use super::{
    Template, Values, Violation, containers, context, named, plural, quoted, setters, shown,
    violation,
};
use crate::fields::{at, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn app_armor_profile(pod: Template<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = Values::new();
    let mut is_bad = |of| {
        let profile = &context(of)["appArmorProfile"];
        let kind = text(profile, &["type"]);
        let is_bad = !profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost");
        is_bad && (values.insert(kind) || is_bad)
    };
    let is_pod = is_bad(pod.spec);
    let names = named(pod, is_bad);
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let mut bad: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(_, value)| {
            !(value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    bad.sort_unstable();
    let annotated = plural(bad.len(), "annotation", "annotations").to_owned();
    let annotated = (!bad.is_empty()).then_some(annotated);
    let all: Vec<String> = setters(is_pod, &names).into_iter().chain(annotated).collect();
    if all.is_empty() {
        return None;
    }
    let values: Vec<&str> = values.into_iter().chain(bad.iter().map(String::as_str)).collect();
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    let setters = all.join(" and ");
    violation(
        reason,
        format!("{setters} must not set AppArmor profile type to {}", quoted(&values)),
    )
}

pub(super) fn capabilities(pod: Template<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (names, added) = adding_others(pod, &ALLOWED);
    let detail = || {
        format!("{} must not include {added} in securityContext.capabilities.add", shown(&names))
    };
    (!names.is_empty())
        .then(detail)
        .and_then(|detail| violation("non-default capabilities", detail))
}

/// Returns the containers that add other capabilities than these, and those capabilities, as they are shown.
pub(super) fn adding_others<'a>(pod: Template<'a>, allowed: &[&str]) -> (Vec<&'a str>, String) {
    let mut others = Values::new();
    let names = named(pod, |container| {
        let added = list(context(container), &["capabilities", "add"]).iter();
        let bad: Vec<&str> =
            added.filter_map(Value::as_str).filter(|name| !allowed.contains(name)).collect();
        others.extend(&bad);
        !bad.is_empty()
    });
    let others: Vec<&str> = others.into_iter().collect();
    (names, quoted(&others))
}

pub(super) fn host_namespaces(pod: Template<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let set: Vec<String> = fields
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

pub(super) fn host_path_volumes(pod: Template<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, &["volumes"]).iter();
    let names: Vec<&str> = volumes
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| text(volume, &["name"]))
        .collect();
    let detail = || format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(&names));
    if names.is_empty() { None } else { violation("hostPath volumes", detail()) }
}

pub(super) fn host_ports(pod: Template<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = named(pod, |container| {
        let declared = list(container, &["ports"]).iter();
        let used: Vec<String> = declared
            .filter_map(|port| port["hostPort"].as_i64().filter(|number| *number != 0))
            .map(|number| number.to_string())
            .collect();
        let is_bad = !used.is_empty();
        ports.extend(used);
        is_bad
    });
    if names.is_empty() {
        return None;
    }
    let uses = plural(names.len(), "uses", "use");
    let what = plural(ports.len(), "hostPort", "hostPorts");
    let ports: Vec<String> = ports.into_iter().collect();
    violation("hostPort", format!("{} {uses} {what} {}", shown(&names), ports.join(", ")))
}

pub(super) fn host_of_probes(pod: Template<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let (mut names, mut hosts) = (Values::new(), Values::new());
    for container in containers(pod) {
        let handlers = HANDLERS.iter().map(|path| at(container, path));
        let named = handlers.flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|action| text(handler, &[action, "host"]))
        });
        let bad: Vec<&str> = named.filter(|host| !host.is_empty()).collect();
        if !bad.is_empty() {
            names.insert(text(container, &["name"]));
            hosts.extend(bad);
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    let uses = plural(names.len(), "uses", "use");
    let what = plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts");
    let detail = format!("{} {uses} {what} {}", shown(&names), quoted(&hosts));
    violation("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: Template<'_>) -> Option<Violation> {
    let names = named(pod, |container| context(container)["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", shown(&names));
    if names.is_empty() { None } else { violation("privileged", detail()) }
}

pub(super) fn proc_mount(pod: Template<'_>) -> Option<Violation> {
    let mut types = Values::new();
    let names = named(pod, |container| match context(container)["procMount"].as_str() {
        None | Some("Default") => false,
        Some(other) => {
            types.insert(other);
            true
        }
    });
    let types: Vec<&str> = types.into_iter().collect();
    let detail = || {
        format!("{} must not set securityContext.procMount to {}", shown(&names), quoted(&types))
    };
    if names.is_empty() { None } else { violation("procMount", detail()) }
}

pub(super) const SELINUX_TYPES_1_0: [&str; 4] =
    ["", "container_t", "container_init_t", "container_kvm_t"];
pub(super) const SELINUX_TYPES_1_31: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

pub(super) fn selinux_options(pod: Template<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut has_user, mut has_role) = (Values::new(), false, false);
    let mut is_bad = |of| {
        let options = &context(of)["seLinuxOptions"];
        let kind = text(options, &["type"]);
        let (user, role) =
            (!text(options, &["user"]).is_empty(), !text(options, &["role"]).is_empty());
        let is_type = !allowed.contains(&kind);
        if is_type {
            types.insert(kind);
        }
        has_user |= user;
        has_role |= role;
        is_type || user || role
    };
    let is_pod = is_bad(pod.spec);
    let names = named(pod, is_bad);
    let setters = setters(is_pod, &names)?;
    let types: Vec<&str> = types.into_iter().collect();
    let kinds = format!("{} {}", plural(types.len(), "type", "types"), quoted(&types));
    let parts = [
        (!types.is_empty()).then_some(kinds),
        has_user.then(|| "user may not be set".to_owned()),
        has_role.then(|| "role may not be set".to_owned()),
    ];
    let data: Vec<String> = parts.into_iter().flatten().collect();
    let data = data.join("; ");
    violation(
        "seLinuxOptions",
        format!("{setters} set forbidden securityContext.seLinuxOptions: {data}"),
    )
}

/// Before 1.19 annotations chose the profile.
pub(super) fn seccomp_annotations(pod: Template<'_>) -> Option<Violation> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let annotations = &pod.metadata["annotations"];
    let names = containers(pod).map(|container| text(container, &["name"]));
    let keys =
        std::iter::once(POD.to_owned()).chain(names.map(|name| format!("{CONTAINER}{name}")));
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| annotations[&key].as_str().map(|value| (key, value)))
        .filter(|(_, value)| {
            !matches!(*value, "runtime/default" | "docker/default")
                && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural(forbidden.len(), "annotation", "annotations");
    let forbidden: Vec<String> = forbidden.into_iter().collect();
    violation("seccompProfile", format!("forbidden {what} {}", forbidden.join(", ")))
}

pub(super) fn seccomp_profile(pod: Template<'_>) -> Option<Violation> {
    let mut values = Values::new();
    let mut is_bad = |of| {
        let kind = bad_seccomp_type(of);
        values.extend(kind);
        kind.is_some()
    };
    let is_pod = is_bad(pod.spec);
    let names = named(pod, is_bad);
    let setters = setters(is_pod, &names)?;
    let values: Vec<&str> = values.into_iter().collect();
    let values = quoted(&values);
    violation(
        "seccompProfile",
        format!("{setters} must not set securityContext.seccompProfile.type to {values}"),
    )
}

/// Returns the type of a seccomp profile that is not allowed.
fn bad_seccomp_type(of: &Value) -> Option<&str> {
    let profile = &context(of)["seccompProfile"];
    let kind = text(profile, &["type"]);
    let is_bad = !profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost");
    is_bad.then_some(kind)
}

/// The safe sysctls, with the minor version since which they are.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn sysctls(pod: Template<'_>, minor: u32) -> Option<Violation> {
    let is_safe = |name: &str| SYSCTLS.iter().any(|(safe, since)| *safe == name && *since <= minor);
    let set = list(pod.spec, &["securityContext", "sysctls"]).iter();
    let forbidden: Vec<&str> =
        set.map(|sysctl| text(sysctl, &["name"])).filter(|name| !is_safe(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

pub(super) fn windows_host_process(pod: Template<'_>) -> Option<Violation> {
    let is_set = |of| context(of)["windowsOptions"]["hostProcess"] == true;
    let setters = setters(is_set(pod.spec), &named(pod, is_set))?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}
