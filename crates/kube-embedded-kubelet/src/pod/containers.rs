//! The containers of a pod in one sandbox: init containers, sidecars, containers, and what ends them all.

use super::{
    ephemeral,
    eviction::{self, Failure},
    handle::PodHandle,
    sandbox::PodSandbox,
    stop::StopSignal,
};
use crate::{
    container::{
        context::Context,
        role::{Role, containers},
        runner,
    },
    status::{self, ContainerView, State},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Container;
use std::{future::Future, pin::pin, time::Duration};
use tokio::time::Instant;

/// The grace period of containers whose sandbox is lost. The kubelet grants that of the pod, but its
/// containers can still be reached meanwhile; here they cannot.
const LOST_SANDBOX_GRACE: Duration = Duration::from_secs(2);

/// The reason why the containers of a sandbox have ended.
pub(super) enum Ended {
    /// They are done, or the pod has to stop.
    Done,
    /// The sandbox died.
    SandboxLost,
    /// The kubelet has given the pod up.
    Failed(Failure),
}

/// Runs the containers in a sandbox until all of them have exited for good.
pub(super) async fn run(pod: &PodHandle, sandbox: &PodSandbox) -> Ended {
    let stop = StopSignal::default();
    let mut running = pin!(async {
        tokio::join!(run_containers(pod, sandbox, &stop), ephemeral::run(pod, sandbox, &stop));
    });
    let mut follow = pin!(stop.follow(&pod.stop));
    let cause = tokio::select! {
        () = &mut running => return Ended::Done,
        () = &mut follow => return Ended::Done,
        () = sandbox.lost() => Ended::SandboxLost,
        failure = eviction::failure(pod, sandbox) => Ended::Failed(failure),
    };
    let grace = match &cause {
        Ended::SandboxLost => {
            pod.normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            pod.change(|view| {
                view.sandbox = false;
                view.init.iter_mut().chain(&mut view.containers).for_each(|v| v.ready = false);
            });
            pod.grace_period().min(LOST_SANDBOX_GRACE)
        }
        Ended::Failed(failure) => failure.grace.unwrap_or_else(|| pod.grace_period()),
        Ended::Done => Duration::ZERO,
    };
    stop.stop_by(Instant::now() + grace);
    tokio::select! {
        () = &mut running => {}
        () = &mut follow => {}
    }
    cause
}

/// Returns true if a pod whose sandbox was lost gets another one: not if its containers are done, nor if
/// they are never restarted.
pub(super) fn restarts_in_new_sandbox(pod: &PodHandle) -> bool {
    let policy = status::policy(&pod.pod);
    let view = pod.view();
    let started = view.init.iter().chain(&view.containers).any(|v| !v.container_id.is_empty());
    (policy != "Never" || !started) && view.containers.iter().any(|v| !is_done(policy, v))
}

/// Returns true if a container has exited and is not restarted.
fn is_done(policy: &str, view: &ContainerView) -> bool {
    matches!(&view.state, State::Terminated(t) if !status::restarts(policy, t.exit_code))
}

/// The sidecars that run beside what is awaited.
type Sidecars<'a> = FuturesUnordered<BoxFuture<'a, bool>>;

/// Runs the init containers one after another, then the containers side by side. Sidecars start in their
/// turn among the init containers, and stop after the containers.
async fn run_containers(pod: &PodHandle, sandbox: &PodSandbox, stop: &StopSignal) {
    #[cfg(test)]
    crate::testing::injected_panic(&pod.pod);
    let context = |container, index, role| {
        let logs = if role == Role::Init { &pod.init_logs } else { &pod.logs };
        #[expect(clippy::indexing_slicing, reason = "made from the same list as the containers")]
        let log = &logs[index];
        Context { pod, sandbox, container, index, role, shares_processes_of: None, log, stop }
    };
    let mut sidecars = Sidecars::new();
    let mut initialized = true;
    for (index, container) in containers(&pod.pod, true).iter().enumerate() {
        let run = runner::run(context(container, index, Role::Init));
        initialized = if status::is_sidecar(container) {
            sidecars.push(Box::pin(run));
            beside(&mut sidecars, has_started(pod, index, stop)).await
        } else {
            beside(&mut sidecars, run).await
        };
        if !initialized {
            break;
        }
    }
    if initialized && stop.deadline().is_none() {
        run_main(pod, &mut sidecars, context).await;
    }
    stop.stop_by(Instant::now() + pod.grace_period());
    while sidecars.next().await.is_some() {}
}

/// Runs the containers that are not init containers until all have exited for good.
async fn run_main<'a>(
    pod: &'a PodHandle,
    sidecars: &mut Sidecars<'_>,
    context: impl Fn(&'a Container, usize, Role) -> Context<'a>,
) {
    let policy = status::policy(&pod.pod);
    pod.change(|view| {
        for v in &mut view.containers {
            if matches!(v.state, State::Waiting { .. }) {
                v.state = State::default();
            }
        }
    });
    // Those that have succeeded in a sandbox before this one are done.
    let done: Vec<bool> = pod.view().containers.iter().map(|v| is_done(policy, v)).collect();
    let runs = containers(&pod.pod, false).iter().zip(done).enumerate().filter(|(_, (_, d))| !d);
    let runs =
        runs.map(|(index, (container, _))| runner::run(context(container, index, Role::Main)));
    beside(sidecars, futures::future::join_all(runs)).await;
}

/// Awaits `main` while the sidecars run.
async fn beside<T>(sidecars: &mut Sidecars<'_>, main: impl Future<Output = T>) -> T {
    let mut main = pin!(main);
    loop {
        tokio::select! {
            output = &mut main => return output,
            Some(_) = sidecars.next() => {}
        }
    }
}

/// Waits until a sidecar has started: its postStart hook is done and its startup probe has succeeded.
/// Returns false if the containers have to stop before that.
async fn has_started(pod: &PodHandle, index: usize, stop: &StopSignal) -> bool {
    let mut views = pod.views();
    tokio::select! {
        started = views.wait_for(|view| view.init.get(index).is_some_and(|v| v.started)) => started.is_ok(),
        _ = stop.requested() => false,
    }
}
