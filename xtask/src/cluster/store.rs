//! The state directory of one cluster: its record, lock, kubeconfig and log.

use super::{
    provider::{self, Provider, ProviderContext},
    record::{Record, State, unix_now},
    spec::Spec,
};
use crate::{
    cluster::edge::EdgeFiles,
    exec::{command_line::quoted, process::Signals, runner::CommandRunner},
    files,
    lock::Lock,
    project::Project,
};
use anyhow::{Context, Result, bail};
use std::{fs, io, path::PathBuf};

/// The state of one provider's cluster on disk.
pub(crate) struct ClusterStore {
    pub(crate) provider: &'static dyn Provider,
    pub(crate) folder: PathBuf,
}

impl ClusterStore {
    /// Opens the directory of a provider below the home directory.
    pub(crate) fn open(project: &Project, provider: &'static dyn Provider) -> Result<Self> {
        let home = project.home()?;
        let clusters = home.join("clusters");
        files::private_directory(&clusters)?;
        let store = Self::at(clusters.join(provider.name()), provider)?;
        provider.migrate(&home, &store.folder)?;
        Ok(store)
    }

    /// Opens the directory of a provider, if anything was ever started there.
    pub(crate) fn open_existing(
        project: &Project,
        provider: &'static dyn Provider,
    ) -> Result<Option<Self>> {
        let folder = project.home()?.join("clusters").join(provider.name());
        folder.is_dir().then(|| Self::open(project, provider)).transpose()
    }

    /// Opens a directory and creates it.
    pub(crate) fn at(folder: PathBuf, provider: &'static dyn Provider) -> Result<Self> {
        files::private_directory(&folder)?;
        Ok(Self { provider, folder })
    }

    /// Returns the log of all commands that were run.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("commands.log")
    }

    /// Returns the path of the environment file, which `up` writes for labs that judge what was made by hand.
    pub(crate) fn environment(&self) -> PathBuf {
        self.folder.join("environment.json")
    }

    /// Returns the path of the cluster's own kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Returns a runner that logs to this directory.
    pub(crate) fn runner<'a>(&self, signals: &'a Signals) -> CommandRunner<'a> {
        CommandRunner::new(signals, Some(self.log()))
    }

    /// Returns the input of the provider's steps.
    pub(crate) fn context<'a>(
        &'a self,
        spec: &'a Spec,
        project: &'a Project,
        runner: &'a CommandRunner<'a>,
        persistent: bool,
    ) -> ProviderContext<'a> {
        let (kubeconfig, known_errors) = (self.kubeconfig(), self.provider.known_errors());
        let folder = &self.folder;
        ProviderContext { spec, project, runner, folder, kubeconfig, known_errors, persistent }
    }

    /// Acquires the lock for changes to the cluster. It is held for a whole run where one run at a time
    /// uses the cluster; else briefly, so it is worth waiting for.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let file = self.folder.join("lock");
        if self.provider.side_by_side() {
            return Lock::wait(&file);
        }
        Lock::attempt(&file)?.with_context(|| self.in_use())
    }

    /// Acquires the lock that a lab holds on a cluster that other commands may change meanwhile; `None`
    /// if another lab has it.
    pub(crate) fn lock_for_lab(&self) -> Result<Option<Lock>> {
        Lock::attempt(&self.folder.join("in-use"))
    }

    /// Returns the message about a cluster that another run uses.
    pub(crate) fn in_use(&self) -> String {
        let name = self.provider.name();
        format!("the {name} cluster is in use by another run; wait for its end")
    }

    /// Reads the record. One that is missing or corrupt is recovered from the cluster, where that is
    /// possible.
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        match self.read_record() {
            Ok(Some(record)) => Ok(Some(record)),
            failed => match self.provider.recover(&self.folder)? {
                Some(record) => Ok(Some(record)),
                None => failed,
            },
        }
    }

    fn read_record(&self) -> Result<Option<Record>> {
        let file = self.folder.join("cluster.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
                format!(
                    "{} is damaged or was written by another version; `cargo xtask down{}` removes \
                     the cluster and the file",
                    file.display(),
                    provider::on_flag(self.provider)
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to read {}", file.display())),
        }
    }

    /// Reads the record of a cluster that may be running.
    pub(crate) fn running(&self) -> Result<Option<Record>> {
        let record = self.record()?;
        Ok(if self.provider.is_running(&self.folder)? { record } else { None })
    }

    /// Reads the record of a cluster that may be running, or fails with how to start one.
    pub(crate) fn expect_running(&self) -> Result<Record> {
        match self.running()? {
            Some(record) => Ok(record),
            None => bail!("{}", self.not_running()),
        }
    }

    /// Returns the message about a cluster that is not running.
    pub(crate) fn not_running(&self) -> String {
        let (name, on) = (self.provider.name(), provider::on_flag(self.provider));
        match self.provider.death(&self.folder) {
            Some(death) => {
                format!("no {name} cluster is up: {death}\n`cargo xtask up{on}` starts another")
            }
            None => format!("no {name} cluster is up; `cargo xtask up{on}` starts one"),
        }
    }

    /// Replaces the record.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        files::write_json(&self.folder.join("cluster.json"), record)
    }

    /// Removes the record and the kubeconfig.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(self.folder.join("cluster.json"));
        let _ = fs::remove_file(self.kubeconfig());
    }

    /// Returns one line about the recorded cluster, if there is one.
    pub(crate) fn status_line(&self) -> Result<Option<String>> {
        let Some(record) = self.running()? else { return Ok(None) };
        let state = match record.state {
            State::Up => "up",
            State::Incomplete => "incomplete",
        };
        let expired = record.spec.expires.is_some_and(|at| at < unix_now());
        let expired = if expired { ", expired: delete it" } else { "" };
        let edge = EdgeFiles::of(&self.folder).status()?;
        let edge = edge.map(|edge| format!(", load balancers at {edge}")).unwrap_or_default();
        let summary = self.summary();
        Ok(Some(format!(
            "{} `{}`, {state}{summary}{expired}{edge}; {}",
            self.provider.name(),
            record.spec.name,
            self.export_command()
        )))
    }

    /// Returns the provider's detail of a running cluster, to be appended to a line.
    pub(crate) fn summary(&self) -> String {
        let summary = self.provider.summary(&self.folder);
        summary.map(|summary| format!(", {summary}")).unwrap_or_default()
    }

    /// Returns the shell command that selects the cluster for kubectl.
    pub(crate) fn export_command(&self) -> String {
        format!("export KUBECONFIG={}", quoted(&self.kubeconfig().to_string_lossy()))
    }
}
