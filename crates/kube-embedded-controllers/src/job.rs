//! The job controller: runs pods until the desired number has succeeded or too many have failed.

mod backoff;
mod condition;
mod indexes;
mod plan;
mod pod_failure_policy;
mod status;
mod template;
mod view;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    controller_ref::{
        claim, controller_name, controller_of, enqueue_owner, is_controlled_by, is_live,
    },
    informers::Informers,
    patch,
    pod_control::PodControl,
};
use backoff::PodFailures;
use condition::{is_finished, is_true, remaining_ttl};
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
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    workqueue::Workqueue,
};
use plan::{Plan, plan};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use template::{FINALIZER, is_tracked};

const NAME: &str = "job-controller";
/// The default of kube-controller-manager's `--concurrent-job-syncs`.
const WORKERS: usize = 5;
/// The value of `spec.managedBy` for jobs of this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Reconciles one job and its pods.
pub(crate) struct JobReconciler {
    informers: Arc<Informers>,
    events: Recorder,
    /// By uid of the job. Kept here, because deleted pods cannot be counted any more.
    failures: Mutex<HashMap<String, PodFailures>>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<JobReconciler> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(&informers.jobs, &queue);
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.pods.add_event_handler(move |old, new| {
        let Some(informers) = weak.upgrade() else { return };
        for pod in [old, new].into_iter().flatten() {
            enqueue_owner(&enqueued, &informers.jobs, &pod.metadata);
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if let Some(name) = job_name(pod) {
                enqueued.add(ObjectKey::new(namespace, name));
            }
        }
    });
    let events = Recorder::new(informers.client.clone(), NAME, "");
    let reconciler =
        JobReconciler { informers: informers.clone(), events, failures: Mutex::default() };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

/// Returns the name of the job that controls the pod, or did until it was orphaned.
fn job_name(pod: &Pod) -> Option<&str> {
    let orphaned_from = || {
        let labels = pod.metadata.labels.as_ref()?;
        let is_orphan = is_tracked(pod) && controller_of(&pod.metadata).is_none();
        labels.get(JOB_NAME).filter(|_| is_orphan).map(String::as_str)
    };
    controller_name(&pod.metadata, "Job").or_else(orphaned_from)
}

impl Reconciler for JobReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let pods_api: Api<Pod> = Api::namespaced(informers.client.clone(), &key.namespace);
        let job = informers.jobs.get(key);
        let is_managed = |job: &Arc<Job>| {
            let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
            manager.is_none_or(|manager| manager == MANAGER)
        };
        let is_over = |job: &Job| job.metadata.deletion_timestamp.is_some() || is_finished(job);
        if let Some(job) = job.as_ref().filter(|job| is_managed(job) && !is_over(job)) {
            let api: Api<Job> = Api::namespaced(informers.client.clone(), &key.namespace);
            let claimed = claim(&**job, &api, &pods_api, &informers.pods, |_| true).await?;
            if claimed.is_none() {
                return Ok(None);
            }
        }
        self.remove_finalizer(&pods_api, &self.orphans(key, job.as_deref())).await?;
        let Some(job) = job.filter(is_managed) else { return Ok(None) };
        if is_over(&job) {
            self.lock_failures().remove(&job.uid().unwrap_or_default());
            let pods = informers.pods_controlled_by(&job.metadata);
            self.remove_finalizer(&pods_api, &pods).await?;
            return self.delete_after_ttl(&job).await;
        }
        self.sync(key, &job, &pods_api).await
    }
}

impl JobReconciler {
    /// Reconciles a job that is not finished.
    async fn sync(
        &self,
        key: &ObjectKey,
        job: &Job,
        pods_api: &Api<Pod>,
    ) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let api: Api<Job> = Api::namespaced(informers.client.clone(), &key.namespace);
        let uid = job.uid().unwrap_or_default();
        let failures = self.lock_failures().get(&uid).copied().unwrap_or_default();
        let pods = informers.pods_controlled_by(&job.metadata);
        let plan = plan(job, &pods, failures, Timestamp::now());
        // Pods may have been orphaned by a deletion that the informer has not seen; new ones would
        // outlive the job.
        if !plan.create.is_empty() && !is_live(&api, &job.metadata).await? {
            return Ok(None);
        }
        let failed = self.execute(job, pods_api, &plan).await.err();
        // Read once: a pod that ends from here on is not recorded by this status, so it must not lose
        // its finalizer either.
        let pods = informers.pods_controlled_by(&job.metadata);
        let status = status::record(job, &pods, &plan, Timestamp::now());
        let Some(job) = self.update_status(&api, job, status).await? else { return Ok(None) };
        self.lock_failures().insert(uid, plan.failures);
        if let Some(error) = failed {
            return Err(error);
        }
        self.remove_finalizer(pods_api, &status::recorded_pods(&job, &pods, &plan)).await?;
        let pods = informers.pods_controlled_by(&job.metadata);
        let status = status::finish(&job, &pods, &plan, Timestamp::now());
        self.update_status(&api, &job, status).await?;
        Ok(plan.requeue_after)
    }

    fn lock_failures(&self) -> MutexGuard<'_, HashMap<String, PodFailures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates and deletes pods. Returns the last failure.
    async fn execute(&self, job: &Job, api: &Api<Pod>, plan: &Plan) -> kube::Result<()> {
        let owner = events::about(job);
        let pods =
            PodControl { informers: &self.informers, api, events: &self.events, owner: &owner };
        self.remove_finalizer(api, &plan.delete_uncounted).await?;
        let deleted = pods.delete(plan.delete_uncounted.iter().chain(&plan.delete)).await;
        pods.create(&plan.create).await.and(deleted)
    }

    /// Writes the status and publishes the events that follow from it. Returns the job as written;
    /// `None` if it has been deleted.
    async fn update_status(
        &self,
        api: &Api<Job>,
        job: &Job,
        status: JobStatus,
    ) -> kube::Result<Option<Arc<Job>>> {
        let new = Job { status: Some(status), ..job.clone() };
        if new != *job {
            match patch::update_status(api, &self.informers.jobs, job, &new).await {
                Err(error) if patch::is_status(&error, 404) => return Ok(None),
                other => other?,
            }
            self.publish_events(job, &new);
        }
        let written = self.informers.jobs.get(&ObjectKey::of(job));
        Ok(written.filter(|written| written.metadata.uid == job.metadata.uid))
    }

    /// Publishes the events for conditions that have become true.
    fn publish_events(&self, old: &Job, new: &Job) {
        let about = events::about(new);
        let became = |type_: &str| is_true(new, type_) && !is_true(old, type_);
        if became("Suspended") {
            self.events.publish(&about, "Normal", "Suspended", "Job suspended");
        }
        if is_true(old, "Suspended") && !is_true(new, "Suspended") {
            self.events.publish(&about, "Normal", "Resumed", "Job resumed");
        }
        if became("Complete") {
            let succeeded = new.status.as_ref().and_then(|status| status.succeeded);
            let desired = new.spec.as_ref().and_then(|spec| spec.completions);
            if desired.is_some_and(|desired| succeeded.unwrap_or(0) > desired) {
                let note = "Too many succeeded pods running after completion count reached";
                self.events.publish(&about, "Warning", "TooManySucceededPods", note);
            }
            self.events.publish(&about, "Normal", "Completed", "Job completed");
        }
        if became("Failed") {
            let conditions = new.status.iter().flat_map(|status| status.conditions.iter());
            for failed in conditions.flatten().filter(|condition| condition.type_ == "Failed") {
                let reason = failed.reason.as_deref().unwrap_or_default();
                let message = failed.message.as_deref().unwrap_or_default();
                self.events.publish(&about, "Warning", reason, message);
            }
        }
    }

    /// Removes the finalizer of pods that are recorded, or that no job will count.
    async fn remove_finalizer(&self, api: &Api<Pod>, pods: &[Arc<Pod>]) -> kube::Result<()> {
        let informer = &self.informers.pods;
        let tracked = pods.iter().filter(|pod| {
            let latest = informer.get(&ObjectKey::of(&***pod));
            latest.is_some_and(|latest| {
                latest.metadata.uid == pod.metadata.uid && is_tracked(&latest)
            })
        });
        // A status that counts the pods is written already, so no other write may get in the way.
        let updates =
            join_all(tracked.map(|pod| patch::remove_finalizer(api, informer, &**pod, FINALIZER)));
        updates.await.into_iter().collect()
    }

    /// Deletes a finished job after its `ttlSecondsAfterFinished`.
    async fn delete_after_ttl(&self, job: &Job) -> kube::Result<Option<Duration>> {
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        match remaining_ttl(job, Timestamp::now()) {
            Some(Duration::ZERO) => {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                let api: Api<Job> = Api::namespaced(self.informers.client.clone(), namespace);
                let parameters = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Foreground),
                    preconditions: Some(Preconditions {
                        uid: job.metadata.uid.clone(),
                        resource_version: job.metadata.resource_version.clone(),
                    }),
                    ..Default::default()
                };
                match api.delete(&job.name_any(), &parameters).await {
                    Err(error) if patch::is_status(&error, 404) => Ok(None),
                    other => other.map(|_| None),
                }
            }
            left => Ok(left),
        }
    }

    /// Returns tracked pods of a job of this name that has been deleted.
    fn orphans(&self, key: &ObjectKey, job: Option<&Job>) -> Vec<Arc<Pod>> {
        let uid = job.and_then(|job| job.metadata.uid.as_deref());
        let mut pods = self.informers.pods.list_namespaced(&key.namespace);
        pods.retain(|pod| {
            let is_of_job = job_name(pod) == Some(&key.name);
            is_tracked(pod) && is_of_job && !is_controlled_by(&pod.metadata, uid)
        });
        pods
    }
}
