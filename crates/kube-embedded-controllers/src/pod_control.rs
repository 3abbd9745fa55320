//! Creates and deletes the pods of an owner, with an event of the owner about each
//! (kube-controller-manager's `PodControl`).

use crate::{
    informers::Informers,
    patch::{self, create, delete},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{Api, ResourceExt};
use kube_embedded_core::events::Recorder;
use std::sync::Arc;

/// Writes pods of one owner.
pub(crate) struct PodControl<'a> {
    pub(crate) informers: &'a Informers,
    pub(crate) api: &'a Api<Pod>,
    pub(crate) events: &'a Recorder,
    pub(crate) owner: &'a ObjectReference,
}

impl PodControl<'_> {
    /// Creates all pods concurrently.
    ///
    /// # Errors
    /// The last failure; the others are reported by events only.
    pub(crate) async fn create(&self, pods: &[Pod]) -> kube::Result<()> {
        let informer = &self.informers.pods;
        let mut outcome = Ok(());
        for result in join_all(pods.iter().map(|pod| create(self.api, informer, pod))).await {
            match result {
                Ok(pod) => {
                    let note = format!("Created pod: {}", pod.name_any());
                    self.events.publish(self.owner, "Normal", "SuccessfulCreate", &note);
                }
                Err(error) => {
                    if !patch::is_namespace_terminating(&error) {
                        let note = format!("Error creating: {}", patch::message(&error));
                        self.events.publish(self.owner, "Warning", "FailedCreate", &note);
                    }
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Deletes all pods concurrently.
    ///
    /// # Errors
    /// The last failure; the others are reported by events only.
    pub(crate) async fn delete(
        &self,
        pods: impl Iterator<Item = &Arc<Pod>> + Clone,
    ) -> kube::Result<()> {
        let informer = &self.informers.pods;
        let deleted = join_all(pods.clone().map(|pod| delete(self.api, informer, &**pod))).await;
        let mut outcome = Ok(());
        for (pod, result) in pods.zip(deleted) {
            match result {
                Ok(()) => {
                    let note = format!("Deleted pod: {}", pod.name_any());
                    self.events.publish(self.owner, "Normal", "SuccessfulDelete", &note);
                }
                Err(error) => {
                    let note = format!("Error deleting: {}", patch::message(&error));
                    self.events.publish(self.owner, "Warning", "FailedDelete", &note);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}
