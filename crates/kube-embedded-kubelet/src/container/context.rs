//! One container of a pod, for the code that runs it: its part of the pod's state, log and events.

use super::role::{Role, containers};
use crate::{
    logs::Log,
    pod::{handle::PodHandle, sandbox::PodSandbox, stop::StopSignal},
    status::{self, ContainerView, State},
};
use k8s_openapi::api::core::v1::Container;
use std::sync::Arc;

/// One container of a pod in its sandbox.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a PodHandle,
    pub(crate) sandbox: &'a PodSandbox,
    pub(crate) container: &'a Container,
    /// The position among the containers of this role.
    pub(crate) index: usize,
    pub(crate) role: Role,
    /// The container whose processes this one sees (`targetContainerName`).
    pub(crate) shares_processes_of: Option<&'a str>,
    pub(crate) log: &'a Arc<Log>,
    /// Set once the containers of the sandbox have to end.
    pub(crate) stop: &'a StopSignal,
}

impl Context<'_> {
    /// Returns true for a native sidecar: an init container that runs beside the containers.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.role == Role::Init && status::is_sidecar(self.container)
    }

    /// Waits until an update of the pod has another image for the container.
    pub(crate) async fn image_changed(&self) {
        if self.role == Role::Ephemeral {
            // An update cannot change it.
            return std::future::pending().await;
        }
        let mut objects = self.pod.objects();
        let changed = objects.wait_for(|object| {
            let container = containers(object, self.role == Role::Init).get(self.index);
            container.is_some_and(|c| c.image != self.container.image)
        });
        if changed.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the container's part of the pod's state.
    pub(crate) fn view(&self) -> ContainerView {
        let view = self.pod.view();
        view.of(self.role).get(self.index).cloned().unwrap_or_default()
    }

    /// Changes the container's state, and has the status of the pod written.
    pub(crate) fn change(&self, change: impl FnOnce(&mut ContainerView)) {
        self.pod.change(|view| {
            if let Some(view) = view.of_mut(self.role).get_mut(self.index) {
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
        let list = match self.role {
            Role::Init => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        Some(format!("spec.{list}{{{}}}", self.container.name))
    }
}
