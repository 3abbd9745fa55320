//! Removes the taint that keeps pods off a new node until it is ready (kube-controller-manager's
//! `node-lifecycle-controller`). Nodes that become unready later are left to the scheduler, which reads their conditions.

use crate::{
    controller::{Controller, Reconciler},
    informers::Informers,
    patch,
    scheduler::filter::is_ready,
};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube_embedded_core::{informer::ObjectKey, workqueue::Workqueue};
use std::{sync::Arc, time::Duration};

const NAME: &str = "node-lifecycle-controller";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(crate) struct NodeLifecycleReconciler {
    informers: Arc<Informers>,
}

/// Creates the controller and registers its event handler.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<NodeLifecycleReconciler> {
    let queue = Arc::new(Workqueue::default());
    let enqueued = queue.clone();
    informers.nodes.add_event_handler(move |_, new| {
        if let Some(node) = new.filter(|node| plan(node).is_some()) {
            enqueued.add(ObjectKey::of(&**node));
        }
    });
    Controller::new(NAME, 1, queue, NodeLifecycleReconciler { informers: informers.clone() })
}

impl Reconciler for NodeLifecycleReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Informers { client, nodes, .. } = &*self.informers;
        let Some(old) = nodes.get(key) else { return Ok(None) };
        if let Some(new) = plan(&old) {
            patch::update(&Api::all(client.clone()), nodes, &*old, &new).await?;
        }
        Ok(None)
    }
}

/// Returns a node that is ready without the taint, if it has it.
fn plan(node: &Node) -> Option<Node> {
    let is_not_ready = |taint: &k8s_openapi::api::core::v1::Taint| {
        taint.key == NOT_READY && taint.effect == "NoSchedule"
    };
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    if !is_ready(node) || !taints.iter().any(is_not_ready) {
        return None;
    }
    let mut node = node.clone();
    let taints = node.spec.as_mut()?.taints.as_mut()?;
    taints.retain(|taint| !is_not_ready(taint));
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_node_loses_the_taint_and_keeps_others() {
        let node = |ready: &str, keys: &[&str]| -> Node {
            let taints: Vec<_> =
                keys.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
            serde_json::from_value(json!({
                "metadata": { "name": "n" },
                "spec": { "taints": taints },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap()
        };
        let planned = plan(&node("True", &["a", NOT_READY]));
        assert_eq!(planned, Some(node("True", &["a"])));
        assert_eq!(plan(&node("True", &["a"])), None);
        assert_eq!(plan(&node("False", &[NOT_READY])), None);
    }
}
