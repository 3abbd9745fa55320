//! How controllers make and end pods: all at once, with an event of the owner about each.

use super::{
    World,
    selection::is_controlled_by,
    write::{self, create, delete},
};
use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt};
use kube_embedded_core::events::Recorder;
use std::sync::Arc;

/// The pods that an object controls already.
pub(crate) fn of(world: &World, owner: &ObjectMeta) -> Vec<Arc<Pod>> {
    let mut pods = world.pods.in_namespace(owner.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| is_controlled_by(&pod.metadata, owner.uid.as_deref()));
    pods
}

/// Writes pods of one owner and tells of it.
pub(crate) struct Hand<'a> {
    pub(crate) world: &'a World,
    pub(crate) api: &'a Api<Pod>,
    pub(crate) events: &'a Recorder,
    pub(crate) owner: &'a ObjectReference,
}

impl Hand<'_> {
    /// The last failure.
    pub(crate) async fn create(&self, pods: &[Pod]) -> kube::Result<()> {
        let cache = &self.world.pods;
        let mut outcome = Ok(());
        for result in join_all(pods.iter().map(|pod| create(self.api, cache, pod))).await {
            match result {
                Ok(pod) => {
                    let text = format!("Created pod: {}", pod.name_any());
                    self.events.publish(self.owner, "Normal", "SuccessfulCreate", &text);
                }
                Err(error) => {
                    if !write::is_namespace_leaving(&error) {
                        let text = format!("Error creating: {}", write::reason(&error));
                        self.events.publish(self.owner, "Warning", "FailedCreate", &text);
                    }
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// The last failure.
    pub(crate) async fn delete(
        &self,
        pods: impl Iterator<Item = &Arc<Pod>> + Clone,
    ) -> kube::Result<()> {
        let cache = &self.world.pods;
        let deleted = join_all(pods.clone().map(|pod| delete(self.api, cache, &**pod))).await;
        let mut outcome = Ok(());
        for (pod, result) in pods.zip(deleted) {
            match result {
                Ok(()) => {
                    let text = format!("Deleted pod: {}", pod.name_any());
                    self.events.publish(self.owner, "Normal", "SuccessfulDelete", &text);
                }
                Err(error) => {
                    let text = format!("Error deleting: {}", write::reason(&error));
                    self.events.publish(self.owner, "Warning", "FailedDelete", &text);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}
