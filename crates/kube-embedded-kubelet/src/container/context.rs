//! One container of a pod, for the code that runs it: its part of the pod's state, log and events.

use crate::{
    logs::Log,
    pod::{handle::PodHandle, sandbox::PodSandbox, stop::StopSignal},
    status::{self, ContainerView, State},
};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::sync::Arc;

/// One container of a pod in its sandbox.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a PodHandle,
    pub(crate) sandbox: &'a PodSandbox,
    pub(crate) container: &'a Container,
    /// The position in the list of containers, or of init containers.
    pub(crate) index: usize,
    pub(crate) init: bool,
    /// Set once the containers of the sandbox have to end.
    pub(crate) stop: &'a StopSignal,
}

/// Returns the containers, or the init containers, of a pod.
pub(crate) fn containers(pod: &Pod, init: bool) -> &[Container] {
    let spec = pod.spec.as_ref();
    if init {
        spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
    } else {
        spec.map(|s| s.containers.as_slice()).unwrap_or_default()
    }
}

impl Context<'_> {
    /// Returns true for a native sidecar: an init container that runs beside the containers.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.init && status::is_sidecar(self.container)
    }

    /// Waits until an update of the pod has another image for the container.
    pub(crate) async fn image_changed(&self) {
        let mut objects = self.pod.objects();
        let changed = objects.wait_for(|object| {
            let container = containers(object, self.init).get(self.index);
            container.is_some_and(|c| c.image != self.container.image)
        });
        if changed.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the container's part of the pod's state.
    pub(crate) fn view(&self) -> ContainerView {
        let view = self.pod.view();
        let views = if self.init { &view.init } else { &view.containers };
        views.get(self.index).cloned().unwrap_or_default()
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        let logs = if self.init { &self.pod.init_logs } else { &self.pod.logs };
        #[expect(clippy::indexing_slicing, reason = "made from the same list as the containers")]
        &logs[self.index]
    }

    /// Changes the container's state, and has the status of the pod written.
    pub(crate) fn change(&self, change: impl FnOnce(&mut ContainerView)) {
        self.pod.change(|view| {
            let views = if self.init { &mut view.init } else { &mut view.containers };
            if let Some(view) = views.get_mut(self.index) {
                change(view);
            }
        });
    }

    /// Changes the state to waiting.
    pub(crate) fn wait_for(&self, reason: &str, message: String) {
        self.change(|v| {
            v.state = State::Waiting { reason: reason.to_owned(), message: Some(message) };
        });
    }

    pub(crate) fn restarts(&self) -> i32 {
        self.view().restarts
    }

    /// Publishes an event of type `Normal` about the container.
    pub(crate) fn normal(&self, reason: &str, message: &str) {
        self.pod.node.normal(&self.pod.reference(self.field()), reason, message);
    }

    /// Publishes an event of type `Warning` about the container.
    pub(crate) fn warning(&self, reason: &str, message: &str) {
        self.pod.node.warning(&self.pod.reference(self.field()), reason, message);
    }

    fn field(&self) -> Option<String> {
        let list = if self.init { "initContainers" } else { "containers" };
        Some(format!("spec.{list}{{{}}}", self.container.name))
    }
}
