//! The Lease of each node, renewed as long as the kubelet runs: its heartbeat.

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::interval;

const NAMESPACE: &str = "kube-node-lease";
/// The kubelet's default (`nodeLeaseDurationSeconds`).
const DURATION_SECONDS: i32 = 40;
/// A quarter of the duration, as the kubelet.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Renews the Leases of these nodes. Never returns.
pub(crate) async fn keep(client: Client, nodes: Vec<String>) {
    let mut due = interval(RENEW_INTERVAL);
    loop {
        due.tick().await;
        for node in &nodes {
            // The next interval is early enough for a retry.
            match renew(&client, node).await {
                Ok(()) => tracing::trace!(node, "node lease renewed"),
                Err(error) => tracing::warn!(node, %error, "failed to renew the node lease"),
            }
        }
    }
}

async fn renew(client: &Client, node: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let now = Timestamp::now();
    let patch = json!({ "spec": { "renewTime": micro_time(now) } });
    match api.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = Api::<Node>::all(client.clone()).get(node).await?;
    let uid = owner.metadata.uid.unwrap_or_default();
    let lease = serde_json::from_value(lease(node, &uid, now)).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &lease).await.map(drop)
}

fn lease(node: &str, uid: &str, now: Timestamp) -> Value {
    json!({
        "metadata": {
            "name": node,
            "namespace": NAMESPACE,
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid },
            ],
        },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": micro_time(now),
        },
    })
}

fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_held_by_its_node() {
        let value = lease("node-1", "u", Timestamp::UNIX_EPOCH);
        assert_eq!(value["spec"]["renewTime"], "1970-01-01T00:00:00.000000Z");
        let lease: Lease = serde_json::from_value(value).unwrap();
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("node-1"));
    }
}
