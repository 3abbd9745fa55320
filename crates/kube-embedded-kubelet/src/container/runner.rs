//! The life of a container: start, run, back-off, restart.

use super::{
    context::Context,
    image::wait_for_image,
    role::{Role, containers},
    start::{StartFailure, Started, new_id, start},
    supervise::{Run, supervise},
};
use crate::{
    pod::handle::RestartBackoff,
    status::{self, State, Terminated},
};
use jiff::Timestamp;
use kube_embedded_core::backoff::Backoff;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The delays start over after a container has run this long.
const CRASH_LOOP_RESET: Duration = Duration::from_secs(600);
/// The delays between attempts to start a container whose configuration is incomplete.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Runs the container until the restart policy ends it or it has to stop. Returns whether it
/// succeeded. A container that has run in another sandbox before is restarted.
pub(crate) async fn run(cx: Context<'_>) -> bool {
    let mut ended = match cx.view().state {
        State::Terminated(ended) => Some(ended),
        _ => None,
    };
    loop {
        // The object may have been updated since the last run.
        let object = cx.pod.object();
        let container =
            containers(&object, cx.role == Role::Init).get(cx.index).unwrap_or(cx.container);
        let cx = Context { container, ..cx };
        if let Some(ended) = ended.take() {
            let next = back_off(cx, ended).await;
            if next == Next::Stop {
                return false;
            }
            cx.change(|v| v.restarts += 1);
            if next == Next::Changed {
                forget_back_off(cx);
                continue;
            }
        }
        let begin = Instant::now();
        let started = tokio::select! {
            started = Box::pin(start_with_retries(cx)) => started,
            () = cx.image_changed() => continue,
            _ = cx.stop.requested() => return false,
        };
        let run = match started {
            // Boxed, like the start, so that the future of a pod, which nests deeply, stays small.
            Ok(started) => Box::pin(supervise(cx, started)).await,
            Err(terminated) => Run { terminated, changed: false },
        };
        cx.change(|v| {
            v.state = State::Terminated(run.terminated.clone());
            // A completed init container counts as ready, as in Kubernetes.
            v.ready = cx.role == Role::Init && !cx.is_sidecar() && run.terminated.exit_code == 0;
            v.started = false;
            v.container_id.clone_from(&run.terminated.container_id);
        });
        let exit_code = run.terminated.exit_code;
        if cx.stop.deadline().is_some() || !(run.changed || status::restarts(policy(cx), exit_code))
        {
            return exit_code == 0;
        }
        if run.changed || begin.elapsed() >= CRASH_LOOP_RESET {
            forget_back_off(cx);
        }
        ended = Some(run.terminated);
    }
}

/// Runs an ephemeral container, which is never restarted.
pub(crate) async fn run_once(cx: Context<'_>) {
    let started = tokio::select! {
        started = start_with_retries(cx) => started,
        _ = cx.stop.requested() => return,
    };
    let terminated = match started {
        Ok(started) => supervise(cx, started).await.terminated,
        Err(terminated) => terminated,
    };
    cx.change(|v| {
        v.container_id.clone_from(&terminated.container_id);
        v.state = State::Terminated(terminated);
    });
}

/// Returns the restart policy of a container.
fn policy(cx: Context<'_>) -> &str {
    match status::policy(&cx.pod.pod) {
        _ if cx.is_sidecar() => "Always",
        // An init container that succeeds is done, whatever the policy.
        "Always" if cx.role == Role::Init => "OnFailure",
        policy => policy,
    }
}

fn forget_back_off(cx: Context<'_>) {
    cx.pod.with_backoff(&cx.container.name, |RestartBackoff { backoff, until }| {
        backoff.reset();
        *until = None;
    });
}

/// What follows a back-off.
#[derive(PartialEq, Eq)]
enum Next {
    Start,
    /// The container has another image now.
    Changed,
    Stop,
}

/// Waits until a container that exited may be started again. A delay that is interrupted goes on in the
/// next sandbox.
async fn back_off(cx: Context<'_>, ended: Terminated) -> Next {
    let now = Instant::now();
    let until = cx.pod.with_backoff(&cx.container.name, |RestartBackoff { backoff, until }| {
        *until.get_or_insert_with(|| now + backoff.next_delay())
    });
    let delay = until.saturating_duration_since(now);
    tracing::debug!(container = cx.container.name, ?delay, "container will be restarted");
    if delay.is_zero() {
        cx.change(|v| v.last = Some(ended));
    } else {
        report_back_off(cx, delay, &ended);
        tokio::select! {
            () = sleep_until(until) => {}
            () = cx.image_changed() => return Next::Changed,
            _ = cx.stop.requested() => {
                cx.change(|v| v.state = State::Terminated(ended));
                return Next::Stop;
            }
        }
    }
    cx.pod.with_backoff(&cx.container.name, |backoff| backoff.until = None);
    Next::Start
}

fn report_back_off(cx: Context<'_>, delay: Duration, ended: &Terminated) {
    let (container, pod) = (&cx.container.name, cx.pod);
    let pod = format!("{}_{}({})", pod.name, pod.namespace, pod.uid);
    let delay = go_duration(delay);
    let message = format!("back-off {delay} restarting failed container={container} pod={pod}");
    cx.change(|v| {
        v.last = Some(ended.clone());
        v.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message: Some(message) };
    });
    let message = format!("Back-off restarting failed container {container} in pod {pod}");
    cx.warning("BackOff", &message);
}

/// Waits for the image and starts the program, as long as either takes. Returns a failed run if the
/// program cannot be started.
async fn start_with_retries(cx: Context<'_>) -> Result<Started, Terminated> {
    let image = wait_for_image(cx).await;
    let mut backoff = RETRY;
    loop {
        match start(cx, &image).await {
            Ok(started) => return Ok(started),
            Err(StartFailure::Config(message)) => {
                tracing::warn!(
                    container = cx.container.name,
                    error = message,
                    "container is not configured"
                );
                cx.warning("Failed", &format!("Error: {message}"));
                cx.wait_for("CreateContainerConfigError", message);
            }
            Err(StartFailure::Launch(error)) => {
                tracing::warn!(container = cx.container.name, %error, "failed to start a container");
                let message = format!("failed to create containerd task: {error}");
                cx.warning("Failed", &format!("Error: {message}"));
                return Err(Terminated {
                    exit_code: 128,
                    reason: "StartError".to_owned(),
                    message: Some(message),
                    started_at: Timestamp::UNIX_EPOCH,
                    finished_at: Timestamp::now(),
                    container_id: new_id(),
                });
            }
        }
        sleep(backoff.next_delay()).await;
    }
}

/// Formats a duration as Go does: `10s`, `1m20s`.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_duration_has_minutes_and_seconds() {
        let all = [10, 80, 300].map(|s| go_duration(Duration::from_secs(s)));
        assert_eq!(all, ["10s", "1m20s", "5m0s"]);
    }
}
