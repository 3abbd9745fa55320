//! `labs ui`: the page for a cluster on which a person works by hand. It changes nothing there; it sends
//! requests to the first load balancer, and judges the claims of a lab, if one is named, at every change.

use super::common::{block_on, read_environment};
use super::interrupt::interruption;
use super::target::lab_values;
use crate::event::{Event, Events, SCHEMA};
use crate::kubernetes::external::published_address;
use crate::lab::Lab;
use crate::names::NAMESPACE;
use crate::observer::Observer;
use crate::phases;
use crate::report;
use crate::run::{self, Exit};
use crate::sampler::Sampler;
use crate::watch;
use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use lab_environment::Environment;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

/// The duration of a sample: a share over this time follows what a person changes.
const WINDOW: Duration = Duration::from_secs(10);
/// The interval of looking for a load balancer, or another cluster, while there is none.
const SEARCH: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The lab whose steps to show, and whose claims to judge
    #[arg(value_parser = PossibleValuesParser::new(lab_values()), requires = "environment")]
    lab: Option<String>,
    /// The cluster's kubeconfig. The page follows the cluster that it describes, also when it is another one later
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The environment file that describes the cluster (written by `cargo xtask`)
    #[arg(long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// The cluster's name on the page
    #[arg(long, default_value = "this cluster")]
    provider: String,
    /// The namespace to watch
    #[arg(long, default_value = NAMESPACE)]
    namespace: String,
    /// The port of the page
    #[arg(long)]
    port: Option<u16>,
    /// Report the progress to a teacher's room: the address that `labs room` printed
    #[arg(long, value_name = "URL", requires_all = ["participant", "lab"])]
    room: Option<report::RoomAddress>,
    /// The participant's name in the room
    #[arg(long, value_name = "NAME")]
    participant: Option<String>,
    /// Requests per second to the load balancer; 0 for none
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=5000))]
    rate: u32,
}

/// A cluster, as its kubeconfig described it.
struct Cluster {
    kubeconfig: String,
    client: Client,
    environment: Option<Environment>,
}

impl Flags {
    /// Shows the page until it is interrupted.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let lab = self.lab.as_deref().map(|lab| phases::find(lab).context("no such lab"));
        let lab = lab.transpose()?;
        let (events, receiver) = Events::channel();
        let (room, name) = (self.room.clone(), self.participant.clone());
        let options = report::Options { ui: Some(self.port), room, name, ..<_>::default() };
        let reports = report::Reports::start(&options, receiver)?;
        let exit = block_on(self.show(lab, events));
        reports.join()?;
        exit
    }

    async fn show(self, lab: Option<&'static Lab>, events: Events) -> anyhow::Result<Exit> {
        let mut interrupted = pin!(interruption(false)?);
        let mut cluster = self.cluster().await?;
        loop {
            let client = &cluster.client;
            let (version, labs) = (env!("CARGO_PKG_VERSION"), Vec::new());
            let provider = self.provider.clone();
            events.send(Event::RunStarted { schema: SCHEMA, version, provider, labs });
            let _observer = Observer::start(client.clone(), &self.namespace, &events);
            let judging = async {
                match (lab, &cluster.environment) {
                    (Some(lab), Some(environment)) => {
                        let (client, namespace) = (client.clone(), &self.namespace);
                        watch::report(lab, environment, client, namespace, &events).await;
                    }
                    _ => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                () = &mut interrupted => return Ok(Exit::Holds),
                () = self.traffic(client.clone(), &events) => continue,
                () = judging => continue,
                next = self.another(&cluster.kubeconfig) => next,
            };
            cluster = next;
        }
    }

    async fn cluster(&self) -> anyhow::Result<Cluster> {
        let path = &self.kubeconfig;
        let kubeconfig = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read the kubeconfig {}", path.display()))?;
        let environment = self.environment.as_deref().map(read_environment).transpose()?;
        Ok(Cluster { kubeconfig, client: run::client(path).await?, environment })
    }

    /// Waits until the kubeconfig describes another cluster than this one.
    async fn another(&self, kubeconfig: &str) -> Cluster {
        let mut search = tokio::time::interval(SEARCH);
        loop {
            search.tick().await;
            match self.cluster().await {
                Ok(found) if found.kubeconfig != kubeconfig => return found,
                // There is none at present, which the observer reports.
                _ => {}
            }
        }
    }

    /// Samples the load balancer, one window after the other.
    async fn traffic(&self, client: Client, events: &Events) {
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
