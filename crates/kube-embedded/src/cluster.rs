//! A cluster: its addresses, its API, and the controllers, kubelets and edge that work on it.

mod bootstrap;
mod state;

use kube_embedded_apiserver::{
    api::Api,
    credentials::{Credentials, CredentialsError},
    schema,
    store::Store,
    tls_server::Server,
};
use kube_embedded_controllers as controllers;
use kube_embedded_core::{
    network::{API_PORT, Addresses, Network, Sandbox, claim_block},
    node_api::NodeApi,
};
use kube_embedded_kubelet::{self as kubelet, Kubelet, images::ImageStore};
use kube_embedded_proxy as proxy;
use state::State;
use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Weak},
};
use tokio::task::JoinHandle;

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes run pods; none for an API without kubelets.
    pub nodes: u8,
    /// How pods are kept apart; `None` for the best that works here.
    pub sandbox: Option<Sandbox>,
    /// Image archives, or folders of them.
    pub images: Vec<PathBuf>,
    /// The folder in which the cluster makes its private one; `None` for `$XDG_RUNTIME_DIR` or the
    /// folder for temporary files.
    pub state: Option<PathBuf>,
    /// Where objects shall outlive the process. Not supported yet.
    pub data: Option<PathBuf>,
    /// Whether load balancers and Ingresses get addresses; without, the cluster is as kind makes it.
    pub external: bool,
}

impl Default for Config {
    fn default() -> Self {
        let (sandbox, images, state, data) = Default::default();
        Self { nodes: 3, sandbox, images, state, data, external: true }
    }
}

/// Why a cluster could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// All blocks of loopback addresses are taken.
    #[error("no free address 127.A.0.1:6443 with A from 2 to 250: {0}")]
    Address(io::Error),
    /// The private folder could not be made.
    #[error("cannot use {folder} for state: {error}; name another with --state")]
    State {
        /// Where it was tried.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No keys or certificates could be made.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// An image archive cannot be used.
    #[error("cannot load images from {path}: {why}")]
    Image {
        /// The archive or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kubelets could not start.
    #[error("{0}")]
    Kubelet(String),
    /// The first objects could not be stored.
    #[error("cannot bring up the API: {0}")]
    Bootstrap(String),
    /// Something was asked for that is not there yet.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// A running cluster. Dropping it ends everything that belongs to it; [`Cluster::stop`] does so
/// gracefully.
pub struct Cluster {
    api: Api,
    addresses: Addresses,
    sandbox_reason: String,
    credentials: Credentials,
    network: Arc<Network>,
    images: Arc<ImageStore>,
    // In the order in which they have to go.
    work: Vec<Work>,
    kubelet: Option<Arc<Kubelet>>,
    server: Option<Server>,
    _state: State,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Brings up a cluster: its API answers when this returns, its nodes and the default service
    /// account follow. Must be called within a tokio runtime, of one thread or of several.
    ///
    /// # Errors
    /// Says what could not be had and what to do; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.data.is_some() {
            return Err(StartError::Unsupported(
                "a data directory is not supported yet: start without --data, objects live in memory",
            ));
        }
        let (sandbox, sandbox_reason) = match config.sandbox {
            Some(sandbox) => (sandbox, "as asked for".to_owned()),
            None => kubelet::detect(),
        };
        let (listener, block) = claim_block().map_err(StartError::Address)?;
        let addresses = Addresses { block, sandbox };
        let credentials = Credentials::generate(&[
            addresses.api(),
            bootstrap::first_service_address(&addresses),
        ])?;
        let api = Api::new(Store::default(), addresses);
        bootstrap::run(&api, &addresses, credentials.authority(), config.external)
            .map_err(StartError::Bootstrap)?;
        let server = Server::start(listener, api.clone(), &credentials)?;
        // Built beside, so that the first request need not wait for all of it.
        tokio::task::spawn_blocking(schema::warm);

        let state = State::create(config.state.as_deref())
            .map_err(|(folder, error)| StartError::State { folder, error })?;
        let images = Arc::new(ImageStore::new(state.folder().join("images")));
        for path in &config.images {
            add_images(&images, path)?;
        }
        let mut cluster = Self {
            api,
            addresses,
            sandbox_reason,
            credentials,
            network: Arc::default(),
            images,
            work: Vec::new(),
            kubelet: None,
            server: Some(server),
            _state: state,
        };
        cluster.start_work(config.nodes, config.external).await?;
        Ok(cluster)
    }

    /// A client in the process, without a socket; its namespace is `default`.
    pub fn client(&self) -> kube::Client {
        self.api.client()
    }

    /// The API itself.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// `https://127.A.0.1:6443`.
    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.addresses.api())
    }

    /// A kubeconfig with everything in it, YAML. Whoever reads it can do everything.
    pub fn kubeconfig(&self) -> String {
        self.credentials.kubeconfig(&self.url())
    }

    /// The addresses of this cluster.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Why pods are kept apart as they are.
    pub fn sandbox_reason(&self) -> &str {
        &self.sandbox_reason
    }

    /// The images that pods may be started from.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// The way to pods and Services.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The private folder, gone when the cluster is.
    pub fn state(&self) -> &std::path::Path {
        self._state.folder()
    }

    /// Ends pods with a moment's grace, then everything else.
    pub async fn stop(mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.stop().await;
        }
        for work in self.work.drain(..) {
            work.end().await;
        }
        self.api.stop();
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    async fn start_work(&mut self, nodes: u8, external: bool) -> Result<(), StartError> {
        let addresses = self.addresses;
        let nodes: Vec<(String, Ipv4Addr)> =
            (0..nodes).map(|n| (format!("node-{}", n + 1), addresses.node(n))).collect();
        self.work.push(Work::spawn(controllers::run(self.client())));
        let config = kubelet::Config {
            nodes: nodes.clone(),
            addresses,
            images: self.images.clone(),
            network: self.network.clone(),
            state: self._state.folder().to_owned(),
            api_server: SocketAddr::from((addresses.api(), API_PORT)),
        };
        let kubelet = Kubelet::start(self.client(), config)
            .await
            .map_err(|error| StartError::Kubelet(error.to_string()))?;
        let weak: Weak<Kubelet> = Arc::downgrade(&kubelet);
        self.api.set_nodes(weak as Weak<dyn NodeApi>);
        self.kubelet = Some(kubelet);
        let part = proxy::Part::All { nodes, external };
        let config = proxy::Config { network: self.network.clone(), addresses, part, only: None };
        self.work.push(Work::spawn(proxy::run(self.client(), config)));
        Ok(())
    }
}

/// A task that ends with its handle.
struct Work(JoinHandle<()>);

impl Work {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn add_images(images: &ImageStore, path: &std::path::Path) -> Result<(), StartError> {
    let added = if path.is_dir() { images.add_folder(path) } else { images.add_archive(path) };
    let refuse = |why: String| StartError::Image { path: path.to_owned(), why };
    added.map(|_| ()).map_err(|error| refuse(error.to_string()))
}
