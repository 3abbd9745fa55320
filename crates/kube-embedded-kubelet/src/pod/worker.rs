//! The worker of a pod: from its first sight to its end.

use super::{
    containers::{self, Ended},
    handle::PodHandle,
    sandbox::PodSandbox,
    status_manager, unsupported,
    volume_manager::VolumeManager,
};
use crate::{
    host_port,
    status::{ContainerView, State, Terminated},
    sysctls,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use kube_embedded_core::backoff::Backoff;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Maximum grace period for pods when the cluster shuts down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// The delays between attempts to delete the object of a pod that has ended.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The latest news for the worker of a pod.
#[derive(Clone)]
pub(crate) struct Update {
    /// The object as last seen.
    pub(crate) pod: Arc<Pod>,
    /// Set when the object is no longer in the API.
    pub(crate) deleted: bool,
    /// Set when the cluster shuts down.
    pub(crate) shutdown: bool,
}

impl Update {
    /// Returns true if the pod has to end, or has ended already.
    fn ends(&self) -> bool {
        self.deleted || self.shutdown || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// Runs the pod until it is deleted or the cluster shuts down. Dropping the future kills all of the
/// pod's processes.
pub(crate) async fn run(pod: &PodHandle, mut updates: watch::Receiver<Update>) {
    if is_over(&pod.pod) {
        let _ = updates.wait_for(Update::ends).await;
    } else {
        tokio::select! {
            _ = track_deadline(pod, updates.clone()) => {}
            _ = status_manager::run(pod) => {}
            _ = run_sandboxes(pod) => {}
        }
    }
    finish(pod, updates).await;
}

/// Fails a pod whose worker panicked: its processes are killed, its status has the reason, and its object
/// is removed like that of any other pod that has ended. A controller replaces it.
pub(crate) async fn fail(pod: &PodHandle, panic: &str, updates: watch::Receiver<Update>) {
    let message = format!("pod worker panicked: {panic}");
    // The sandbox and the containers went with the worker; clients hold on to processes by these.
    pod.running().clear();
    pod.logs.iter().chain(&pod.init_logs).chain(&*pod.ephemeral_logs()).for_each(|log| log.end());
    pod.warning("FailedSync", &format!("Error syncing pod: {message}"));
    pod.change(|view| {
        let now = Timestamp::now();
        view.all_mut().for_each(|v| lose(v, now));
        view.sandbox = false;
        view.failure = Some(("InternalError", message));
    });
    let mut ends = updates.clone();
    tokio::select! {
        _ = status_manager::run(pod) => {}
        _ = ends.wait_for(Update::ends) => {}
    }
    finish(pod, updates).await;
}

/// Marks a container as terminated with an unknown exit code, in the kubelet's words.
fn lose(view: &mut ContainerView, now: Timestamp) {
    view.ready = false;
    view.started = false;
    let started_at = match &view.state {
        State::Terminated(_) => return,
        State::Running { at } => *at,
        State::Waiting { .. } => Timestamp::UNIX_EPOCH,
    };
    view.state = State::Terminated(Terminated {
        exit_code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started_at,
        finished_at: now,
        container_id: view.container_id.clone(),
    });
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Runs the containers in a sandbox, and in another one when that is lost, until they are done; then
/// waits until the pod has to stop.
async fn run_sandboxes(pod: &PodHandle) {
    let volumes = VolumeManager::new(pod);
    unsupported::report(pod);
    if let Some(why) = sysctls::rejection(&pod.pod) {
        const REASON: &str = "SysctlForbidden";
        pod.warning(REASON, &why);
        let message = format!("Pod was rejected: {why}");
        pod.change(|view| view.failure = Some((REASON, message)));
        pod.stop.requested().await;
        return;
    }
    loop {
        let sandbox = tokio::select! {
            sandbox = PodSandbox::create(pod, &volumes) => sandbox,
            _ = pod.stop.requested() => return,
        };
        let ended = tokio::select! {
            ended = containers::run(pod, &sandbox) => ended,
            () = volumes.sync() => Ended::Done,
            () = host_port::serve(pod, sandbox.location.pod_ip) => Ended::Done,
        };
        drop(sandbox);
        tracing::debug!("pod sandbox removed");
        pod.change(|view| view.sandbox = false);
        match ended {
            Ended::SandboxLost if pod.stop.deadline().is_some() => break,
            Ended::SandboxLost if containers::restarts_in_new_sandbox(pod) => continue,
            Ended::SandboxLost => pod.change(|view| {
                let now = Timestamp::now();
                view.all_mut().for_each(|v| lose(v, now));
            }),
            Ended::Failed(failure) => pod.change(|view| {
                view.failure = Some((failure.reason, failure.message));
            }),
            Ended::Done => {}
        }
        break;
    }
    pod.stop.requested().await;
}

/// Derives the deadline by which the pod has to end from what is learned of the object. Never
/// returns.
async fn track_deadline(pod: &PodHandle, mut updates: watch::Receiver<Update>) {
    loop {
        let limit = {
            let update = updates.borrow_and_update();
            let meta = &update.pod.metadata;
            let grace = meta.deletion_timestamp.as_ref();
            let grace = grace.map(|_| meta.deletion_grace_period_seconds.unwrap_or(30));
            let grace = grace.map(|s| Duration::from_secs(s.max(0) as u64));
            match (update.deleted, update.shutdown, grace) {
                (true, ..) => Some(Duration::ZERO),
                (_, true, grace) => Some(grace.unwrap_or(SHUTDOWN_GRACE).min(SHUTDOWN_GRACE)),
                (.., grace) => grace,
            }
        };
        if let Some(limit) = limit {
            pod.stop_by(Instant::now() + limit);
        }
        if updates.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Removes what is left of a pod whose processes have ended: the object, unless it is deleted or the
/// cluster shuts down, and the directory.
async fn finish(pod: &PodHandle, mut updates: watch::Receiver<Update>) {
    let (deleted, shutdown) = {
        let last = updates.borrow();
        (last.deleted, last.shutdown)
    };
    if !deleted && !shutdown {
        delete_object(pod, &mut updates).await;
    }
    for directory in [Some(pod.directory().to_owned()), pod.memory()].into_iter().flatten() {
        // On a thread that may block: a busy disk takes seconds.
        if let Err(error) = tokio::fs::remove_dir_all(directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "failed to remove the directory of a pod");
        }
    }
    tracing::debug!("pod ended");
}

/// Writes the last status, and deletes the object.
async fn delete_object(pod: &PodHandle, updates: &mut watch::Receiver<Update>) {
    pod.change(|view| {
        view.ended = true;
        view.sandbox = false;
    });
    if !is_over(&pod.object()) {
        // Best effort: the object is deleted right after this.
        let _ = status_manager::write(pod, &mut Value::Null).await;
    }
    let api: Api<Pod> = Api::namespaced(pod.runtime.client.clone(), &pod.namespace);
    let now = DeleteParams::default()
        .grace_period(0)
        .preconditions(Preconditions { uid: Some(pod.uid.clone()), resource_version: None });
    let mut backoff = RETRY;
    loop {
        match api.delete(&pod.name, &now).await {
            Ok(_) => return,
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
            Err(error) => {
                tracing::warn!(%error, "failed to delete the object of a pod; retrying");
                let removed = updates.wait_for(|u| u.deleted || u.shutdown);
                if timeout(backoff.next_delay(), removed).await.is_ok() {
                    return;
                }
            }
        }
    }
}
