//! One run of a container, from its start to its exit: probes, hooks, termination.

use super::{
    context::Context, memory, role::Role, start::Started, target::Target, termination_message,
};
use crate::{
    cgroups::{ContainerCgroup, Limits},
    exec_attach::RunningContainer,
    probe::{self, ProbeKind, Reports, url::Url},
    resources,
    runtime::{Exit, Process},
    status::{PodView, State, Terminated},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::LifecycleHandler;
use std::{fs, io, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

/// The time that output may still arrive after a program's exit, when other processes hold its pipes.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The least time that a container gets to exit after it has waited for others, as the kubelet's.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// The grace period of a sidecar that does not handle SIGTERM, once its pod is done. The kubelet waits
/// for the whole grace period, in which nothing happens: no signal reaches process 1 of a container that
/// does not handle it.
const DEAF_SIDECAR_GRACE: Duration = Duration::from_secs(5);

/// A run that is over.
pub(super) struct Run {
    pub(super) terminated: Terminated,
    /// Set if it ended because an update of the pod gave the container another image.
    pub(super) changed: bool,
}

/// The event that ends a run.
enum End {
    Exited(io::Result<Exit>),
    /// A startup or liveness probe requires a restart.
    Unhealthy(ProbeKind),
    /// The postStart hook failed.
    HookFailed,
    /// The container uses more memory than its limit.
    OutOfMemory,
    /// The container has another image now.
    Changed,
    /// The container has to end by this time.
    Stopping(Instant),
}

/// Supervises a run until its program has exited.
pub(super) async fn supervise(cx: Context<'_>, started: Started) -> Run {
    let Started { process, target, id, at } = started;
    let name = &cx.container.name;
    let (over, ended) = watch::channel(());
    let (running, mut output) =
        RunningContainer::start(target.clone(), process.streams().ok(), cx.log, ended);
    cx.pod.running().insert(name.clone(), running);
    cx.change(|v| {
        v.state = State::Running { at };
        v.container_id.clone_from(&id);
        v.started = cx.role == Role::Main && cx.container.startup_probe.is_none();
        v.ready = v.started && cx.container.readiness_probe.is_none();
    });
    cx.normal("Started", &format!("Started container {name}"));
    tracing::debug!(container = name, pid = process.pid, "container started");
    let cgroup = start_cgroup(cx, &id, &process);
    let end = wait_for_end(cx, &target, &process, cgroup.is_some()).await;
    let (changed, killed) = (matches!(end, End::Changed), matches!(end, End::OutOfMemory));
    let exit = end_run(cx, &target, end).await;
    let drained = async { while output.join_next().await.is_some() {} };
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
    output.shutdown().await;
    cx.log.end();
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
    let out_of_memory = killed || cgroup.is_some_and(|cgroup| cgroup.out_of_memory());
    let reason = match exit.code {
        0 => "Completed",
        _ if out_of_memory => "OOMKilled",
        _ => "Error",
    };
    let terminated = Terminated {
        exit_code: exit.code,
        reason: reason.to_owned(),
        message: termination_message::read(cx, exit.code),
        started_at: at,
        finished_at: Timestamp::now(),
        container_id: id,
    };
    Run { terminated, changed }
}

/// Ends a run, with the event that says why.
async fn end_run(cx: Context<'_>, target: &Target, end: End) -> io::Result<Exit> {
    let name = &cx.container.name;
    let (message, grace) = match end {
        End::Exited(exit) => return exit,
        End::OutOfMemory => {
            target.process.signal(libc::SIGKILL);
            return target.process.wait().await;
        }
        End::Stopping(deadline) => {
            tracing::debug!(container = name, "stopping container");
            cx.normal("Killing", &format!("Stopping container {name}"));
            return terminate(cx, target, deadline).await;
        }
        End::Unhealthy(probe) => {
            let probe_name = probe.name().to_lowercase();
            let message = format!("Container {name} failed {probe_name} probe, will be restarted");
            (message, grace_period(cx, probe))
        }
        End::HookFailed => ("FailedPostStartHook".to_owned(), cx.pod.grace_period()),
        End::Changed => {
            let message = format!("Container {name} definition changed, will be restarted");
            (message, cx.pod.grace_period())
        }
    };
    tracing::debug!(container = name, message, "killing container");
    cx.normal("Killing", &message);
    terminate(cx, target, Instant::now() + grace).await
}

/// Runs the postStart hook. Returns false if it failed: the container is killed then.
async fn post_start(cx: Context<'_>, target: &Target) -> bool {
    let hook = cx.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    if let Some(hook) = hook
        && let Err(error) = run_hook(target, hook).await
    {
        tracing::warn!(container = cx.container.name, error, "postStart hook failed");
        cx.warning("FailedPostStartHook", &format!("PostStartHook failed: {error}"));
        return false;
    }
    true
}

/// Creates the cgroup of a container that has limits. Where there is none, its memory is measured.
fn start_cgroup(cx: Context<'_>, id: &str, process: &Process) -> Option<ContainerCgroup> {
    let limits = resources::limits(cx.container);
    let cgroups = cx.pod.runtime.cgroups.as_ref().filter(|_| limits != Limits::default())?;
    let name = id.rsplit('/').next().unwrap_or(id);
    let started = cgroups.start(name, limits, process.pid);
    if let Err(error) = &started {
        tracing::warn!(container = cx.container.name, %error, "failed to create a cgroup");
    }
    started.ok()
}

async fn wait_for_end(cx: Context<'_>, target: &Target, process: &Process, in_cgroup: bool) -> End {
    let on_change = |probe: ProbeKind, result: bool| {
        cx.change(|v| match probe {
            ProbeKind::Startup => v.started = result,
            _ => v.ready = result,
        });
    };
    let on_failure = |probe: ProbeKind, outcome: &str| {
        tracing::debug!(
            container = cx.container.name,
            probe = probe.name(),
            outcome,
            "probe failed"
        );
        cx.warning("Unhealthy", &format!("{} probe failed: {outcome}", probe.name()));
    };
    let on_warning = |probe: ProbeKind, outcome: &str| {
        cx.warning("ProbeWarning", &format!("{} probe warning: {outcome}", probe.name()));
    };
    let hook_then_probes = async {
        if !post_start(cx, target).await {
            return End::HookFailed;
        }
        if cx.role == Role::Init && !cx.is_sidecar() {
            std::future::pending::<()>().await;
        }
        let reports =
            Reports { on_change: &on_change, on_failure: &on_failure, on_warning: &on_warning };
        End::Unhealthy(probe::run(target, reports).await)
    };
    let out_of_memory = async {
        match resources::limits(cx.container).memory.filter(|_| !in_cgroup) {
            Some(limit) => memory::exceeded(process.pid, limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        exit = process.wait() => End::Exited(exit),
        end = hook_then_probes => end,
        () = out_of_memory => End::OutOfMemory,
        () = cx.image_changed() => End::Changed,
        at = cx.stop.requested() => End::Stopping(at),
    }
}

/// Terminates a program as the kubelet does: preStop hook, SIGTERM, grace period, SIGKILL. The grace
/// period includes the hook, and may be shortened meanwhile.
async fn terminate(cx: Context<'_>, target: &Target, mut deadline: Instant) -> io::Result<Exit> {
    let process = &target.process;
    let mut stopping = cx.stop.subscribe();
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
    if let Some(sooner) = *stopping.borrow_and_update() {
        deadline = deadline.min(sooner);
    }
    if cx.is_sidecar() && cx.stop.deadline().is_some() {
        tokio::select! {
            exit = process.wait() => return exit,
            () = turn(cx) => {}
            () = sleep_until(deadline) => deadline = Instant::now() + MINIMUM_GRACE,
        }
        if cx.pod.stop.deadline().is_none() && !handles_sigterm(process.pid) {
            deadline = deadline.min(Instant::now() + DEAF_SIDECAR_GRACE);
        }
    }
    process.signal(libc::SIGTERM);
    loop {
        tokio::select! {
            exit = process.wait() => return exit,
            _ = sleep_until(deadline) => break,
            changed = stopping.changed() => if changed.is_err() { break },
        }
        if let Some(sooner) = *stopping.borrow_and_update() {
            deadline = deadline.min(sooner);
        }
    }
    tracing::debug!(container = cx.container.name, "grace period is over; sending SIGKILL");
    process.signal(libc::SIGKILL);
    process.wait().await
}

/// Returns true if a process has a handler for SIGTERM, or if that is not known.
fn handles_sigterm(pid: libc::pid_t) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    caught.is_none_or(|set| set & (1 << (libc::SIGTERM - 1)) != 0)
}

/// Waits until a sidecar may be stopped: after the containers and the sidecars that were started later.
async fn turn(cx: Context<'_>) {
    let others_ended = |view: &PodView| {
        let later = view.init.get(cx.index + 1..).unwrap_or_default();
        !view.containers.iter().chain(later).any(|v| matches!(v.state, State::Running { .. }))
    };
    let mut views = cx.pod.views();
    if views.wait_for(others_ended).await.is_err() {
        tracing::debug!(container = cx.container.name, "pod ended before its sidecar");
    }
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
        let url = Url::new(get.scheme.as_deref() == Some("HTTPS"), to, get.path.as_deref());
        let headers = get.http_headers.iter().flatten();
        let headers: Vec<_> = headers.map(|h| (h.name.as_str(), h.value.as_str())).collect();
        probe::http::get(&target.network, &url, &headers).await.map_err(|e| e.to_string())?;
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
    own.map_or_else(|| cx.pod.grace_period(), |s| Duration::from_secs(s.max(0) as u64))
}
