//! `labs ui`: the page for a cluster on which a person works by hand. It changes nothing there; it sends a
//! little traffic to the first load balancer, so that there is something to see.

use super::common::block_on;
use super::interrupt::interruption;
use crate::event::{Event, Events, SCHEMA};
use crate::kubernetes::external::published_address;
use crate::names::NAMESPACE;
use crate::observer::Observer;
use crate::report;
use crate::run::{self, Exit};
use crate::sampler::Sampler;
use clap::Args;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt as _, api::ListParams};
use std::path::PathBuf;
use std::time::Duration;

/// The duration of a sample: a share over this time follows what a person changes.
const WINDOW: Duration = Duration::from_secs(10);
/// The interval of looking for a load balancer while there is none.
const SEARCH: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The cluster's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The cluster's name on the page
    #[arg(long, default_value = "this cluster")]
    provider: String,
    /// The namespace to watch
    #[arg(long, default_value = NAMESPACE)]
    namespace: String,
    /// The port of the page
    #[arg(long)]
    port: Option<u16>,
    /// Requests per second to the load balancer; 0 for none
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=2000))]
    rate: u32,
}

impl Flags {
    /// Shows the page until it is interrupted.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (events, receiver) = Events::channel();
        let options = report::Options { ui: Some(self.port), ..report::Options::default() };
        let reports = report::Reports::start(&options, receiver)?;
        let exit = block_on(self.show(events));
        reports.join()?;
        exit
    }

    async fn show(self, events: Events) -> anyhow::Result<Exit> {
        let interrupted = interruption(false)?;
        let client = run::client(&self.kubeconfig).await?;
        let (version, labs) = (env!("CARGO_PKG_VERSION"), Vec::new());
        let provider = self.provider.clone();
        events.send(Event::RunStarted { schema: SCHEMA, version, provider, labs });
        let observer = Observer::start(client.clone(), &self.namespace, &events);
        tokio::select! {
            () = interrupted => {}
            () = self.traffic(client, &events) => {}
        }
        drop(observer);
        Ok(Exit::Holds)
    }

    /// Samples the load balancer, one window after the other.
    async fn traffic(&self, client: kube::Client, events: &Events) {
        if self.rate == 0 {
            return std::future::pending().await;
        }
        let services: Api<Service> = Api::namespaced(client, &self.namespace);
        let mut search = tokio::time::interval(SEARCH);
        loop {
            search.tick().await;
            // The observer reports a cluster that does not respond.
            let Ok(found) = services.list(&ListParams::default()).await else { continue };
            let Some((name, url)) = found.items.iter().find_map(target) else { continue };
            let Ok(sampler) = Sampler::to(&url, TIMEOUT).await else { continue };
            let what = format!("{name}, the last {} s", WINDOW.as_secs());
            let (sender, named) = (events.clone(), what.clone());
            let traffic = sampler
                .background(self.rate, move |counts| sender.send(counts.event(&named, 0, &None)));
            tokio::time::sleep(WINDOW).await;
            if let Ok(sample) = traffic.stop_after(0).await {
                events.send(sample.event(&what));
            }
        }
    }
}

/// Returns name and URL of a Service that has an external address.
fn target(service: &Service) -> Option<(String, String)> {
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
    let (host, port) = published_address(service, u16::try_from(port).ok()?)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some((service.name_any(), format!("http://{host}:{port}/version")))
}
