//! A cluster without pods: the API, with the proxy on it, and endpoints of the test.

use super::eventually;
use crate::{
    config::{Config, Mode},
    data_plane::BoundPort,
    load_balancer::{Bind, LoadBalanced},
    run_with,
};
use k8s_openapi::api::{
    core::v1::{Event, Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use kube_embedded_apiserver::{api, credentials::Credentials, store::Store, tls_server::Server};
use kube_embedded_core::network::{Addresses, HostSockets, Network, Sandbox, claim_block};
use serde_json::{Value, json};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpListener, task::JoinHandle};

pub(crate) struct ClusterFixture {
    pub(crate) client: Client,
    pub(crate) addresses: Addresses,
    pub(crate) network: Arc<Network>,
    pub(crate) running: JoinHandle<()>,
    config: Config,
    bind: Bind,
    /// Reserves the block of addresses.
    _block: TcpListener,
}

impl Drop for ClusterFixture {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl ClusterFixture {
    pub(crate) async fn new() -> Self {
        Self::with(Sandbox::Plain, BoundPort::bind).await
    }

    pub(crate) async fn with(sandbox: Sandbox, bind: Bind) -> Self {
        Self::with_client(sandbox, bind, |client| client).await
    }

    /// The proxy uses the client that `wrap` makes of the cluster's.
    pub(crate) async fn with_client(
        sandbox: Sandbox,
        bind: Bind,
        wrap: impl FnOnce(Client) -> Client,
    ) -> Self {
        let (claimed, block) = claim_block().unwrap();
        let addresses = Addresses { block, sandbox };
        let client = api::Api::new(Store::default(), addresses).client();
        create_namespace(&client, "default").await;
        let nodes = (0..2).map(|n| (format!("node-{}", n + 1), addresses.node(n))).collect();
        let network = Arc::new(Network::new(&addresses));
        let mode = Mode::Embedded { nodes, external: true, gateway_api: true };
        let config = Config { network: network.clone(), addresses, mode, namespace: None };
        let running = tokio::spawn(run_with(wrap(client.clone()), config.clone(), bind));
        Self { client, addresses, network, running, config, bind, _block: claimed }
    }

    /// Stops the proxy and starts another one on the same API.
    pub(crate) async fn restart(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
        let run = run_with(self.client.clone(), self.config.clone(), self.bind);
        self.running = tokio::spawn(run);
    }

    /// Returns the address of a load balancer, counted from 1.
    pub(crate) fn load_balancer(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.addresses.block, 1, n)
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    /// Creates a Service.
    pub(crate) async fn service(&self, name: &str, spec: Value) -> Service {
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        let service = serde_json::from_value(service).unwrap();
        self.services().create(&PostParams::default(), &service).await.unwrap()
    }

    /// Writes the endpoints of the Service's only port.
    pub(crate) async fn endpoints(&self, service: &str, endpoints: &[SocketAddr]) {
        self.endpoints_of_port(service, "", endpoints).await;
    }

    /// Writes the endpoints of a named port of the Service, in a slice of their own.
    pub(crate) async fn endpoints_of_port(
        &self,
        service: &str,
        name: &str,
        endpoints: &[SocketAddr],
    ) {
        for endpoint in endpoints.iter().filter(|at| self.stands_for_pod(at.ip())) {
            self.network.attach(endpoint.ip(), Arc::new(HostSockets));
        }
        let slice_name = format!("{service}{name}");
        let api: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let port = endpoints.first().map_or(1, SocketAddr::port);
        let listed: Vec<Value> = endpoints
            .iter()
            .map(|e| json!({ "addresses": [e.ip()], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": slice_name, "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "ports": [{ "name": name, "port": port, "protocol": "TCP" }],
            "endpoints": listed,
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        match api.get_opt(&slice_name).await.unwrap() {
            None => drop(api.create(&PostParams::default(), &slice).await.unwrap()),
            Some(_) => {
                let params = PatchParams::default();
                api.patch(&slice_name, &params, &Patch::Merge(&slice)).await.unwrap();
            }
        }
    }

    /// Returns whether an endpoint of the test at this address of the host stands for a pod.
    fn stands_for_pod(&self, address: IpAddr) -> bool {
        self.addresses.sandbox == Sandbox::Plain && self.addresses.is_pod(address)
    }

    /// Binds a port at the address of a pod of the plain sandbox.
    pub(crate) async fn pod_listener(&self, host: u8, port: u16) -> TcpListener {
        let at = SocketAddr::from(([127, self.addresses.block, 128, host], port));
        TcpListener::bind(at).await.unwrap()
    }

    /// Waits for the external address.
    pub(crate) async fn external(&self, name: &str) -> SocketAddr {
        eventually("an external address", async || {
            let service = self.services().get(name).await.unwrap();
            let status = service.lb_status();
            let moved = status.published_port.clone();
            let port = match moved {
                Some(moved) => moved.split_once('=')?.1.parse().ok()?,
                None => u16::try_from(service.spec?.ports?.first()?.port).ok()?,
            };
            Some(SocketAddr::from((status.address()?, port)))
        })
        .await
    }

    /// Waits for an event with this reason.
    pub(crate) async fn event(&self, reason: &str) -> Event {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        eventually(reason, async || {
            let events = api.list(&ListParams::default()).await.unwrap();
            events.items.into_iter().find(|e| e.reason.as_deref() == Some(reason))
        })
        .await
    }
}

/// Creates a namespace unless it exists.
async fn create_namespace(client: &Client, name: &str) {
    let namespace = json!({ "metadata": { "name": name } });
    let namespace: Namespace = serde_json::from_value(namespace).unwrap();
    let _ = Api::<Namespace>::all(client.clone()).create(&<_>::default(), &namespace).await;
}

/// Binds as for a user who cannot bind ports below 1024.
pub(crate) fn unprivileged(at: SocketAddr) -> io::Result<BoundPort> {
    match at.port() {
        ..1024 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => BoundPort::bind(at),
    }
}

/// An API server with a kubeconfig and TLS, for what connects to an external cluster.
pub(crate) struct ApiServer {
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    kubeconfig: String,
    _server: Server,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let (listener, block) = claim_block().unwrap();
        let addresses = Addresses { block, sandbox: Sandbox::Plain };
        let credentials = Credentials::generate(&[addresses.api()]).unwrap();
        let api = api::Api::new(Store::default(), addresses);
        let client = api.client();
        // The namespace of the edge's Lease.
        create_namespace(&client, "kube-system").await;
        let address = listener.local_addr().unwrap();
        let kubeconfig = credentials.kubeconfig(&format!("https://{address}"));
        let server = Server::start(listener, api, &credentials).unwrap();
        Self { client, address, kubeconfig, _server: server }
    }

    pub(crate) async fn config(&self) -> kube::Config {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig).unwrap();
        kube::Config::from_custom_kubeconfig(kubeconfig, &<_>::default()).await.unwrap()
    }
}
