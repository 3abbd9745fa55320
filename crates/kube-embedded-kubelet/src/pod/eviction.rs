//! What makes the kubelet give up a pod that runs: its deadline is over, or a volume is too large (the
//! kubelet's active deadline handler and eviction manager).

use super::{handle::PodHandle, sandbox::PodSandbox};
use crate::volumes;
use kube_embedded_core::{quantity, task::catch_blocking};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The interval at which volumes are measured, as the kubelet's.
const MONITORING_INTERVAL: Duration = Duration::from_secs(10);
/// The first interval, which then doubles: most programs that fill a volume do so soon.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// The grace period of an evicted pod, as the kubelet's.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// The reason and message of a pod that the kubelet gives up.
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The time that its containers have to exit, if it is not the pod's own grace period.
    pub(super) grace: Option<Duration>,
}

/// Waits until the pod has to be given up. Publishes the event.
pub(super) async fn failure(pod: &PodHandle, sandbox: &PodSandbox) -> Failure {
    tokio::select! {
        failure = deadline_exceeded(pod) => failure,
        failure = volume_exceeded(pod, sandbox) => failure,
    }
}

/// Waits until the pod has been active for longer than `activeDeadlineSeconds`, which may be set or
/// changed while it runs.
async fn deadline_exceeded(pod: &PodHandle) -> Failure {
    let mut objects = pod.objects();
    // The status counts from the time that the kubelet saw the pod, before a restart of the cluster too.
    let started = pod.view().started_at;
    let active = started.map_or(0, |at| at.duration_until(jiff::Timestamp::now()).as_secs());
    let begin = Instant::now();
    loop {
        let limit = {
            let object = objects.borrow_and_update();
            object.spec.as_ref().and_then(|s| s.active_deadline_seconds)
        };
        let over = async {
            match limit {
                Some(seconds) => {
                    let left = seconds.saturating_sub(active).max(0) as u64;
                    sleep_until(begin + Duration::from_secs(left)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => break,
            changed = objects.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
    let message = "Pod was active on the node longer than the specified deadline";
    pod.normal("DeadlineExceeded", message);
    Failure { reason: "DeadlineExceeded", message: message.to_owned(), grace: None }
}

/// Waits until an `emptyDir` volume is larger than its `sizeLimit`.
async fn volume_exceeded(pod: &PodHandle, sandbox: &PodSandbox) -> Failure {
    let limits = size_limits(pod);
    if limits.is_empty() {
        return std::future::pending().await;
    }
    let mut interval = FIRST_INTERVAL;
    loop {
        sleep(interval).await;
        interval = (interval * 2).min(MONITORING_INTERVAL);
        for (name, limit, text) in &limits {
            let Some(volume) = sandbox.volumes.get(name) else { continue };
            let path = volume.root.clone();
            let measure = move || catch_blocking("volume usage", || volumes::usage(&path));
            let usage = match tokio::task::spawn_blocking(measure).await {
                Ok(Ok(Ok(usage))) => i128::from(usage),
                // A folder that was removed meanwhile, or that cannot be read.
                _ => continue,
            };
            if usage > *limit {
                let message =
                    format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. ");
                pod.warning("Evicted", &message);
                return Failure { reason: "Evicted", message, grace: Some(EVICTION_GRACE) };
            }
        }
    }
}

/// Returns the names and limits of the volumes on disk that have a limit, in bytes and as given.
fn size_limits(pod: &PodHandle) -> Vec<(String, i128, String)> {
    const ONE: i128 = 1_000_000_000;
    let volumes = pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let limits = volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let bytes = quantity::parse(&limit.0).ok()? / ONE;
        (bytes > 0).then(|| (volume.name.clone(), bytes, limit.0.clone()))
    });
    limits.collect()
}
