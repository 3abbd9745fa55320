//! The provider interface: everything that differs between kind, k3s, GKE, the embedded cluster and the
//! others. The order of steps and the cleanup after a failure are the same for all of them
//! ([`super::lifecycle`]).

use super::{flags::ClusterFlags, profile::ClusterProfile, record::Record, spec::Spec};
use crate::{
    doctor::check::Check,
    exec::{
        command_line::CommandLine,
        daemon::Daemon,
        runner::{CommandRunner, KnownError},
    },
    files,
    images::{Image, push},
    project::Project,
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// The provider that is used without `--on`.
pub(crate) const DEFAULT: &str = "embedded";

/// Time for a program or an API to respond.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the nodes of a new cluster to become ready.
const NODES_TIMEOUT: Duration = Duration::from_secs(300);
/// Time for an existing cluster to respond: it may have been suspended.
const WAKE_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// Node ports and the host addresses where they are published.
pub(crate) type PublishedPorts = BTreeMap<u16, String>;

/// A way to get a cluster.
pub(crate) trait Provider: Sync {
    /// Returns the value of `--on`.
    fn name(&self) -> &'static str;

    /// Returns the flags that it supports, of those that not every provider does.
    fn flags(&self) -> &'static [&'static str];

    /// Returns the checks of `cargo xtask doctor`.
    fn checks(&self) -> &'static [Check];

    /// Returns the checks that run before anything is built or created.
    fn preflight_checks(&self) -> &'static [Check] {
        self.checks()
    }

    /// Returns how its programs fail.
    fn known_errors(&self) -> &'static [KnownError];

    /// Resolves the flags; invalid ones are usage errors.
    fn spec(&self, flags: &ClusterFlags) -> Result<Spec>;

    /// The Gateway class that the cluster has for certain.
    fn gateway_class(&self) -> Option<&'static str> {
        None
    }

    /// Returns what differs from other clusters for the labs.
    fn profile(&self, spec: &Spec) -> ClusterProfile;

    /// Returns what the cluster costs, if it costs money. It is confirmed before creation.
    fn cost(&self, _: &Spec) -> Option<String> {
        None
    }

    /// Returns true if load balancers and Ingresses get no addresses there, so that our edge has to
    /// provide them.
    fn needs_edge(&self, _: &Spec) -> bool {
        false
    }

    /// Returns the only namespace that our edge serves there; `None` for all.
    fn edge_namespace(&self) -> Option<&'static str> {
        None
    }

    /// Returns the node ports that are published on this host.
    fn published_ports(&self, _: &ProviderContext) -> PublishedPorts {
        PublishedPorts::new()
    }

    /// Returns true if a cluster of that name exists, whoever created it.
    fn exists(&self, context: &ProviderContext) -> Result<bool>;

    /// Returns false if a recorded cluster is certainly not running. This runs no programs.
    fn is_running(&self, _: &Path) -> Result<bool> {
        Ok(true)
    }

    /// Returns true if [`Provider::create`] resumes an incomplete creation; else the rest is deleted
    /// first.
    fn can_resume(&self) -> bool {
        false
    }

    /// Creates the cluster. Returns its process if that ends with this run.
    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>>;

    /// Writes the kubeconfig of an existing cluster.
    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()>;

    /// Waits until a new cluster can be used.
    fn wait_ready(&self, context: &ProviderContext) -> Result<()> {
        let timeout = format!("--timeout={}s", NODES_TIMEOUT.as_secs());
        let line = context.kubectl("wait --for=condition=Ready nodes --all").args([timeout]);
        context.wait_for_nodes(&line)
    }

    /// Checks that an existing cluster responds.
    fn check_ready(&self, context: &ProviderContext) -> Result<()> {
        let line = context.kubectl("get --raw /readyz --request-timeout=15s");
        let output = context.runner.query(&line, WAKE_UP_TIMEOUT)?;
        output.into_stdout(context.known_errors).map(drop)
    }

    /// Describes how a running cluster differs from what the flags request, if it does.
    fn mismatch(&self, _: &ProviderContext, _: &ClusterFlags) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns why a running cluster should be started again, such as an older build.
    fn outdated(&self, _: &ProviderContext) -> Result<Option<String>> {
        Ok(None)
    }

    /// Describes when and how the recorded cluster ended, if nobody stopped it. This runs no programs.
    fn death(&self, _: &Path) -> Option<String> {
        None
    }

    /// Returns a detail for the line about a running cluster.
    fn summary(&self, _: &Path) -> Option<String> {
        None
    }

    /// Returns the report of `status` on this one cluster.
    fn details(&self, context: &ProviderContext, _: &Record) -> Result<String> {
        let nodes = context.kubectl("get nodes --output wide --request-timeout=15s");
        let nodes = context.query(&nodes)?;
        let version = context.query(&context.kubectl("version --request-timeout=15s"))?;
        Ok(format!("{version}\n{nodes}"))
    }

    /// Asks before it touches anything that it did not create.
    fn confirm_use(&self, _: &ProviderContext, _yes: bool) -> Result<()> {
        Ok(())
    }

    /// Returns the registry that images are pushed to; `None` where they are loaded.
    fn registry(&self, _: &ProviderContext) -> Result<Option<push::Registry>> {
        Ok(None)
    }

    /// Returns true if its nodes read the images when the cluster starts, so that a new one needs none.
    fn reads_images_at_start(&self) -> bool {
        false
    }

    /// Loads the images onto every node of a running cluster.
    fn load_images(&self, _: &ProviderContext, _: &[Image]) -> Result<()> {
        Ok(())
    }

    /// Deletes the cluster; one that no longer exists is not an error.
    fn delete(&self, context: &ProviderContext) -> Result<()>;

    /// Returns true if a lab may create one for itself.
    fn allow_ephemeral(&self) -> bool {
        true
    }

    /// Returns true if each lab may have a cluster of its own next to the one of `up`, which then is
    /// reused only if it is free and current. Else one run at a time uses the one cluster.
    fn side_by_side(&self) -> bool {
        false
    }

    /// Returns false if the cluster is the user's own: it is never created, recreated or deleted.
    fn is_managed(&self) -> bool {
        true
    }

    /// Returns the record of a running cluster that has lost it.
    fn recover(&self, _folder: &Path) -> Result<Option<Record>> {
        Ok(None)
    }

    /// Takes over the state of an earlier version of this program.
    fn migrate(&self, _home: &Path, _folder: &Path) -> Result<()> {
        Ok(())
    }
}

/// Returns the flag that selects a provider, for commands in messages; empty for the default.
pub(crate) fn on_flag(provider: &dyn Provider) -> String {
    match provider.name() {
        DEFAULT => String::new(),
        name => format!(" --on {name}"),
    }
}

/// The input of the steps of a provider.
pub(crate) struct ProviderContext<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) project: &'a Project,
    pub(crate) runner: &'a CommandRunner<'a>,
    /// The state directory of this cluster.
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) known_errors: &'static [KnownError],
    /// False if the cluster ends with this run.
    pub(crate) persistent: bool,
}

impl ProviderContext<'_> {
    /// Runs a program for its effect.
    pub(crate) fn run(&self, line: &CommandLine, timeout: Duration) -> Result<()> {
        self.runner.run(line, timeout)?.into_stdout(self.known_errors).map(drop)
    }

    /// Runs a program for its output.
    pub(crate) fn query(&self, line: &CommandLine) -> Result<String> {
        self.runner.query(line, QUERY_TIMEOUT)?.into_stdout(self.known_errors)
    }

    /// Returns a kubectl command on this cluster.
    pub(crate) fn kubectl(&self, words: &str) -> CommandLine {
        CommandLine::new("kubectl").args(words.split_whitespace()).kubeconfig(&self.kubeconfig)
    }

    /// Runs a command that succeeds once the nodes are ready.
    pub(crate) fn wait_for_nodes(&self, line: &CommandLine) -> Result<()> {
        self.run(line, NODES_TIMEOUT + QUERY_TIMEOUT).context("nodes did not become ready")
    }

    /// Replaces the kubeconfig; only this user can read it.
    pub(crate) fn save_kubeconfig(&self, text: &str) -> Result<()> {
        let part = self.kubeconfig.with_added_extension("part");
        // One with other permissions would keep them.
        let _ = fs::remove_file(&part);
        files::write_private(&part, text.as_bytes())?;
        fs::rename(&part, &self.kubeconfig)
            .with_context(|| format!("failed to write {}", self.kubeconfig.display()))
    }
}

/// The newest and the oldest version of Kubernetes that a provider is tested with.
pub(crate) struct VersionPins {
    pub(crate) newest: &'static str,
    pub(crate) oldest: &'static str,
}

impl VersionPins {
    /// Resolves `newest` and `oldest`; other names are taken as they are.
    pub(crate) fn resolve<'a>(&self, image: &'a str) -> &'a str {
        match image {
            "newest" => self.newest,
            "oldest" => self.oldest,
            other => other,
        }
    }
}
