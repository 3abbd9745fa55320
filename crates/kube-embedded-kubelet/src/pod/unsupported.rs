//! The fields of a pod that the kubelet cannot honor on this machine. They are reported once, as an
//! event: a pod must not run otherwise than it says without a word.

use super::handle::PodHandle;
use crate::{host_port, resources};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube_embedded_core::network::Sandbox;
use std::{net::Ipv4Addr, sync::atomic::Ordering};

/// The abilities of a node that decide which fields it honors.
#[derive(Clone, Copy)]
struct Node {
    ip: Ipv4Addr,
    namespaced: bool,
    /// The cluster runs as root, and pods have ids of their own.
    root: bool,
    limits_cpu: bool,
    /// Root file systems are in memory, of this size at most.
    storage: Option<u64>,
    memory_volumes: bool,
}

/// Publishes an event if the pod has fields that are not honored.
pub(super) fn report(pod: &PodHandle) {
    let runtime = &pod.runtime;
    let node = Node {
        ip: pod.node.ip,
        namespaced: runtime.sandbox == Sandbox::Namespaced,
        root: rustix::process::geteuid().is_root(),
        limits_cpu: runtime.cgroups.as_ref().is_some_and(|cgroups| cgroups.limits_cpu()),
        storage: (runtime.sandbox == Sandbox::Namespaced
            && !runtime.no_overlay.load(Ordering::Relaxed))
        .then(resources::max_storage),
        memory_volumes: runtime.memory.is_some(),
    };
    let fields = unsupported(&pod.pod, node);
    if !fields.is_empty() {
        pod.warning("UnsupportedField", &format!("Not honored: {}", fields.join("; ")));
    }
}

/// Returns each field that is not honored, with the reason.
fn unsupported(pod: &Pod, node: Node) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut all = Vec::new();
    let mut add = |is_set: bool, field: &str, why: &str| {
        if is_set {
            all.push(format!("spec.{field} ({why})"));
        }
    };
    const OWN: &str = "every pod has namespaces of its own";
    add(spec.host_network == Some(true), "hostNetwork", OWN);
    add(spec.host_pid == Some(true), "hostPID", OWN);
    add(spec.host_ipc == Some(true), "hostIPC", OWN);
    let apart = "every container has processes of its own";
    add(spec.share_process_namespace == Some(true), "shareProcessNamespace", apart);
    let one_id = "the cluster was started by an ordinary user, whose pods have one group id";
    if let Some(context) = &spec.security_context {
        add(context.fs_group.is_some() && !node.root, "securityContext.fsGroup", one_id);
        let groups = context.supplemental_groups.as_ref().is_some_and(|groups| !groups.is_empty());
        add(groups && !node.root, "securityContext.supplementalGroups", one_id);
        let sysctls = context.sysctls.as_ref().is_some_and(|sysctls| !sysctls.is_empty());
        let plain = "processes in the plain sandbox have the kernel parameters of the host";
        add(sysctls && !node.namespaced, "securityContext.sysctls", plain);
    }
    for volume in spec.volumes.iter().flatten() {
        let medium = volume.empty_dir.as_ref().and_then(|e| e.medium.as_deref());
        let field = format!("volumes[{}].emptyDir.medium", volume.name);
        match medium.unwrap_or_default() {
            "" => {}
            "Memory" => add(!node.memory_volumes, &field, "there is no file system in memory"),
            _ => add(true, &field, "only Memory is supported"),
        }
    }
    let held = host_port::ports(pod).any(|port| host_port::address(port, node.ip).is_none());
    add(held, "containers.ports.hostPort", "only TCP, on addresses of the node and on loopback");
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        of_container(container, node, &mut add);
    }
    all
}

fn of_container(container: &Container, node: Node, add: &mut impl FnMut(bool, &str, &str)) {
    let field = |name: &str| format!("containers[{}].{name}", container.name);
    let limits = resources::limits(container);
    let cpu = limits.milli_cpu.is_some() && !node.limits_cpu;
    add(cpu, &field("resources.limits.cpu"), "no cgroups are delegated on this machine");
    let storage = resources::storage_limit(container);
    let (why, honored) = match node.storage {
        Some(max) => ("root file systems have at most half of the memory", storage <= Some(max)),
        None => ("what a container writes is not measured", storage.is_none()),
    };
    add(!honored, &field("resources.limits.ephemeral-storage"), why);
    let mounted = container.volume_mounts.as_ref().is_some_and(|mounts| {
        // Every pod has the token of its service account.
        mounts.iter().any(|m| !m.mount_path.starts_with("/var/run/secrets/kubernetes.io/"))
    });
    add(mounted && !node.namespaced, &field("volumeMounts"), "the plain sandbox has no mounts");
    let devices = container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty());
    add(devices, &field("volumeDevices"), "there are no block devices");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn fields_are_unsupported_by_what_the_node_can_do() {
        let able = Node {
            ip: Ipv4Addr::new(127, 7, 0, 11),
            namespaced: true,
            root: true,
            limits_cpu: true,
            storage: Some(2 << 30),
            memory_volumes: true,
        };
        let unable = Node {
            namespaced: false,
            root: false,
            limits_cpu: false,
            storage: None,
            memory_volumes: false,
            ..able
        };
        let container = |more: Value| {
            let mut container = json!({ "name": "c" });
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "containers": [container] })
        };
        for (spec, on_able, on_unable) in [
            (json!({ "containers": [{ "name": "c" }] }), None, None),
            (
                json!({ "containers": [], "hostNetwork": true }),
                Some("hostNetwork"),
                Some("hostNetwork"),
            ),
            (json!({ "containers": [], "hostNetwork": false }), None, None),
            (
                json!({ "containers": [], "securityContext": { "fsGroup": 2000 } }),
                None,
                Some("securityContext.fsGroup"),
            ),
            (
                json!({ "containers": [], "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }] }),
                None,
                Some("volumes[v].emptyDir.medium"),
            ),
            (
                container(json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } })),
                None,
                Some("containers[c].resources.limits.cpu"),
            ),
            (
                container(json!({ "resources": { "limits": { "ephemeral-storage": "1Gi" } } })),
                None,
                Some("containers[c].resources.limits.ephemeral-storage"),
            ),
            (
                container(json!({ "resources": { "limits": { "ephemeral-storage": "3Gi" } } })),
                Some("containers[c].resources.limits.ephemeral-storage"),
                Some("containers[c].resources.limits.ephemeral-storage"),
            ),
            (
                container(json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] })),
                None,
                Some("containers[c].volumeMounts"),
            ),
            (
                container(
                    json!({ "ports": [{ "containerPort": 1, "hostPort": 1, "protocol": "UDP" }] }),
                ),
                Some("containers.ports.hostPort"),
                Some("containers.ports.hostPort"),
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
            for (node, expected) in [(able, on_able), (unable, on_unable)] {
                let found = unsupported(&pod, node);
                let names: Vec<_> =
                    found.iter().filter_map(|f| Some(f.split_once(" (")?.0)).collect();
                let expected: Vec<_> = expected.map(|e| format!("spec.{e}")).into_iter().collect();
                assert_eq!(names, expected);
            }
        }
    }
}
