//! `kube-embedded serve`: a cluster for as long as the process lives.

use super::{logging, output::print_ready, shutdown::ShutdownSignals, status_file::StatusFile};
use crate::{Cluster, Config, Sandbox, StartError};
use clap::{Args, ValueEnum};
use kube_embedded_apiserver::credentials::write_private;
use serde_json::json;
use std::{fs, path::PathBuf, time::Instant};

/// Start a cluster, print one line of JSON when its API is ready, and serve until SIGTERM, SIGINT or SIGHUP.
///
/// On SIGUSR1 it loads the images again; pods that start later use them.
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// Write the kubeconfig here (mode 0600, removed on exit) instead of into the cluster's private
    /// directory.
    #[arg(long, value_name = "PATH")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// An image archive (OCI layout or docker-archive, .tar), or a directory of archives. Repeatable.
    #[arg(long, value_name = "PATH")]
    images: Vec<PathBuf>,
    /// The parent of the cluster's private directory [default: $XDG_RUNTIME_DIR or /tmp].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Pod isolation; `auto` picks the strongest mode available.
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    sandbox: SandboxMode,
    /// The number of nodes that run pods.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    /// Give load balancers and Ingresses no addresses, as on a kind cluster.
    #[arg(long)]
    no_load_balancers: bool,
    /// Install the Gateway API: its CustomResourceDefinitions and the GatewayClass `kube-embedded`.
    #[arg(long, conflicts_with = "no_load_balancers")]
    gateway_api: bool,
    /// Report here that the process lives: JSON with the number of times that images were loaded again,
    /// touched every 5 seconds and removed on exit.
    #[arg(long, value_name = "PATH")]
    status_file: Option<PathBuf>,
    /// Allow pods to mount this directory of the host, and those below it (hostPath volumes). Repeatable.
    #[arg(long, value_name = "DIR")]
    allow_host_path: Vec<PathBuf>,
    /// Exit when stdin is closed, e.g. because the parent process died.
    #[arg(long)]
    pub(super) exit_with_stdin: bool,
    #[command(flatten)]
    pub(super) log: logging::Options,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SandboxMode {
    /// The strongest mode that works on this machine.
    #[default]
    Auto,
    /// User, mount, pid, uts and network namespaces.
    Namespaced,
    /// Child processes with a loopback address each; static programs only.
    Plain,
}

impl Serve {
    pub(super) fn config(&self) -> Config {
        Config {
            nodes: self.nodes,
            sandbox: match self.sandbox {
                SandboxMode::Auto => None,
                SandboxMode::Namespaced => Some(Sandbox::Namespaced),
                SandboxMode::Plain => Some(Sandbox::Plain),
            },
            images: self.images.clone(),
            state_dir: self.state.clone(),
            load_balancers: !self.no_load_balancers,
            gateway_api: self.gateway_api,
            allow_host_path: self.allow_host_path.clone(),
        }
    }

    pub(super) async fn run(self) -> Result<(), String> {
        let begun = Instant::now();
        let mut shutdown = ShutdownSignals::listen()?;
        let mut status = StatusFile::listen(self.status_file.clone())?;
        let started = tokio::select! {
            started = Cluster::start(self.config()) => started,
            () = shutdown.signal() => return Ok(()),
        };
        let cluster = started.map_err(|error| match error {
            StartError::StateDir { .. } => format!("{error}; choose another parent with --state"),
            _ => error.to_string(),
        })?;
        let path = self.kubeconfig.unwrap_or_else(|| cluster.state_dir().join("kubeconfig"));
        let text = cluster.kubeconfig();
        write_private(&path, &text).map_err(|error| {
            format!("failed to write the kubeconfig {}: {error}", path.display())
        })?;
        status.write(None)?;
        let sandbox = match cluster.sandbox() {
            Sandbox::Namespaced => "namespaced",
            Sandbox::Plain => "plain",
        };
        print_ready(json!({
            "server": cluster.url(),
            "kubeconfig": std::path::absolute(&path).unwrap_or_else(|_| path.clone()).to_string_lossy(),
            "sandbox": sandbox,
            "sandboxReason": cluster.sandbox_reason(),
            "startedIn": begun.elapsed().as_secs_f64(),
        }));
        let source = tokio::select! {
            source = shutdown.first(self.exit_with_stdin) => source,
            never = status.maintain(&cluster, &self.images) => match never {},
        };
        tokio::select! {
            () = cluster.stop() => {}
            // Dropping the cluster ends everything at once.
            () = shutdown.again(source) => {}
        }
        // Another cluster may have written its own kubeconfig there in the meantime.
        if fs::read_to_string(&path).is_ok_and(|current| current == text) {
            let _ = fs::remove_file(&path);
        }
        status.remove();
        Ok(())
    }
}
