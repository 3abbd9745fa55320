//! The ephemeral containers of a pod, which clients add while it runs.

use super::{handle::PodHandle, sandbox::PodSandbox, stop::StopSignal};
use crate::container::{
    context::Context,
    role::{Role, as_container, ephemeral_containers},
    runner,
};
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::EphemeralContainer;

/// Starts each ephemeral container once, as soon as it is seen, until the containers of the sandbox have to
/// stop. They do not keep a pod running.
pub(super) async fn run(pod: &PodHandle, sandbox: &PodSandbox, stop: &StopSignal) {
    let mut objects = pod.objects();
    let mut running = FuturesUnordered::new();
    loop {
        let object = objects.borrow_and_update().clone();
        for container in ephemeral_containers(&object) {
            let is_known = pod.view().ephemeral.iter().any(|v| v.name == container.name);
            if !is_known {
                running.push(run_one(pod, sandbox, stop, container.clone()));
            }
        }
        let updated = async {
            loop {
                tokio::select! {
                    changed = objects.changed() => return changed.is_ok(),
                    Some(()) = running.next() => {}
                }
            }
        };
        tokio::select! {
            true = updated => {}
            _ = stop.requested() => break,
        }
    }
    while running.next().await.is_some() {}
}

/// Registers the container at once, and returns the future that runs it.
fn run_one<'a>(
    pod: &'a PodHandle,
    sandbox: &'a PodSandbox,
    stop: &'a StopSignal,
    ephemeral: EphemeralContainer,
) -> impl Future<Output = ()> + 'a {
    let container = as_container(&ephemeral).unwrap_or_default();
    let (index, log) = pod.add_ephemeral(&container);
    async move {
        let target = ephemeral.target_container_name.as_deref().filter(|name| !name.is_empty());
        let cx = Context {
            pod,
            sandbox,
            container: &container,
            index,
            role: Role::Ephemeral,
            shares_processes_of: target,
            log: &log,
            stop,
        };
        runner::run_once(cx).await;
    }
}
