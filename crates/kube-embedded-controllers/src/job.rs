//! Jobs: runs pods until as many as wanted have succeeded, or too many have failed.

mod indexes;
mod plan;
#[cfg(test)]
mod plan_tests;

use super::{
    World,
    cache::Key,
    ownership::still_there,
    pods::{self, Hand},
    queue::Queue,
    selection::{controller, controller_named, is_controlled_by},
    write::{self, Part},
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};
use kube_embedded_core::events::{self, Recorder};
use plan::{Backoff, Plan, is, is_over, is_tracked};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The one who looks after jobs that name nobody else.
const MANAGER: &str = "kubernetes.io/job-controller";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The controller, listening to what it depends on.
pub(crate) struct Controller {
    world: Arc<World>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
    /// By uid of the job: pods that were deleted would be forgotten else.
    backoffs: HashMap<String, Backoff>,
}

impl Controller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = queue.clone();
        world.jobs.on_change(move |before: Option<&Job>, after| {
            if let Some(job) = after.or(before) {
                wake.add(Key::of(job));
            }
        });
        let wake = queue.clone();
        world.pods.on_change(move |before: Option<&Pod>, after| {
            for pod in [before, after].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                if let Some(name) = controller_named(&pod.metadata, "Job").or(orphaned(pod)) {
                    wake.add(Key::new(namespace, name));
                }
            }
        });
        let events = Recorder::new(world.client.clone(), "job-controller", "");
        Self { world: world.clone(), queue, events, backoffs: HashMap::new() }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let key = self.queue.next().await;
            let outcome = self.reconcile(&key).await;
            self.queue.looked(key, outcome);
        }
    }

    async fn reconcile(&mut self, key: &Key) -> kube::Result<Option<Duration>> {
        let world = self.world.clone();
        let pods_api: Api<Pod> = Api::namespaced(world.client.clone(), &key.namespace);
        let job = world.jobs.get(key);
        self.release(&pods_api, &self.stray(key, job.as_deref())).await?;
        let Some(job) = job else { return Ok(None) };
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(None);
        }
        if job.metadata.deletion_timestamp.is_some() || is_over(&job) {
            self.backoffs.remove(&uid);
            self.release(&pods_api, &pods::of(&world, &job.metadata)).await?;
            return self.leave(&job).await;
        }
        let api: Api<Job> = Api::namespaced(world.client.clone(), &key.namespace);
        let known = self.backoffs.get(&uid).copied().unwrap_or_default();
        let plan = plan::plan(&job, &pods::of(&world, &job.metadata), known, Timestamp::now());
        // Pods may have been let go of because of a deletion that is not in the cache yet; what is
        // made now would outlive the job.
        if !plan.create.is_empty() && !still_there(&api, &job.metadata).await? {
            return Ok(None);
        }
        let failed = self.act(&job, &pods_api, &plan).await.err();
        // Read anew: what was written is in the caches. A pod that ends from here on is not named in
        // this status, and so must not lose its finalizer either.
        let pods = pods::of(&world, &job.metadata);
        let status = plan::tracked(&job, &pods, &plan, Timestamp::now());
        let Some(job) = self.put_status(&api, &job, status).await? else { return Ok(None) };
        self.backoffs.insert(uid, plan.backoff);
        if let Some(error) = failed {
            return Err(error);
        }
        self.release(&pods_api, &plan::countable(&job, &pods, &plan)).await?;
        let status = plan::settled(&job, &pods::of(&world, &job.metadata), &plan, Timestamp::now());
        self.put_status(&api, &job, status).await?;
        Ok(plan.again)
    }

    /// Creates and deletes; the last failure.
    async fn act(&self, job: &Job, api: &Api<Pod>, plan: &Plan) -> kube::Result<()> {
        let about = events::about(job);
        let hand = Hand { world: &self.world, api, events: &self.events, owner: &about };
        self.release(api, &plan.remove).await?;
        let deleted = hand.delete(plan.remove.iter().chain(&plan.end)).await;
        hand.create(&plan.create).await.and(deleted)
    }

    /// Writes the status and tells what it means; the job as it is then, `None` if it is gone.
    async fn put_status(
        &self,
        api: &Api<Job>,
        job: &Job,
        status: JobStatus,
    ) -> kube::Result<Option<Arc<Job>>> {
        let new = Job { status: Some(status), ..job.clone() };
        if new != *job {
            match write::update(api, &self.world.jobs, Part::Status, job, &new).await {
                Err(error) if write::is(&error, 404) => return Ok(None),
                other => other?,
            }
            self.tell(job, &new);
        }
        let there = self.world.jobs.get(&Key::of(job));
        Ok(there.filter(|there| there.metadata.uid == job.metadata.uid))
    }

    fn tell(&self, before: &Job, after: &Job) {
        let about = events::about(after);
        let became = |kind: &str| is(after, kind) && !is(before, kind);
        if became("Suspended") {
            self.events.publish(&about, "Normal", "Suspended", "Job suspended");
        }
        if is(before, "Suspended") && !is(after, "Suspended") {
            self.events.publish(&about, "Normal", "Resumed", "Job resumed");
        }
        if became("Complete") {
            self.events.publish(&about, "Normal", "Completed", "Job completed");
        }
        if became("Failed") {
            let conditions = after.status.iter().flat_map(|status| status.conditions.iter());
            for failed in conditions.flatten().filter(|condition| condition.type_ == "Failed") {
                let reason = failed.reason.as_deref().unwrap_or_default();
                let message = failed.message.as_deref().unwrap_or_default();
                self.events.publish(&about, "Warning", reason, message);
            }
        }
    }

    /// Takes the finalizer off pods: they are counted, or nobody will count them.
    async fn release(&self, api: &Api<Pod>, pods: &[Arc<Pod>]) -> kube::Result<()> {
        let cache = &self.world.pods;
        // In the newest version that is known: kubelets write to pods as well.
        let newest = pods.iter().filter_map(|pod| {
            let uid = &pod.metadata.uid;
            cache.get(&Key::of(&**pod)).filter(|now| now.metadata.uid == *uid && is_tracked(now))
        });
        let released = join_all(newest.map(async |pod| {
            let mut new = (*pod).clone();
            if let Some(finalizers) = &mut new.metadata.finalizers {
                finalizers.retain(|known| known != plan::FINALIZER);
            }
            match write::update(api, cache, Part::Main, &*pod, &new).await {
                Err(error) if write::is(&error, 404) => Ok(()),
                other => other,
            }
        }));
        released.await.into_iter().collect()
    }

    /// A job that is over goes when its time has come.
    async fn leave(&self, job: &Job) -> kube::Result<Option<Duration>> {
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        match plan::stays_for(job, Timestamp::now()) {
            Some(Duration::ZERO) => {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                let api: Api<Job> = Api::namespaced(self.world.client.clone(), namespace);
                let parameters = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Foreground),
                    preconditions: Some(Preconditions {
                        uid: job.metadata.uid.clone(),
                        resource_version: job.metadata.resource_version.clone(),
                    }),
                    ..Default::default()
                };
                match api.delete(&job.name_any(), &parameters).await {
                    Err(error) if write::is(&error, 404) => Ok(None),
                    other => other.map(|_| None),
                }
            }
            left => Ok(left),
        }
    }

    /// Pods of a job of this name that is gone.
    fn stray(&self, key: &Key, job: Option<&Job>) -> Vec<Arc<Pod>> {
        let uid = job.and_then(|job| job.metadata.uid.as_deref());
        let mut pods = self.world.pods.in_namespace(&key.namespace);
        pods.retain(|pod| {
            let name = controller_named(&pod.metadata, "Job").or(orphaned(pod));
            is_tracked(pod) && name == Some(&key.name) && !is_controlled_by(&pod.metadata, uid)
        });
        pods
    }
}

/// The name of the job that a pod was made for, where nobody controls it any more.
fn orphaned(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    let free = is_tracked(pod) && controller(&pod.metadata).is_none();
    labels.get(JOB_NAME).filter(|_| free).map(String::as_str)
}
