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
use tokio::signal::unix::{SignalKind, signal};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    No claim fails; some may be open
  1    A claim does not hold, or a layer is at fault
  2    Wrong usage
  3    There is nothing to judge: no cluster, no namespace";

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

    pub(super) fn watch(&self) -> anyhow::Result<Exit> {
        let lab = phases::find(&self.lab).context("no such lab")?;
        let environment = read_environment(&self.environment)?;
        block_on(async {
            let client = run::client(&environment.kubeconfig).await?;
            watch::watch(lab, environment, client, &self.namespace, stopped()?).await
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
