//! `labs check` and `labs watch`.

use super::common::{block_on, print, read_environment};
use super::target::lab_values;
use crate::check::check;
use crate::names::NAMESPACE;
use crate::phases;
use crate::run::{self, Exit};
use crate::watch;
use crate::wrap::columns;
use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    No claim fails; some may be open
  1    A claim does not hold, or a layer is at fault
  2    Wrong usage
  3    There is nothing to judge: no cluster, no namespace";

pub(super) const WATCH_EXIT_CODES: &str = "\
Exit codes:
  0    Every claim holds, or `q`
  1    A claim does not hold after --timeout
  2    Wrong usage
  3    There is no cluster
  130  Interrupted

Without a terminal there are no keys; it ends once every claim holds, after
--timeout, or with a signal, and at the end of a pipe that it reads or writes.";

/// A year, so that times can be added to it.
const MOST_SECONDS: u64 = 365 * 24 * 60 * 60;

#[derive(Args, Debug)]
pub(super) struct CheckFlags {
    /// The lab
    #[arg(value_parser = PossibleValuesParser::new(lab_values()))]
    lab: String,
    /// The environment file that describes the cluster (written by `cargo xtask`)
    #[arg(long, value_name = "FILE")]
    environment: PathBuf,
    /// The namespace to look at
    #[arg(long, short, value_name = "NAME", default_value = NAMESPACE)]
    namespace: String,
}

#[derive(Args, Debug)]
pub(super) struct WatchFlags {
    #[command(flatten)]
    on: CheckFlags,
    /// Seconds after which to end with exit code 1, unless every claim holds before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    timeout: Option<u64>,
}

impl CheckFlags {
    pub(super) fn check(&self) -> anyhow::Result<Exit> {
        let lab = phases::find(&self.lab).context("no such lab")?;
        let environment = read_environment(&self.environment)?;
        block_on(async {
            let client = run::client(&environment.kubeconfig).await?;
            let check = check(lab, &environment, client, &self.namespace).await?;
            print(&check.text(lab, columns()));
            Ok(if check.is_clean() { Exit::Holds } else { Exit::Fails })
        })
    }
}

impl WatchFlags {
    pub(super) fn watch(&self) -> anyhow::Result<Exit> {
        let CheckFlags { lab, environment, namespace } = &self.on;
        let lab = phases::find(lab).context("no such lab")?;
        let environment = read_environment(environment)?;
        let timeout = self.timeout.map(Duration::from_secs);
        block_on(async {
            let client = run::client(&environment.kubeconfig).await?;
            watch::watch(lab, environment, client, namespace, timeout, stopped()?).await
        })
    }
}

/// Completes on SIGINT, SIGTERM or SIGHUP. There is nothing to clean up on the cluster.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
