//! The life of a container: start, run, back-off, restart.

use super::{
    context::Context,
    image::wait_for_image,
    start::{StartFailure, Started, new_id, start},
    supervise::supervise,
};
use crate::status::{self, State, Terminated};
use jiff::Timestamp;
use kube_embedded_core::backoff::Backoff;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The delays before restarts, as the kubelet's: none before the first, then 10 s, doubling to 300 s.
const CRASH_LOOP: Backoff =
    Backoff::new(Duration::from_secs(10), Duration::from_secs(300)).with_immediate_first();
/// The delays start over after a container has run this long.
const CRASH_LOOP_RESET: Duration = Duration::from_secs(600);
/// The delays between attempts to start a container whose configuration is incomplete.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Runs the container until the restart policy ends it or the pod stops. Returns whether it
/// succeeded.
pub(crate) async fn run(cx: Context<'_>) -> bool {
    let policy = match status::policy(&cx.pod.pod) {
        // An init container that succeeds is done, whatever the policy.
        "Always" if cx.init => "OnFailure",
        policy => policy,
    };
    let mut stopping = cx.pod.stopping();
    let mut backoff = CRASH_LOOP;
    loop {
        let begin = Instant::now();
        let started = tokio::select! {
            started = start_with_retries(cx) => started,
            _ = stopping.wait_for(Option::is_some) => return false,
        };
        let ended = match started {
            Ok(started) => supervise(cx, started).await,
            Err(failed) => failed,
        };
        cx.change(|v| {
            v.state = State::Terminated(ended.clone());
            v.ready = false;
            v.started = false;
            v.container_id.clone_from(&ended.container_id);
        });
        if stopping.borrow().is_some() || !status::restarts(policy, ended.exit_code) {
            return ended.exit_code == 0;
        }
        if begin.elapsed() >= CRASH_LOOP_RESET {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::debug!(container = cx.container.name, ?delay, "container will be restarted");
        if delay.is_zero() {
            cx.change(|v| v.last = Some(ended));
        } else {
            report_back_off(cx, delay, &ended);
            tokio::select! {
                _ = sleep(delay) => {}
                _ = stopping.wait_for(Option::is_some) => {
                    cx.change(|v| v.state = State::Terminated(ended));
                    return false;
                }
            }
        }
        cx.change(|v| v.restarts += 1);
    }
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
