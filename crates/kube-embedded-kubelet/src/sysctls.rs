//! Kernel parameters of a pod (`securityContext.sysctls`). Those that belong to the namespaces of the
//! pod are set; a pod with another is not started, as by a kubelet without `allowedUnsafeSysctls`.

use k8s_openapi::api::core::v1::Pod;
use std::ffi::CString;

/// The allowlist of the kubelet in Kubernetes 1.36 (`SafeSysctlAllowlist`).
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Returns the parameters of a pod, with dots between the parts of their names, and their values.
fn of(pod: &Pod) -> impl Iterator<Item = (String, &str)> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    sysctls.map(|sysctl| (with_dots(&sysctl.name), sysctl.value.as_str()))
}

/// Names may be written with slashes, and then have dots within their parts. The first separator
/// decides.
fn with_dots(name: &str) -> String {
    let first = name.find(['.', '/']).and_then(|at| name.get(at..));
    match first.is_some_and(|rest| rest.starts_with('/')) {
        true => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        false => name.to_owned(),
    }
}

/// Returns why a pod may not run, if it has a parameter that is not safe.
pub(crate) fn rejection(pod: &Pod) -> Option<String> {
    let mut names = of(pod).map(|(name, _)| name);
    let forbidden = names.find(|name| !SAFE.contains(&name.as_str()))?;
    Some(format!("forbidden sysctl: {forbidden:?} not allowlisted"))
}

/// Returns the files below `/proc/sys` and what is written to them, in order.
///
/// # Errors
/// A value that cannot be written.
pub(crate) fn files(pod: &Pod) -> Result<Vec<(CString, CString)>, String> {
    let file = |(name, value): (String, &str)| {
        let path = CString::new(format!("/proc/sys/{}", name.replace('.', "/")));
        let failed = |_| format!("the value of sysctl {name:?} contains a NUL");
        Ok((path.map_err(failed)?, CString::new(value).map_err(failed)?))
    };
    of(pod).map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Pod {
        let sysctls = json!([{ "name": name, "value": "1" }]);
        let context = json!({ "sysctls": sysctls });
        serde_json::from_value(json!({ "spec": { "containers": [], "securityContext": context } }))
            .unwrap()
    }

    #[test]
    fn safe_parameters_are_files_and_others_are_rejected() {
        for name in ["net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"] {
            assert_eq!(rejection(&pod(name)), None);
            let path = c"/proc/sys/net/ipv4/tcp_syncookies".to_owned();
            assert_eq!(files(&pod(name)), Ok(vec![(path, c"1".to_owned())]));
        }
        for (name, shown) in [
            ("kernel.msgmax", "kernel.msgmax"),
            ("kernel/shm_rmid_forced/..", "kernel.shm_rmid_forced.//"),
            ("vm.overcommit_memory", "vm.overcommit_memory"),
        ] {
            let expected = format!("forbidden sysctl: {shown:?} not allowlisted");
            assert_eq!(rejection(&pod(name)), Some(expected));
        }
        assert_eq!(rejection(&Pod::default()), None);
    }
}
