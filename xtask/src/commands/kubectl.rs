//! `cargo xtask kubectl -- …`: the user's kubectl, on a cluster that `up` created.

use super::provider_flag::ProviderFlag;
use crate::{
    cluster::store::ClusterStore,
    exec::{inherited, install},
    project::Project,
};
use anyhow::{Result, ensure};
use clap::Args;
use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

/// Run kubectl on the cluster of `up`, e.g. `kubectl -- get pods`
///
/// Everything after `--on` is passed to kubectl as it is, including `--help`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(super) struct Kubectl {
    #[command(flatten)]
    provider: ProviderFlag,
    /// Arguments of kubectl
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(super) fn run(args: &Kubectl) -> Result<()> {
    let store = ClusterStore::open(&Project::find()?, args.provider.provider())?;
    store.expect_running()?;
    ensure!(store.kubeconfig().is_file(), "{}", store.not_running());
    let mut kubectl = Command::new("kubectl");
    inherited::clean_environment(&mut kubectl);
    kubectl.env("KUBECONFIG", store.kubeconfig()).args(&args.args);
    // In our place, so that signals, terminal and exit code are kubectl's own.
    Err(install::spawn_error("kubectl", kubectl.exec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(line: &str) -> String {
        let command = Kubectl::augment_args(clap::Command::new("kubectl"));
        let matches = command.try_get_matches_from(line.split_whitespace()).unwrap();
        let Kubectl { provider, args } = Kubectl::from_arg_matches(&matches).unwrap();
        let args = args.join(" ".as_ref()).into_string().unwrap();
        let on = provider.selected().map(|provider| format!("[{}] ", provider.name()));
        on.unwrap_or_default() + &args
    }

    #[test]
    fn arguments_after_kubectl_are_passed_unchanged() {
        for (line, expected) in [
            ("kubectl -- get pods -o wide", "get pods -o wide"),
            ("kubectl get pods --help", "get pods --help"),
            ("kubectl --help", "--help"),
            ("kubectl -n production get pods", "-n production get pods"),
            ("kubectl -- exec x -- ls", "exec x -- ls"),
            ("kubectl exec x -- ls", "exec x -- ls"),
            ("kubectl --on kind -- get pods --on x", "[kind] get pods --on x"),
            ("kubectl --on kind get pods", "[kind] get pods"),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
