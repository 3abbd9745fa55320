//! Startup, readiness and liveness probes (the kubelet's prober).

mod go_error;
mod grpc;
pub(crate) mod http;
pub(crate) mod url;

use self::{go_error::go_error, url::Url};
use crate::container::target::Target;
use k8s_openapi::{
    api::core::v1::{HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Before its first success, a startup or readiness probe is repeated sooner than its period: after
/// 10 ms, then with doubling delays up to this. Kubernetes does not; but there a pod takes seconds to
/// start, while here a period of 10 s would be most of the wait. Failures count against the threshold
/// once per period, as in Kubernetes.
const MAX_EAGER_DELAY: Duration = Duration::from_millis(500);
const FIRST_EAGER_DELAY: Duration = Duration::from_millis(10);

/// Applies the success and failure thresholds of a probe.
#[derive(Debug, Default)]
pub(crate) struct Threshold {
    /// The result of the probe; `None` before a threshold was reached.
    pub(crate) result: Option<bool>,
    last: Option<bool>,
    in_a_row: i32,
}

impl Threshold {
    /// Counts one attempt. Returns whether the result has changed.
    pub(crate) fn observe(&mut self, success: bool, probe: &Probe) -> bool {
        self.in_a_row =
            if self.last == Some(success) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        if self.in_a_row < threshold || self.result == Some(success) {
            return false;
        }
        self.result = Some(success);
        true
    }
}

/// The kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// The word for it in Kubernetes' events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The callbacks of [`run`].
#[derive(Clone, Copy)]
pub(crate) struct Reports<'a> {
    /// Called when a result changes: `(Startup, true)` once, readiness whenever it changes.
    pub(crate) on_change: &'a (dyn Fn(ProbeKind, bool) + Sync),
    /// Called with the error of each failed attempt that counts.
    pub(crate) on_failure: &'a (dyn Fn(ProbeKind, &str) + Sync),
    /// Called with the doubt about an attempt that counts as a success.
    pub(crate) on_warning: &'a (dyn Fn(ProbeKind, &str) + Sync),
}

/// The outcome of an attempt that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Success {
    Plain,
    /// The attempt counts as a success, with a doubt.
    Warning(String),
}

/// Runs the probes of a container until one requires a restart, and returns which one.
pub(crate) async fn run(target: &Target, reports: Reports<'_>) -> ProbeKind {
    let on_change = reports.on_change;
    let container = &target.container;
    if let Some(probe) = &container.startup_probe {
        let started = repeat(target, probe, ProbeKind::Startup, reports, |_| true).await;
        if !started {
            return ProbeKind::Startup;
        }
    }
    on_change(ProbeKind::Startup, true);
    let readiness = async {
        match &container.readiness_probe {
            None => on_change(ProbeKind::Readiness, true),
            Some(probe) => {
                repeat(target, probe, ProbeKind::Readiness, reports, |ready| {
                    on_change(ProbeKind::Readiness, ready);
                    false
                })
                .await;
            }
        }
        std::future::pending::<()>().await
    };
    let liveness = async {
        match &container.liveness_probe {
            None => std::future::pending().await,
            Some(probe) => {
                repeat(target, probe, ProbeKind::Liveness, reports, |alive| !alive).await
            }
        }
    };
    tokio::select! {
        _ = readiness => {}
        _ = liveness => {}
    }
    ProbeKind::Liveness
}

/// Repeats a probe until `stop` returns true for a change of the result, and returns that result.
async fn repeat(
    target: &Target,
    probe: &Probe,
    kind: ProbeKind,
    reports: Reports<'_>,
    stop: impl Fn(bool) -> bool,
) -> bool {
    let period = seconds(probe.period_seconds, 10);
    let begin = target.started
        + Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
    let mut threshold = Threshold::default();
    let mut delay = FIRST_EAGER_DELAY;
    let mut tick = begin;
    sleep_until(begin).await;
    loop {
        // Boxed, as the futures of all kinds of probes would take much of the stack of each poll.
        let attempt = Box::pin(attempt(target, probe)).await;
        let now = Instant::now();
        let due = now >= tick;
        if due {
            while tick <= now {
                tick += period;
            }
        }
        let eager = threshold.result != Some(true) && kind != ProbeKind::Liveness;
        match &attempt {
            Err(error) if due => (reports.on_failure)(kind, error),
            Ok(Success::Warning(doubt)) if due => (reports.on_warning)(kind, doubt),
            _ => {}
        }
        // Between two ticks only a success counts.
        if (due || attempt.is_ok()) && threshold.observe(attempt.is_ok(), probe) {
            let result = attempt.is_ok();
            let (pod, container) = (&*target.pod, &*target.container.name);
            tracing::debug!(pod, container, probe = kind.name(), result, "probe result changed");
            if stop(result) {
                return result;
            }
        }
        if eager && threshold.result != Some(true) {
            sleep_until(tick.min(Instant::now() + delay)).await;
            delay = (delay * 2).min(MAX_EAGER_DELAY);
        } else {
            sleep_until(tick).await;
        }
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |s| s.max(1) as u64))
}

/// Probes once.
async fn attempt(target: &Target, probe: &Probe) -> Result<Success, String> {
    let limit = seconds(probe.timeout_seconds, 1);
    if let Some(get) = &probe.http_get {
        return http_get(target, get, limit).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        let to = target.address(socket.host.as_deref(), &socket.port)?;
        return match timeout(limit, target.network.connect(to)).await {
            Ok(Ok(_)) => Ok(Success::Plain),
            Ok(Err(e)) => Err(go_error(to, &e)),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        };
    }
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        return match timeout(limit, target.run(argv)).await {
            Ok(Ok((0, _))) => Ok(Success::Plain),
            Ok(Ok((_, output))) => Err(output.trim_end().to_owned()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(format!("command timed out after {}s", limit.as_secs())),
        };
    }
    if let Some(action) = &probe.grpc {
        let to = target.address(None, &IntOrString::Int(action.port))?;
        let service = action.service.as_deref().unwrap_or_default();
        return grpc::check(&target.network, to, service, limit).await.map(|()| Success::Plain);
    }
    Err("the probe has no action; allowed are exec, httpGet, tcpSocket and grpc".to_owned())
}

async fn http_get(
    target: &Target,
    get: &HTTPGetAction,
    limit: Duration,
) -> Result<Success, String> {
    let to = target.address(get.host.as_deref(), &get.port)?;
    let url = Url::new(get.scheme.as_deref() == Some("HTTPS"), to, get.path.as_deref());
    let headers: Vec<(&str, &str)> =
        get.http_headers.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    let failed = |error: String| format!("Get {:?}: {error}", url.to_string());
    match timeout(limit, http::get(&target.network, &url, &headers)).await {
        Err(_) => Err(failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        )),
        Ok(Err(e)) => Err(failed(go_error(to, &e))),
        Ok(Ok(response)) => match response.status {
            200..=299 => Ok(Success::Plain),
            300..=399 => Ok(Success::Warning(format!(
                "Probe terminated redirects, Response body: {}",
                response.body
            ))),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn result_changes_when_a_threshold_is_reached() {
        let probe: Probe =
            serde_json::from_value(json!({ "successThreshold": 2, "failureThreshold": 3 }))
                .unwrap();
        let mut threshold = Threshold::default();
        let results =
            [true, false, true, true, true, false, false, true, false, false, false, false];
        let changes: Vec<bool> = results.iter().map(|r| threshold.observe(*r, &probe)).collect();
        let changed: Vec<usize> =
            changes.iter().enumerate().filter(|(_, c)| **c).map(|(n, _)| n).collect();
        assert_eq!(changed, [3, 10]);
        assert_eq!(threshold.result, Some(false));
    }
}
