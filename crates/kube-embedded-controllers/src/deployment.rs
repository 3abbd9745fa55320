//! Deployments: keeps one replica set per template and moves pods from the old ones to the newest.

mod history;
mod limits;
mod plan;
mod status;

use super::{
    World,
    cache::Key,
    ownership,
    queue::Queue,
    selection::{controller_named, is_controlled_by},
    write::{self, Part},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::Api;
use kube_embedded_core::events::{self, Recorder};
use plan::{Action, plan};
use std::{sync::Arc, time::Duration};

/// The controller, listening to what it depends on.
pub(crate) struct Controller {
    world: Arc<World>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
}

impl Controller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = queue.clone();
        world.deployments.on_change(move |before: Option<&Deployment>, after| {
            if let Some(deployment) = after.or(before) {
                wake.add(Key::of(deployment));
            }
        });
        let (wake, weak) = (queue.clone(), Arc::downgrade(world));
        world.replica_sets.on_change(move |before: Option<&ReplicaSet>, after| {
            let Some(world) = weak.upgrade() else { return };
            for set in [before, after].into_iter().flatten() {
                ownership::wake(&wake, &world.deployments, &set.metadata);
            }
        });
        // Only `Recreate` waits for pods to be gone.
        let (wake, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |before: Option<&Pod>, after| {
            let over = after.is_none_or(write::is_finished);
            let Some(pod) = before.filter(|_| over) else { return };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if let Some(set) = controller_named(&pod.metadata, "ReplicaSet")
                && let Some(world) = weak.upgrade()
                && let Some(set) = world.replica_sets.get(&Key::new(namespace, set))
                && let Some(name) = controller_named(&set.metadata, "Deployment")
            {
                wake.add(Key::new(namespace, name));
            }
        });
        let events = Recorder::new(world.client.clone(), "deployment-controller", "");
        Self { world: world.clone(), queue, events }
    }

    pub(crate) async fn run(self) {
        loop {
            let key = self.queue.next().await;
            let outcome = self.reconcile(&key).await;
            self.queue.looked(key, outcome);
        }
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Option<Duration>> {
        let world = &self.world;
        let Some(deployment) = world.deployments.get(key) else { return Ok(None) };
        let sets_api: Api<ReplicaSet> = Api::namespaced(world.client.clone(), &key.namespace);
        let api: Api<Deployment> = Api::namespaced(world.client.clone(), &key.namespace);
        let sets = &world.replica_sets;
        let sets = ownership::owned(&*deployment, &api, &sets_api, sets, |_| true).await?;
        let Some(sets) = sets else { return Ok(None) };
        let pods: Vec<Arc<Pod>> = world
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| {
                sets.iter().any(|s| is_controlled_by(&pod.metadata, s.metadata.uid.as_deref()))
            })
            .collect();
        let plan = plan(&deployment, &sets, &pods, Timestamp::now());
        let mut current = deployment.clone();
        for action in plan.actions {
            match action {
                Action::Create(set) => {
                    if !self.create(&current, &api, &sets_api, &set).await? {
                        return Ok(None);
                    }
                }
                Action::Update { old, new } => {
                    write::update(&sets_api, &world.replica_sets, Part::Main, &*old, &*new).await?;
                }
                Action::Delete(set) => {
                    write::delete(&sets_api, &world.replica_sets, &*set).await?;
                }
                Action::Annotate(new) => {
                    // As Kubernetes does: a write of the main part would be about the spec.
                    let new = with_status(&new, &current);
                    write::update(&api, &world.deployments, Part::Status, &*current, &new).await?;
                    match world.deployments.get(key) {
                        Some(written) => current = written,
                        None => return Ok(None),
                    }
                }
                Action::Status(status) => {
                    let new = Deployment { status: Some(*status), ..(*current).clone() };
                    write::update(&api, &world.deployments, Part::Status, &*current, &new).await?;
                }
                Action::Tell(text) => {
                    let about = events::about(&*deployment);
                    self.events.publish(&about, "Normal", "ScalingReplicaSet", &text);
                }
            }
        }
        Ok(plan.again)
    }

    /// Creates a replica set; `false` when its name was taken and the next plan will use another.
    async fn create(
        &self,
        deployment: &Deployment,
        api: &Api<Deployment>,
        sets_api: &Api<ReplicaSet>,
        set: &ReplicaSet,
    ) -> kube::Result<bool> {
        let sets = &self.world.replica_sets;
        match write::create(sets_api, sets, set).await {
            Ok(_) => Ok(true),
            Err(error) if write::is(&error, 409) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let Some(taken) = sets_api.get_opt(name).await? else { return Err(error) };
                let ours = is_controlled_by(&taken.metadata, deployment.metadata.uid.as_deref());
                let same = taken.spec.as_ref().map(|s| &s.template)
                    == set.spec.as_ref().map(|s| &s.template);
                sets.wrote(taken);
                if ours && same {
                    return Err(error);
                }
                let mut new = deployment.clone();
                let status = new.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                write::update(api, &self.world.deployments, Part::Status, deployment, &new).await?;
                Ok(false)
            }
            Err(error) if write::is_namespace_leaving(&error) => Err(error),
            Err(error) => {
                let mut new = deployment.clone();
                let text = format!(
                    "Failed to create new replica set {:?}: {}",
                    set.metadata.name.as_deref().unwrap_or_default(),
                    write::reason(&error)
                );
                let known = new.status.get_or_insert_default();
                let condition = status::condition(
                    status::PROGRESSING,
                    "False",
                    "ReplicaSetCreateError",
                    text.clone(),
                    Timestamp::now(),
                );
                status::set(known, condition);
                write::update(api, &self.world.deployments, Part::Status, deployment, &new).await?;
                let about = events::about(deployment);
                self.events.publish(&about, "Warning", "ReplicaSetCreateError", &text);
                Err(error)
            }
        }
    }
}

/// `new` with the status as it is stored, so that a write is about the metadata alone.
fn with_status(new: &Deployment, stored: &Deployment) -> Deployment {
    Deployment { status: stored.status.clone(), ..new.clone() }
}
