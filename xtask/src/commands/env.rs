//! `cargo xtask env`: shell variables for kubectl and curl, the same on every machine and cluster.

use super::provider_flag::ProviderFlag;
use crate::{
    cluster::{published, store::ClusterStore},
    exec::{command_line::quoted, inherited, process::Signals},
    output::{errln, outln},
    project::Project,
};
use anyhow::Result;
use clap::Args;
use std::{env, time::Duration};

/// Time for load balancers and Ingresses to get their addresses: seconds in a cloud.
const WAIT: Duration = Duration::from_secs(120);

/// Print shell variables for kubectl and curl
///
/// Use it as `eval "$(cargo xtask env)"`.
///
/// KUBECONFIG selects the cluster that `up` created. SERVICE_URL is where the most recent load balancer
/// serves. INGRESS is where the most recent Ingress serves, for `curl --connect-to "::$INGRESS"
/// http://<host>/`, and INGRESS_TLS the same for https. Waits until objects that exist have addresses.
#[derive(Args)]
pub(super) struct Env {
    #[command(flatten)]
    provider: ProviderFlag,
}

pub(super) fn run(args: &Env) -> Result<()> {
    let project = Project::find()?;
    let store = ClusterStore::open(&project, args.provider.provider())?;
    let record = store.expect_running()?;
    let signals = Signals::install()?;
    let runner = store.runner(&signals);
    let context = store.context(&record.spec, &project, &runner, true);
    let published = published::list(&context, WAIT)?;
    outln!("{}", store.export_command())?;
    for variable in published::variables(&published) {
        outln!("{variable}")?;
    }
    if let Some(hosts) = inherited::no_proxy(|name| env::var_os(name)) {
        outln!("export NO_PROXY={0} no_proxy={0}", quoted(&hosts.to_string_lossy()))?;
    }
    if published.is_empty() {
        errln!("no load balancer and no Ingress yet; run this again after `kubectl apply`");
    }
    Ok(())
}
