//! What lets traffic in: Service addresses, node ports, load balancers and Ingresses.
//!
//! Services and EndpointSlices become listeners that choose a ready endpoint at random for each
//! connection, as kube-proxy does; a load balancer is an address of the host's loopback range. It
//! speaks only [`kube::Client`], so it also serves a cluster of somebody else's: [`outside`].

mod balancer;
mod entrance;
mod ingress;
mod keeper;
mod objects;
pub mod outside;
mod plan;
pub mod plane;
mod pods;
mod pump;
pub mod route;

pub use balancer::PUBLISHED_PORT;
pub use entrance::{Entrance, Entrances, Ports};
pub use ingress::{CLASS as INGRESS_CLASS, CONTROLLER as INGRESS_CONTROLLER};

use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use keeper::Keeper;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use kube_embedded_core::network::{Addresses, Network, Sandbox};
use objects::{Objects, Seen};
use plan::{Own, Place};
use plane::{Plane, Port, Trouble};
use std::{
    collections::BTreeSet,
    fmt::Debug,
    future, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

/// How long until something that could not be bound or written is tried again. Nothing tells when
/// another program frees a port.
const RETRY: Duration = Duration::from_secs(3);

/// How many events of the API are taken into one round.
const ROUND: usize = 1024;

/// What the edge must know of its cluster.
#[derive(Clone)]
pub struct Config {
    /// Reaches pods, and listens inside of them.
    pub network: Arc<Network>,
    /// Where external addresses come from.
    pub addresses: Addresses,
    /// Whose cluster it is.
    pub part: Part,
    /// The one namespace that is served in a cluster of somebody else's; `None` for all.
    pub only: Option<String>,
}

/// The part of a cluster's traffic that is carried.
#[derive(Clone)]
pub enum Part {
    /// All of it: the cluster is our own and has no other proxy.
    All {
        /// Node names and their internal addresses, on which node ports are opened.
        nodes: Vec<(String, Ipv4Addr)>,
        /// Whether load balancers and Ingresses get addresses. Without them the cluster is as kind
        /// makes it.
        external: bool,
    },
    /// What comes from outside through load balancers and Ingresses, unless somebody else serves
    /// them already.
    Outside(watch::Receiver<Arc<Entrances>>),
}

impl Config {
    fn place(&self) -> Place {
        match &self.part {
            Part::All { nodes, external } => Place::Own(Own {
                nodes: nodes.clone(),
                cluster_addresses_on_host: self.addresses.sandbox == Sandbox::Plain,
                balancers: *external,
            }),
            Part::Outside(entrances) => Place::Outside(entrances.borrow().clone()),
        }
    }

    fn has_ingresses(&self) -> bool {
        !matches!(self.part, Part::All { external: false, .. })
    }
}

impl Part {
    /// Waits for other entrances; for ever where there can be none.
    async fn changes(&mut self) {
        if let Self::Outside(entrances) = self
            && entrances.changed().await.is_ok()
        {
            return;
        }
        future::pending().await
    }
}

/// Keeps listeners as the cluster's Services and Ingresses ask for, until dropped; dropping closes all of them
/// and every connection. Returns only if the process can have no more threads or descriptors.
pub async fn run(client: Client, config: Config) {
    run_with(client, config, Port::bind).await;
}

/// How a port of the host is had.
type Bind = fn(SocketAddr) -> io::Result<Port>;

async fn run_with(client: Client, config: Config, bind: Bind) {
    let (troubles, troubled) = mpsc::channel(64);
    let plane = match Plane::start(config.network.clone(), troubles) {
        Ok(plane) => plane,
        Err(error) => {
            eprintln!("edge: no thread for traffic: {error}");
            return;
        }
    };
    let plane = Arc::new(plane);
    let (told, troubles) = mpsc::channel(64);
    let ingresses = async {
        if config.has_ingresses() {
            ingress::run(client.clone(), &config, plane.clone(), bind, troubles).await;
        }
    };
    let services = serve(client.clone(), &config, plane.clone(), bind, troubled, told);
    // Two loops, so that neither waits for what the other does.
    futures::join!(ingresses, services);
}

/// Keeps listeners for Services, and hands on what the data plane tells about those of Ingresses.
async fn serve(
    client: Client,
    config: &Config,
    plane: Arc<Plane>,
    bind: Bind,
    mut troubled: mpsc::Receiver<(SocketAddr, Trouble)>,
    ingresses: mpsc::Sender<(SocketAddr, Trouble)>,
) {
    let of_ingresses: BTreeSet<Ipv4Addr> = config.addresses.ingresses().collect();
    let mut keeper = Keeper::new(client.clone(), config, plane, bind);
    let mut objects = Objects::default();
    let mut seen = watch(&client, config);
    let (_, mut attached) = config.network.attached();
    let mut writes = FuturesUnordered::new();
    let (mut part, mut retry) = (config.part.clone(), Retry::default());
    loop {
        tokio::select! {
            Some(first) = seen.next() => {
                objects.see(first);
                let more = std::iter::from_fn(|| seen.next().now_or_never().flatten());
                more.take(ROUND).for_each(|event| objects.see(event));
            }
            Some(written) = writes.next() => keeper.written(written, &mut objects),
            Some((at, trouble)) = troubled.recv() => match at.ip() {
                // A full channel has told enough.
                IpAddr::V4(v4) if of_ingresses.contains(&v4) => drop(ingresses.try_send((at, trouble))),
                _ => keeper.trouble(at, trouble),
            },
            Ok(()) = attached.changed() => keeper.keep_pods(&objects),
            () = part.changes() => {
                keeper.place = config.place();
                objects.look_at_all();
            }
            () = retry.due(!keeper.unfinished.is_empty()) => {
                std::mem::take(&mut keeper.unfinished)
                    .into_iter()
                    .for_each(|service| objects.look_again(service));
            }
        }
        if objects.complete() {
            keeper.keep(&mut objects, &mut writes).await;
        }
    }
}

/// When what could not be done is tried again.
#[derive(Default)]
struct Retry(Option<Instant>);

impl Retry {
    /// Waits until it is time, counted from when there was something first; for ever while there is
    /// nothing.
    async fn due(&mut self, anything: bool) {
        if !anything {
            self.0 = None;
            return future::pending().await;
        }
        time::sleep_until(*self.0.get_or_insert_with(|| Instant::now() + RETRY)).await;
        self.0 = None;
    }
}

fn watch(client: &Client, config: &Config) -> BoxStream<'static, Seen> {
    let services = events::<Service>(client).map(Seen::Service);
    let slices = events::<EndpointSlice>(client).map(Seen::Slice);
    // Only what is listened on inside of pods depends on them.
    let pods = match (&config.part, config.addresses.sandbox) {
        (Part::All { .. }, Sandbox::Namespaced) => events::<Pod>(client).map(Seen::Pod).boxed(),
        _ => stream::pending().boxed(),
    };
    stream::select_all([services.boxed(), slices.boxed(), pods]).boxed()
}

/// The watch of a kind over all namespaces. Errors are waited out; the list that follows brings
/// what was missed.
fn events<K>(client: &Client) -> impl Stream<Item = watcher::Event<K>> + Send + use<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
    K: serde::de::DeserializeOwned,
{
    let mut well = true;
    watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().filter_map(
        move |event| {
            if let (true, Err(error)) = (well, &event) {
                eprintln!("edge: cannot watch {}: {error}; trying on", K::plural(&()));
            }
            well = event.is_ok();
            future::ready(event.ok())
        },
    )
}

#[cfg(test)]
mod tests;
