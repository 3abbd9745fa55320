//! An acquired cluster: loads images, starts the edge, diagnoses failures, and deletes on release what
//! was created for this run alone.

use super::{
    edge::{Edge, EdgeTarget},
    provider::{self, ProviderContext},
    published,
    record::Record,
    spec::{NONE, Spec},
    store::ClusterStore,
};
use crate::{
    exec::{daemon::Daemon, process::Signals, runner::CommandRunner},
    files,
    images::{self, Image, archive, push},
    lock::Lock,
    output::errln,
    project::Project,
};
use anyhow::{Context, Result};
use lab_environment::Environment;
use std::{os::fd::OwnedFd, path::Path, time::Duration};

/// A cluster that a run uses.
pub(crate) struct ClusterGuard {
    pub(super) store: ClusterStore,
    pub(super) spec: Spec,
    /// True if labs run on it, which then are the ones that use it.
    pub(super) for_labs: bool,
    /// True if the cluster is deleted on release.
    pub(super) ephemeral: bool,
    /// Seconds that its creation took; `None` if it was up.
    pub(super) started_in: Option<f64>,
    /// The process of a cluster that ends with this run.
    pub(super) daemon: Option<Daemon>,
    pub(super) edge: Option<Edge>,
    pub(super) registry: Option<String>,
    pub(super) pull_secret: Option<String>,
    pub(super) _lock: Lock,
}

impl ClusterGuard {
    /// Confirms the use of the cluster, hands it the images and starts the edge. A cluster that was
    /// created for this run alone is deleted if that fails.
    pub(super) fn provision(
        mut self,
        mut record: Record,
        yes: bool,
        project: &Project,
        images: &[Image],
        signals: &Signals,
    ) -> Result<Self> {
        let runner = self.store.runner(signals);
        let provider = self.store.provider;
        let mut missing = "";
        let provisioned = provider
            .confirm_use(&self.context(project, &runner), yes)
            .and_then(|()| {
                let loaded = self.load_images(&mut record, project, images, &runner);
                loaded.inspect_err(|_| missing = ", without all of its images")
            })
            .and_then(|()| self.start_edge(&record, project, &runner, signals));
        if let Err(error) = provisioned {
            if !self.ephemeral && provider.is_managed() {
                let (name, on) = (provider.name(), provider::on_flag(provider));
                errln!(
                    "{name}: `{}` is up and is kept{missing}: `cargo xtask up{on}` continues with it, \
                     `cargo xtask down{on}` removes it",
                    self.spec.name
                );
            }
            self.release(project, signals);
            return Err(error);
        }
        Ok(self)
    }

    fn context<'a>(
        &'a self,
        project: &'a Project,
        runner: &'a CommandRunner<'a>,
    ) -> ProviderContext<'a> {
        self.store.context(&self.spec, project, runner, !self.ephemeral)
    }

    fn load_images(
        &mut self,
        record: &mut Record,
        project: &Project,
        images: &[Image],
        runner: &CommandRunner,
    ) -> Result<()> {
        let provider = self.store.provider;
        let context = self.context(project, runner);
        let digests = images::digests(images);
        match provider.registry(&context)? {
            Some(registry) => {
                // Asked each time: images may have been removed from the registry.
                for image in images {
                    push::push(&registry, image, runner)?;
                }
                self.registry = Some(registry.name);
            }
            None if record.images == digests => return Ok(()),
            // `up` has reported that it should be started again.
            None if !self.for_labs && provider.outdated(&context)?.is_some() => return Ok(()),
            None => {
                // Pods of a lab would get other images from one moment to the next.
                let _unused = match provider.side_by_side() && !self.for_labs {
                    true => Some(self.store.lock_for_lab()?.with_context(|| self.store.in_use())?),
                    false => None,
                };
                provider.load_images(&context, images)?;
                if provider.side_by_side() {
                    errln!("the images are loaded; pods that start from now on use them");
                }
            }
        }
        record.images = digests;
        self.store.save(record)
    }

    fn start_edge(
        &mut self,
        record: &Record,
        project: &Project,
        runner: &CommandRunner,
        signals: &Signals,
    ) -> Result<()> {
        let provider = self.store.provider;
        if !provider.needs_edge(&self.spec) {
            return Ok(());
        }
        let context = self.context(project, runner);
        let target = EdgeTarget {
            folder: &self.store.folder,
            kubeconfig: &context.kubeconfig,
            published: &provider.published_ports(&context),
            namespace: provider.edge_namespace(),
        };
        // An edge that only this lab asked for ends with it.
        let persistent = record.persistent && provider.needs_edge(&record.spec);
        self.edge = Some(Edge::ensure(project, &target, persistent, signals)?);
        Ok(())
    }

    /// Returns everything that labs know of the cluster. The pull secret is written to a file of its own
    /// in `folder`, which only this user can read.
    pub(crate) fn environment(
        &self,
        project: &Project,
        images: &[Image],
        docker: bool,
        folder: &Path,
    ) -> Result<Environment> {
        let provider = self.store.provider;
        let mut profile = provider.profile(&self.spec);
        if let Some(edge) = &self.edge {
            edge.adjust_profile(&mut profile);
        }
        let pull_secret = self.pull_secret.as_ref().map(|secret| {
            let file = folder.join("pull-secret.json");
            files::write_private(&file, secret.as_bytes()).map(|()| file)
        });
        let image = |image: &Image| lab_environment::Image {
            version: image.version.clone(),
            manifest_name: image.name.clone(),
            name: match &self.registry {
                Some(registry) => format!("{registry}/{}", image.name),
                None => image.name.clone(),
            },
            archive: image.archive.clone(),
            rebuilt: image.rebuilt.clone(),
            binary: image.binary.clone(),
            build_input: image.build_input.clone(),
        };
        Ok(Environment {
            provider: provider.name().into(),
            kubeconfig: self.store.kubeconfig(),
            started_in: self.started_in,
            manifests: project.root.join("manifests"),
            images: images.iter().map(image).collect(),
            // A tag is pushed again when the app changes, and nodes would keep the old image; an image
            // that was loaded cannot be pulled at all.
            pull_policy: if self.registry.is_some() { "Always" } else { "IfNotPresent" }.into(),
            // Images that the nodes had before may be anyone's.
            architecture: match self.spec.registry.as_deref() {
                Some(NONE) => None,
                _ => images.first().and_then(|image| archive::architecture_of(&image.archive)),
            },
            pull_secret: pull_secret.transpose()?,
            ingress_class: self.spec.overrides.ingress_class(),
            gateway_class: self.spec.overrides.gateway_class(provider.gateway_class()),
            app: project.root.join("app"),
            docker,
            timeouts: profile.timeouts,
            alternative: profile.precision,
            unsupported: profile.unsupported,
        })
    }

    /// Writes the environment for labs that judge what was made by hand.
    pub(crate) fn save_environment(&self, project: &Project, images: &[Image]) -> Result<()> {
        let environment = self.environment(project, images, false, &self.store.folder)?;
        files::write_private(&self.store.environment(), &serde_json::to_vec_pretty(&environment)?)
    }

    /// Describes its load balancers and Ingresses, a line each; nothing if they are unknown.
    pub(crate) fn describe_published(&self, project: &Project, signals: &Signals) -> Vec<String> {
        let runner = self.store.runner(signals);
        let published = published::list(&self.context(project, &runner), Duration::ZERO);
        published.map(|published| published::lines(&published)).unwrap_or_default()
    }

    /// Returns true if the cluster ends with this run, so that labs need not clean up on it.
    pub(crate) fn ends_with_run(&self) -> bool {
        self.daemon.is_some()
    }

    /// Returns true if the cluster is deleted after this run with all that labs created. Real Kubernetes takes
    /// several seconds to delete a namespace, which is spared then.
    pub(crate) fn is_deleted_after_run(&self) -> bool {
        self.ephemeral && self.daemon.is_none() && self.store.provider.is_managed()
    }

    /// Returns the shell command that selects the cluster for kubectl.
    pub(crate) fn export_command(&self) -> String {
        self.store.export_command()
    }

    /// Returns the error of a cluster that no longer responds, after labs ended without a verdict.
    pub(crate) fn diagnose(&self, project: &Project, signals: &Signals) -> Option<String> {
        if self.daemon.is_some() {
            // Watched during the run.
            return None;
        }
        let (provider, runner) = (self.store.provider, self.store.runner(signals));
        let context = self.context(project, &runner);
        let error = runner.ignoring_signals(|| provider.check_ready(&context)).err()?;
        let (name, on) = (provider.name(), provider::on_flag(provider));
        let hint = match provider.is_managed() {
            true => format!(
                "; `cargo xtask doctor --on {name}` checks for the reason, `cargo xtask up{on}` \
                 recreates it"
            ),
            false => String::new(),
        };
        Some(format!("the {name} cluster became unavailable during the run: {error:#}{hint}"))
    }

    /// Returns the error if a process that the labs depend on has exited.
    pub(crate) fn exited(&mut self) -> Option<String> {
        if let Some(daemon) = &mut self.daemon
            && daemon.has_exited()
        {
            return Some(format!("the cluster exited during the run{}", daemon.log_tail()));
        }
        let log_tail = self.edge.as_mut()?.exited()?;
        Some(format!("the edge exited during the run; the next run starts another{log_tail}"))
    }

    /// Returns a pidfd that becomes readable when the edge exits, if it is not our child and its exit
    /// therefore raises no SIGCHLD.
    pub(crate) fn edge_pidfd(&self) -> Result<Option<OwnedFd>> {
        let pidfd = self.edge.as_ref().and_then(Edge::pidfd);
        Ok(pidfd.map(|fd| fd.try_clone_to_owned()).transpose()?)
    }

    /// Keeps a cluster that was created for this run alone.
    pub(crate) fn keep(&mut self) -> Result<()> {
        self.ephemeral = false;
        if let Some(mut record) = self.store.record()? {
            // The overrides of whoever made it persistent are the ones to record.
            if !record.persistent {
                record = Record::update(Some(record), &self.spec, true);
            }
            self.store.save(&record)?;
        }
        Ok(())
    }

    /// Stops and deletes what was started for this run alone.
    pub(crate) fn release(mut self, project: &Project, signals: &Signals) {
        if let Some(edge) = self.edge.take() {
            edge.release(signals);
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(signals);
        }
        if !self.ephemeral {
            return;
        }
        let runner = self.store.runner(signals);
        let context = self.context(project, &runner);
        let provider = self.store.provider;
        match runner.ignoring_signals(|| provider.delete(&context)) {
            Ok(()) => self.store.forget(),
            Err(error) => {
                let (name, on) = (provider.name(), provider::on_flag(provider));
                errln!(
                    "{name}: failed to delete `{}`: {error:#}; `cargo xtask down{on}` removes it",
                    self.spec.name
                );
            }
        }
    }
}
