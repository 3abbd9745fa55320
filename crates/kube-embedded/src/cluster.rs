//! A cluster: wires the API server, controllers, kubelets and the service proxy together.

use crate::{Config, StartError, bootstrap, state_dir::StateDir};
use kube_embedded_apiserver::{
    api::{Api, seed_policy},
    credentials::Credentials,
    resources::registry,
    store::Store,
    tls_server::Server,
};
use kube_embedded_controllers as controllers;
#[cfg(feature = "kubelet")]
use kube_embedded_core::node_api::NodeApi;
use kube_embedded_core::{
    network::{API_PORT, Addresses, Network, Sandbox, claim_block},
    task::{Task, spawn_named},
};
#[cfg(feature = "kubelet")]
use kube_embedded_kubelet::{self as kubelet, ContainerRuntime, Kubelet, image_store::ImageStore};
#[cfg(feature = "proxy")]
use kube_embedded_proxy as proxy;
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, spawn_blocking},
};

/// Where Linux has a file system in memory for everyone.
#[cfg(feature = "kubelet")]
const SHARED_MEMORY: &str = "/dev/shm";
/// Names and addresses.
type Nodes = Vec<(String, Ipv4Addr)>;

/// A running cluster.
///
/// Dropping it ends everything that belongs to it, at once; [`Cluster::stop`] does so gracefully.
///
/// ```
/// use k8s_openapi::api::core::v1::Namespace;
/// use kube_embedded::{Cluster, Config};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
/// let namespaces = kube::Api::<Namespace>::all(cluster.client());
/// assert!(namespaces.get_opt("kube-system").await?.is_some());
/// cluster.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    api: Api,
    addresses: Addresses,
    sandbox_reason: String,
    credentials: Credentials,
    network: Arc<Network>,
    #[cfg(feature = "kubelet")]
    images: Arc<ImageStore>,
    /// In shutdown order.
    components: Vec<Task<()>>,
    #[cfg(feature = "kubelet")]
    kubelet: Option<Arc<Kubelet>>,
    server: Option<Server>,
    state_dir: StateDir,
    /// Directories that `hostPath` volumes may be in.
    #[cfg(feature = "kubelet")]
    host_paths: Vec<PathBuf>,
    /// On a file system in memory; `None` where there is none.
    #[cfg(feature = "kubelet")]
    memory_dir: Option<StateDir>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts a cluster. Its API is ready when this returns; its nodes and the default service account
    /// follow within milliseconds. Must be called within a Tokio runtime, with one thread or several.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() {
    /// use kube_embedded::{Cluster, Config, StartError};
    ///
    /// let config = Config { images: vec!["no/such.tar".into()], ..Config::default() };
    /// let error = Cluster::start(config).await.unwrap_err();
    /// assert!(matches!(error, StartError::Image { .. }));
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns what failed and what to do about it; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check_features()?;
        let host_paths = host_paths(&config.allow_host_path)?;
        // Waits for processes most of the time; what depends on no address is done meanwhile.
        let (sandbox, has_pods) = (config.sandbox, config.nodes > 0);
        let runtime = spawn_blocking(move || start_runtime(sandbox, has_pods));
        let store = Store::default();
        let policy = spawn_blocking({
            let store = store.clone();
            move || seed_policy(&store)
        });
        // So that the first request does not wait for all of it.
        let schemas = spawn_blocking(registry::build_schemas);
        let runtime = done(runtime).await??;
        let sandbox = runtime.sandbox();
        let (listener, block) = claim_block().map_err(StartError::Address)?;
        let addresses = Addresses { block, sandbox };
        done(policy).await?;
        let (api, credentials) = new_api(store, addresses, config.load_balancers)?;
        api.allow_host_paths(host_paths.clone());
        let server = Server::start(listener, api.clone(), &credentials)?;

        let state_dir = StateDir::create(config.state_dir.as_deref())
            .map_err(|(parent, source)| StartError::StateDir { parent, source })?;
        #[cfg(feature = "kubelet")]
        let images = Arc::new(ImageStore::new(state_dir.path().join("images")));
        let mut cluster = Self {
            api,
            addresses,
            // Replaced by what the kubelet finds out.
            sandbox_reason: "no pods run without the feature `kubelet`".to_owned(),
            credentials,
            network: Arc::new(Network::new(&addresses)),
            #[cfg(feature = "kubelet")]
            images,
            components: Vec::new(),
            #[cfg(feature = "kubelet")]
            kubelet: None,
            server: Some(server),
            state_dir,
            #[cfg(feature = "kubelet")]
            host_paths,
            #[cfg(feature = "kubelet")]
            memory_dir: StateDir::create(Some(Path::new(SHARED_MEMORY))).ok(),
        };
        #[cfg(feature = "kubelet")]
        for path in &config.images {
            cluster.add_images(path)?;
        }
        cluster.start_components(&config, runtime).await?;
        spawn_named("free memory", release_memory_after(schemas)).detach();
        tracing::info!(server = cluster.url(), ?sandbox, nodes = config.nodes, "cluster started");
        Ok(cluster)
    }

    /// Returns a client in the process, without a socket. Its default namespace is `default`, its user
    /// may do everything.
    pub fn client(&self) -> kube::Client {
        self.api.client()
    }

    /// Returns the URL of the API server, `https://127.A.0.1:6443`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), kube_embedded::StartError> {
    /// # use kube_embedded::{Cluster, Config};
    /// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// assert!(cluster.url().starts_with("https://127."));
    /// # Ok(())
    /// # }
    /// ```
    pub fn url(&self) -> String {
        format!("https://{}", self.api_address())
    }

    /// Returns the address on which the API server listens.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((self.addresses.api(), API_PORT))
    }

    /// Returns a self-contained kubeconfig in YAML, for clients outside of the process. Keep it private:
    /// its user may do everything.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kube_embedded::{Cluster, Config};
    /// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// let kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.kubeconfig())?;
    /// let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    /// let over_tls = kube::Client::try_from(config)?;
    /// assert!(over_tls.apiserver_version().await?.git_version.starts_with("v1."));
    /// # Ok(())
    /// # }
    /// ```
    pub fn kubeconfig(&self) -> String {
        self.credentials.kubeconfig(&self.url())
    }

    /// Returns the isolation of this cluster's pods.
    pub fn sandbox(&self) -> Sandbox {
        self.addresses.sandbox
    }

    /// Returns the reason for [`Cluster::sandbox`], such as what this machine lacks for the stronger mode.
    pub fn sandbox_reason(&self) -> &str {
        &self.sandbox_reason
    }

    /// Makes the images of an archive, or of each archive in a directory, available to pods. An image
    /// of the same name is replaced for pods that start later.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), kube_embedded::StartError> {
    /// # use kube_embedded::{Cluster, Config};
    /// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// assert!(cluster.add_images("no/such.tar").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`StartError::Image`] if the path cannot be read or holds an invalid archive.
    #[cfg(feature = "kubelet")]
    pub fn add_images(&self, path: impl AsRef<Path>) -> Result<(), StartError> {
        let (images, path) = (&self.images, path.as_ref());
        let added =
            if path.is_dir() { images.add_directory(path) } else { images.add_archive(path) };
        added
            .map(|_| ())
            .map_err(|error| StartError::Image { path: path.to_owned(), reason: error.to_string() })
    }

    /// Connects to a pod or a node of this cluster. Pod addresses are not addresses of the host: they
    /// exist in the pods' network namespaces only, so `TcpStream::connect` does not reach them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kube_embedded::{Cluster, Config};
    /// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// cluster.connect(cluster.api_address()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the error of the connection attempt.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        // The caller may connect to the host itself; the components connect to pods alone.
        match to.ip().is_loopback() {
            true => TcpStream::connect(to).await,
            false => self.network.connect(to).await,
        }
    }

    /// Returns the private directory of this cluster, which is removed with it. A good place for a
    /// kubeconfig that a child process needs.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use kube_embedded::{Cluster, Config};
    /// let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// let path = cluster.state_dir().join("kubeconfig");
    /// std::fs::write(&path, cluster.kubeconfig())?;
    /// cluster.stop().await;
    /// assert!(!path.exists());
    /// # Ok(())
    /// # }
    /// ```
    pub fn state_dir(&self) -> &Path {
        self.state_dir.path()
    }

    /// Stops pods with a short grace period, then everything else. Returns when nothing of the cluster
    /// is left.
    pub async fn stop(mut self) {
        #[cfg(feature = "kubelet")]
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.stop().await;
        }
        for component in self.components.drain(..) {
            component.cancel().await;
        }
        self.api.stop();
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        tracing::info!(server = self.url(), "cluster stopped");
    }

    async fn start_components(
        &mut self,
        config: &Config,
        #[cfg_attr(
            not(feature = "kubelet"),
            expect(unused_variables, reason = "no pods are started")
        )]
        runtime: ContainerRuntime,
    ) -> Result<(), StartError> {
        self.components.push(spawn_named("controllers", controllers::run(self.client())));
        let addresses = self.addresses;
        #[cfg_attr(
            not(any(feature = "kubelet", feature = "proxy")),
            expect(unused_variables, reason = "there are none")
        )]
        let nodes: Nodes =
            (0..config.nodes).map(|n| (format!("node-{}", n + 1), addresses.node(n))).collect();
        #[cfg(feature = "kubelet")]
        self.start_kubelet(nodes.clone(), runtime).await?;
        #[cfg(feature = "proxy")]
        self.start_proxy(nodes, config);
        Ok(())
    }

    #[cfg(feature = "kubelet")]
    async fn start_kubelet(
        &mut self,
        nodes: Nodes,
        runtime: ContainerRuntime,
    ) -> Result<(), StartError> {
        let config = kubelet::Config {
            nodes,
            addresses: self.addresses,
            runtime,
            images: self.images.clone(),
            network: self.network.clone(),
            state: self.state_dir.path().to_owned(),
            memory: self.memory_dir.as_ref().map(|directory| directory.path().to_owned()),
            api_server: self.api_address(),
            allow_host_path: self.host_paths.clone(),
        };
        let kubelet = Kubelet::start(self.client(), config)
            .await
            .map_err(|error| StartError::Kubelet(error.to_string()))?;
        kubelet.sandbox_reason().clone_into(&mut self.sandbox_reason);
        let weak = Arc::downgrade(&kubelet);
        self.api.set_nodes(weak as std::sync::Weak<dyn NodeApi>);
        self.kubelet = Some(kubelet);
        Ok(())
    }

    #[cfg(feature = "proxy")]
    fn start_proxy(&mut self, nodes: Nodes, config: &Config) {
        let (network, addresses) = (self.network.clone(), self.addresses);
        if !nodes.is_empty() {
            let dns = proxy::dns::run(self.client(), network.clone(), addresses);
            self.components.push(spawn_named("dns", dns));
        }
        let mode = proxy::Mode::Embedded {
            nodes,
            external: config.load_balancers,
            gateway_api: config.gateway_api,
        };
        let config = proxy::Config { network, addresses, mode, namespace: None };
        self.components.push(spawn_named("proxy", proxy::run(self.client(), config)));
    }
}

/// Starts what starts pods.
#[cfg(feature = "kubelet")]
fn start_runtime(sandbox: Option<Sandbox>, has_pods: bool) -> Result<ContainerRuntime, StartError> {
    ContainerRuntime::start(sandbox, has_pods).map_err(|e| StartError::Kubelet(e.to_string()))
}

/// Stands for what starts pods, where none will ever run. Addresses depend on the sandbox there, too.
#[cfg(not(feature = "kubelet"))]
struct ContainerRuntime(Sandbox);

#[cfg(not(feature = "kubelet"))]
impl ContainerRuntime {
    fn sandbox(&self) -> Sandbox {
        self.0
    }
}

#[cfg(not(feature = "kubelet"))]
fn start_runtime(sandbox: Option<Sandbox>, _: bool) -> Result<ContainerRuntime, StartError> {
    Ok(ContainerRuntime(sandbox.unwrap_or(Sandbox::Plain)))
}

/// Returns the API of a cluster with the objects that it has from the start, and its credentials.
fn new_api(
    store: Store,
    addresses: Addresses,
    load_balancers: bool,
) -> Result<(Api, Credentials), StartError> {
    let names = [addresses.api(), bootstrap::first_service_address(&addresses)];
    let credentials = Credentials::generate(&names)?;
    let api = Api::over(store, addresses);
    bootstrap::run(&api, &addresses, credentials.authority(), load_balancers)
        .map_err(StartError::Bootstrap)?;
    Ok((api, credentials))
}

/// Waits for a part of the start.
async fn done<T>(part: JoinHandle<T>) -> Result<T, StartError> {
    part.await.map_err(|error| StartError::Bootstrap(error.to_string()))
}

/// Waits until the schemas are built. What they are made of takes megabytes.
async fn release_memory_after(schemas: JoinHandle<()>) {
    let _ = schemas.await;
    #[cfg(feature = "kubelet")]
    let _ = spawn_blocking(kubelet::release_free_memory).await;
}

/// Returns directories under the names that pods may use: as they were given, and with links resolved.
fn host_paths(directories: &[PathBuf]) -> Result<Vec<PathBuf>, StartError> {
    let mut allowed = Vec::new();
    for path in directories {
        let error = |source| StartError::HostPath { path: path.clone(), source };
        let resolved = path.canonicalize().map_err(error)?;
        if !resolved.is_dir() {
            return Err(error(io::ErrorKind::NotADirectory.into()));
        }
        let given = std::path::absolute(path).map_err(error)?;
        allowed.extend([given, resolved]);
    }
    allowed.sort_unstable();
    allowed.dedup();
    Ok(allowed)
}
