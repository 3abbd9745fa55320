//! One run of a container, from its start to its exit: probes, hooks, termination.

use super::{context::Context, start::Started, target::Target};
use crate::{
    exec_attach::RunningContainer,
    probe::{self, ProbeKind},
    runtime::{Exit, Process},
    status::{State, Terminated},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::LifecycleHandler;
use std::{io, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

/// The time that output may still arrive after a program's exit, when other processes hold its pipes.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The event that ends a run.
enum End {
    Exited(io::Result<Exit>),
    /// A startup or liveness probe requires a restart.
    Unhealthy(ProbeKind),
    /// The pod has to end by this time.
    Stopping(Instant),
}

/// Supervises a run until its program has exited.
pub(super) async fn supervise(cx: Context<'_>, started: Started) -> Terminated {
    let Started { process, target, id, at } = started;
    let name = &cx.container.name;
    let (over, ended) = watch::channel(());
    let (running, mut output) =
        RunningContainer::start(target.clone(), process.streams().ok(), cx.log(), ended);
    cx.pod.running().insert(name.clone(), running);
    cx.change(|v| {
        v.state = State::Running { at };
        v.container_id.clone_from(&id);
        v.started = cx.container.startup_probe.is_none();
        v.ready = v.started && (cx.init || cx.container.readiness_probe.is_none());
    });
    cx.normal("Started", &format!("Started container {name}"));
    tracing::debug!(container = name, pid = process.pid, "container started");
    post_start(cx, &target).await;
    let end = wait_for_end(cx, &target, &process).await;
    let exit = match end {
        End::Exited(exit) => exit,
        End::Unhealthy(probe) => {
            let probe_name = probe.name().to_lowercase();
            tracing::debug!(container = name, probe = probe_name, "killing unhealthy container");
            let message = format!("Container {name} failed {probe_name} probe, will be restarted");
            cx.normal("Killing", &message);
            terminate(cx, &target, Instant::now() + grace_period(cx, probe)).await
        }
        End::Stopping(deadline) => {
            tracing::debug!(container = name, "stopping container");
            cx.normal("Killing", &format!("Stopping container {name}"));
            terminate(cx, &target, deadline).await
        }
    };
    let drained = async { while output.join_next().await.is_some() {} };
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
    output.shutdown().await;
    cx.log().end();
    cx.pod.running().remove(name);
    drop(over);
    let exit = exit.unwrap_or_else(|error| {
        tracing::warn!(container = name, %error, "failed to wait for the container");
        Exit { code: 137, signal: Some(libc::SIGKILL) }
    });
    tracing::debug!(
        container = name,
        exit_code = exit.code,
        signal = exit.signal,
        "container exited"
    );
    Terminated {
        exit_code: exit.code,
        reason: if exit.code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        started_at: at,
        finished_at: Timestamp::now(),
        container_id: id,
    }
}

/// Runs the postStart hook. A container whose hook fails is killed.
async fn post_start(cx: Context<'_>, target: &Target) {
    let hook = cx.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    if let Some(hook) = hook
        && let Err(error) = run_hook(target, hook).await
    {
        tracing::warn!(container = cx.container.name, error, "postStart hook failed");
        cx.warning("FailedPostStartHook", &format!("PostStartHook failed: {error}"));
        target.process.signal(libc::SIGKILL);
    }
}

async fn wait_for_end(cx: Context<'_>, target: &Target, process: &Process) -> End {
    let on_change = |probe: ProbeKind, result: bool| {
        cx.change(|v| match probe {
            ProbeKind::Startup => v.started = result,
            _ => v.ready = result,
        });
    };
    let on_failure = |probe: ProbeKind, error: &str| {
        tracing::debug!(container = cx.container.name, probe = probe.name(), error, "probe failed");
        cx.warning("Unhealthy", &format!("{} probe failed: {error}", probe.name()));
    };
    let mut stopping = cx.pod.stopping();
    tokio::select! {
        exit = process.wait() => End::Exited(exit),
        probe = probe::run(target, on_change, on_failure), if !cx.init => End::Unhealthy(probe),
        at = stopping.wait_for(Option::is_some) => {
            End::Stopping(at.ok().and_then(|at| *at).unwrap_or_else(Instant::now))
        }
    }
}

/// Terminates a program as the kubelet does: preStop hook, SIGTERM, grace period, SIGKILL. The grace
/// period includes the hook, and may be shortened meanwhile.
async fn terminate(cx: Context<'_>, target: &Target, mut deadline: Instant) -> io::Result<Exit> {
    let process = &target.process;
    let mut stopping = cx.pod.stopping();
    if let Some(hook) = cx.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        tokio::select! {
            exit = process.wait() => return exit,
            done = timeout_at(deadline, run_hook(target, hook)) => {
                if let Ok(Err(error)) = done {
                    tracing::warn!(container = cx.container.name, error, "preStop hook failed");
                    cx.warning("FailedPreStopHook", &format!("PreStopHook failed: {error}"));
                }
            }
            _ = stopping.wait_for(|at| at.is_some_and(|at| at < deadline)) => {}
        }
    }
    process.signal(libc::SIGTERM);
    loop {
        if let Some(sooner) = *stopping.borrow_and_update() {
            deadline = deadline.min(sooner);
        }
        tokio::select! {
            exit = process.wait() => return exit,
            _ = sleep_until(deadline) => break,
            changed = stopping.changed() => if changed.is_err() { break },
        }
    }
    tracing::debug!(container = cx.container.name, "grace period is over; sending SIGKILL");
    process.signal(libc::SIGKILL);
    process.wait().await
}

async fn run_hook(target: &Target, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(action) = &hook.sleep {
        sleep(Duration::from_secs(action.seconds.max(0) as u64)).await;
    }
    if let Some(exec) = &hook.exec {
        let (code, output) = target.run(exec.command.clone().unwrap_or_default()).await?;
        if code != 0 {
            return Err(format!("command exited with {code}: {}", output.trim_end()));
        }
    }
    if let Some(get) = &hook.http_get {
        let to = target.address(get.host.as_deref(), &get.port)?;
        let path = get.path.as_deref().unwrap_or("/");
        probe::http::get(&target.network, to, path, &[]).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Returns the grace period of a container that a probe ends: the probe's own, or the pod's.
fn grace_period(cx: Context<'_>, probe: ProbeKind) -> Duration {
    let probe = match probe {
        ProbeKind::Startup => cx.container.startup_probe.as_ref(),
        _ => cx.container.liveness_probe.as_ref(),
    };
    let own = probe.and_then(|p| p.termination_grace_period_seconds);
    let of_pod = cx.pod.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    Duration::from_secs(own.or(of_pod).unwrap_or(30).max(0) as u64)
}
