//! The Node objects.

use crate::{error::KubeletError, image_store::Image};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use kube_embedded_core::version::KUBERNETES_VERSION;
use oci_archive::host_architecture;
use serde_json::{Value, json};
use std::{fs, net::Ipv4Addr, sync::Arc};

/// Registers a node, or adopts the object from before a restart of the cluster.
pub(crate) async fn register(
    client: &Client,
    name: &str,
    ip: Ipv4Addr,
    pods: (Ipv4Addr, u8),
    control_plane: bool,
    images: &[Arc<Image>],
) -> Result<(), KubeletError> {
    let failed = |verb: &str, e: &dyn std::fmt::Display| {
        KubeletError(format!("failed to {verb} node {name}: {e}"))
    };
    let api: Api<Node> = Api::all(client.clone());
    let mut labels = json!({
        "beta.kubernetes.io/arch": host_architecture(),
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": host_architecture(),
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
    });
    if let (true, Value::Object(labels)) = (control_plane, &mut labels) {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), json!(""));
    }
    let range = format!("{}/{}", pods.0, pods.1);
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels },
        "spec": { "podCIDR": range, "podCIDRs": [range], "providerID": format!("embedded://{name}") },
    });
    let object: Node = serde_json::from_value(node).map_err(|e| failed("describe", &e))?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        Err(e) => return Err(failed("register", &e)),
    }
    let status = json!({ "status": status(name, ip, images, Timestamp::now()) });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .map_err(|e| failed("report the status of", &e))?;
    tracing::debug!(node = name, %ip, pod_cidr = range, "node registered");
    Ok(())
}

/// Updates the list of images in the status of a node.
pub(crate) async fn report_images(client: &Client, name: &str, loaded: &[Arc<Image>]) {
    let api: Api<Node> = Api::all(client.clone());
    let status = json!({ "status": { "images": images(loaded) } });
    // Informational: the next image that is loaded repeats it.
    if let Err(error) =
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await
    {
        tracing::warn!(node = name, %error, "failed to report the images of a node");
    }
}

fn status(name: &str, ip: Ipv4Addr, loaded: &[Arc<Image>], now: Timestamp) -> Value {
    let now = super::status::time(now);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let memory = memory();
    let resources = json!({
        "cpu": processors().to_string(),
        "memory": format!("{memory}Ki"),
        "ephemeral-storage": "10485760Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "pods": "110",
    });
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if holds { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        })
    };
    let id = read("/etc/machine-id");
    json!({
        "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }],
        "allocatable": resources,
        "capacity": resources,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
        "images": images(loaded),
        "nodeInfo": {
            "architecture": host_architecture(),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "containerRuntimeVersion": concat!("kube-embedded://", env!("CARGO_PKG_VERSION")),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "kubeProxyVersion": "",
            "kubeletVersion": KUBERNETES_VERSION,
            "machineID": id,
            "operatingSystem": "linux",
            "osImage": os_name(&read("/etc/os-release")),
            "systemUUID": id,
        },
    })
}

/// The memory of the machine in KiB.
pub(crate) fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        |line: &str| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok();
    text.lines().find_map(total).unwrap_or(1 << 20)
}

/// The number of processors of the machine.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn images(loaded: &[Arc<Image>]) -> Value {
    loaded.iter().map(|i| json!({ "names": i.names, "sizeBytes": i.size })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_that_of_a_ready_node() {
        let image = Image {
            names: vec!["a:1".into()],
            id: String::new(),
            rootfs: "/".into(),
            config: Default::default(),
            size: 3,
        };
        let status =
            status("node-1", Ipv4Addr::new(127, 1, 0, 11), &[Arc::new(image)], Timestamp::now());
        let node: Node =
            serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap();
        let status = node.status.unwrap();
        assert!(
            status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True")
        );
        assert_eq!(status.images.unwrap()[0].size_bytes, Some(3));
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
    }
}
