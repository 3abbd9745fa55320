//! The deployment controller: keeps one replica set per template and moves pods from the old ones to
//! the newest.

mod history;
mod limits;
mod plan;
mod status;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    controller_ref::{claim, controller_name, enqueue_owner, is_controlled_by},
    informers::Informers,
    patch,
    pod::is_finished,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    workqueue::Workqueue,
};
use plan::{Action, plan};
use std::{sync::Arc, time::Duration};

const NAME: &str = "deployment-controller";
/// The default of kube-controller-manager's `--concurrent-deployment-syncs`.
const WORKERS: usize = 5;

/// Reconciles one deployment by one step of its rollout.
pub(crate) struct DeploymentReconciler {
    informers: Arc<Informers>,
    events: Recorder,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<DeploymentReconciler> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(&informers.deployments, &queue);
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.replica_sets.add_event_handler(move |old, new| {
        let Some(informers) = weak.upgrade() else { return };
        for set in [old, new].into_iter().flatten() {
            enqueue_owner(&enqueued, &informers.deployments, &set.metadata);
        }
    });
    // The strategy `Recreate` waits for the end of pods.
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.pods.add_event_handler(move |old, new| {
        let ended = new.is_none_or(|pod| is_finished(pod));
        if let Some(pod) = old.filter(|_| ended)
            && let Some(informers) = weak.upgrade()
            && let Some(deployment) = deployment_of(&informers, pod)
        {
            enqueued.add(deployment);
        }
    });
    let events = Recorder::new(informers.client.clone(), NAME, "");
    let reconciler = DeploymentReconciler { informers: informers.clone(), events };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

/// Returns the key of the deployment whose replica set controls the pod.
fn deployment_of(informers: &Informers, pod: &Pod) -> Option<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let set = controller_name(&pod.metadata, "ReplicaSet")?;
    let set = informers.replica_sets.get(&ObjectKey::new(namespace, set))?;
    Some(ObjectKey::new(namespace, controller_name(&set.metadata, "Deployment")?))
}

/// The clients for the resources of one deployment.
struct Apis {
    deployments: Api<Deployment>,
    replica_sets: Api<ReplicaSet>,
}

impl Reconciler for DeploymentReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let Some(deployment) = informers.deployments.get(key) else { return Ok(None) };
        let apis = Apis {
            deployments: Api::namespaced(informers.client.clone(), &key.namespace),
            replica_sets: Api::namespaced(informers.client.clone(), &key.namespace),
        };
        let sets = claim(
            &*deployment,
            &apis.deployments,
            &apis.replica_sets,
            &informers.replica_sets,
            |_| true,
        )
        .await?;
        let Some(sets) = sets else { return Ok(None) };
        let pods: Vec<Arc<Pod>> =
            sets.iter().flat_map(|set| informers.pods_controlled_by(&set.metadata)).collect();
        let plan = plan(&deployment, &sets, &pods, Timestamp::now());
        if !self.execute(key, &deployment, &apis, plan.actions).await? {
            return Ok(None);
        }
        Ok(plan.requeue_after)
    }
}

impl DeploymentReconciler {
    /// Carries out the actions in order. Returns `false` if the rest is obsolete, because a write has
    /// changed what the next plan is made on.
    async fn execute(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        apis: &Apis,
        actions: Vec<Action>,
    ) -> kube::Result<bool> {
        let Informers { deployments, replica_sets, .. } = &*self.informers;
        let mut current = deployment.clone();
        for action in actions {
            match action {
                Action::Create(set) => {
                    if !self.create(&current, apis, &set).await? {
                        return Ok(false);
                    }
                }
                Action::Update { old, new } => {
                    patch::update(&apis.replica_sets, replica_sets, &*old, &*new).await?;
                }
                Action::Delete(set) => {
                    patch::delete(&apis.replica_sets, replica_sets, &*set).await?;
                }
                Action::Annotate(new) => {
                    // By the status subresource, as Kubernetes does: this changes no generation.
                    let new = Deployment { status: current.status.clone(), ..*new };
                    let api = &apis.deployments;
                    patch::update_status(api, deployments, &*current, &new).await?;
                    let Some(written) = deployments.get(key) else { return Ok(false) };
                    current = written;
                }
                Action::UpdateStatus(status) => {
                    let new = Deployment { status: Some(*status), ..(*current).clone() };
                    let api = &apis.deployments;
                    patch::update_status(api, deployments, &*current, &new).await?;
                }
                Action::Event(note) => {
                    tracing::debug!(note, "scaling");
                    let about = events::about(&**deployment);
                    self.events.publish(&about, "Normal", "ScalingReplicaSet", &note);
                }
            }
        }
        Ok(true)
    }

    /// Creates a replica set. Returns `false` if its name is taken: the next plan will use another.
    async fn create(
        &self,
        deployment: &Deployment,
        apis: &Apis,
        set: &ReplicaSet,
    ) -> kube::Result<bool> {
        match patch::create(&apis.replica_sets, &self.informers.replica_sets, set).await {
            Ok(_) => Ok(true),
            Err(error) if patch::is_status(&error, 409) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let Some(existing) = apis.replica_sets.get_opt(name).await? else {
                    return Err(error);
                };
                let owned =
                    is_controlled_by(&existing.metadata, deployment.metadata.uid.as_deref());
                let template = |set: &ReplicaSet| set.spec.as_ref()?.template.clone();
                let is_same = owned && template(&existing) == template(set);
                self.informers.replica_sets.observe_own_write(existing);
                if is_same {
                    return Err(error);
                }
                self.count_collision(deployment, apis).await?;
                Ok(false)
            }
            Err(error) if patch::is_namespace_terminating(&error) => Err(error),
            Err(error) => {
                self.report_failed_creation(deployment, apis, set, &error).await?;
                Err(error)
            }
        }
    }

    /// Records that the hash of the template is taken; it is part of the next hash.
    async fn count_collision(&self, deployment: &Deployment, apis: &Apis) -> kube::Result<()> {
        let mut new = deployment.clone();
        let status = new.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        let informer = &self.informers.deployments;
        patch::update_status(&apis.deployments, informer, deployment, &new).await
    }

    /// Reports the failure by the Progressing condition, as `kubectl rollout status` expects, and
    /// an event.
    async fn report_failed_creation(
        &self,
        deployment: &Deployment,
        apis: &Apis,
        set: &ReplicaSet,
        error: &kube::Error,
    ) -> kube::Result<()> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message =
            format!("Failed to create new replica set {name:?}: {}", patch::message(error));
        let condition = status::condition(
            status::PROGRESSING,
            "False",
            "ReplicaSetCreateError",
            message.clone(),
            Timestamp::now(),
        );
        let mut new = deployment.clone();
        status::set_condition(new.status.get_or_insert_default(), condition);
        let informer = &self.informers.deployments;
        patch::update_status(&apis.deployments, informer, deployment, &new).await?;
        let about = events::about(deployment);
        self.events.publish(&about, "Warning", "ReplicaSetCreateError", &message);
        Ok(())
    }
}
