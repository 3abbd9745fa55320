//! The data plane of TCP and TLS listeners of a Gateway: each connection goes to one backend, chosen by
//! the server name that the client asks for where there is TLS, which is passed through or ended here.

use crate::{
    data_plane::{
        AcceptedConnection, BidirectionalCopy, Handler, ProxyStream, connect_to_endpoint,
    },
    http_proxy::{
        certificates::{CertificateResolver, Certificates, TlsError},
        frontend::server_config,
        route_table::{Backend, Hosts, RouteRule, host_name},
        upstream_tls::UpstreamTls,
    },
};
use futures::{FutureExt, future::BoxFuture};
use kube_embedded_core::network::Network;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{net::TcpStream, time};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::Acceptor},
};

/// The time for a client to say which name it asks for.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval in which a hello that came in parts is looked at again.
const HELLO_RETRY: Duration = Duration::from_millis(5);
/// The longest hello that is looked at: a TLS record.
const MAX_HELLO: usize = 16 * 1024;

/// A route of a stream listener, for one of the hosts that both share.
#[derive(Clone, Debug)]
pub(crate) struct StreamMatch {
    pub(crate) listener: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) rule: Arc<RouteRule>,
}

/// The listeners of a port by host, and their routes.
#[derive(Debug, Default)]
pub(crate) struct StreamTable {
    listeners: Hosts<StreamHosts>,
}

#[derive(Clone, Debug, Default)]
struct StreamHosts {
    /// Whether TLS ends here.
    terminates: bool,
    routes: Hosts<Option<Arc<RouteRule>>>,
}

impl StreamTable {
    /// Builds the table of a port from its listeners, each with whether it ends TLS. Of two routes for
    /// the same host, the first one counts.
    pub(crate) fn new(
        listeners: impl IntoIterator<Item = (Option<String>, bool)>,
        matches: impl IntoIterator<Item = StreamMatch>,
    ) -> Self {
        let mut table = Self::default();
        for (host, terminates) in listeners {
            table.listeners.entry(host.as_deref()).terminates = terminates;
        }
        for StreamMatch { listener, host, rule } in matches {
            let routes = &mut table.listeners.entry(listener.as_deref()).routes;
            routes.entry(host.as_deref()).get_or_insert(rule);
        }
        table
    }

    /// Returns the rule for a server name, and whether TLS ends here.
    fn find(&self, name: Option<&str>) -> Option<(Arc<RouteRule>, bool)> {
        let name = name.map(host_name);
        let hosts = self.listeners.matching(name.as_deref(), true).next()?;
        let mut found = hosts.routes.matching(name.as_deref(), true);
        Some((found.find_map(Option::as_ref)?.clone(), hosts.terminates))
    }
}

/// What a port serves at the moment.
pub(crate) struct StreamFrontend {
    table: RwLock<Arc<StreamTable>>,
    certificates: Arc<CertificateResolver>,
    tls: Arc<ServerConfig>,
}

impl StreamFrontend {
    /// Creates a frontend without routes.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let certificates = Arc::new(CertificateResolver::new(None));
        // Any protocol may be inside.
        let tls = server_config(&certificates, None, &[])?;
        Ok(Self { table: RwLock::default(), certificates, tls })
    }

    pub(crate) fn set_table(&self, table: StreamTable) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    pub(crate) fn set_certificates(&self, certificates: Certificates) {
        self.certificates.set(certificates);
    }

    fn table(&self) -> Arc<StreamTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The handler of a TCP or TLS port.
pub(crate) struct StreamListener {
    pub(crate) frontend: Arc<StreamFrontend>,
    pub(crate) network: Arc<Network>,
    pub(crate) tls: bool,
}

impl Handler for StreamListener {
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()> {
        let (frontend, network, tls) = (self.frontend.clone(), self.network.clone(), self.tls);
        async move {
            let AcceptedConnection { stream, peer, .. } = connection;
            if let Err(error) = serve(&frontend, &network, tls, stream, peer).await {
                tracing::debug!(%peer, %error, "connection refused");
            }
        }
        .boxed()
    }
}

async fn serve(
    frontend: &StreamFrontend,
    network: &Network,
    tls: bool,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    let name = match tls {
        true => time::timeout(HELLO_TIMEOUT, server_name(&stream)).await??,
        false => None,
    };
    let Some((rule, terminates)) = frontend.table().find(name.as_deref()) else {
        stream.reset();
        return Err(io::Error::other("no route has this server name"));
    };
    let chosen = rule.choose(&mut rand::rng()).and_then(|chosen| chosen.backend.as_deref());
    let Some(backend) = chosen else {
        stream.reset();
        return Err(io::Error::other("the route has no valid backend"));
    };
    match terminates {
        // TLS that is passed through is the client's own, whatever the policy of the backend says.
        false if tls => forward(network, stream, backend, None, peer).await,
        false => forward(network, stream, backend, backend.upstream.tls.as_deref(), peer).await,
        true => {
            let handshake = TlsAcceptor::from(frontend.tls.clone()).accept(stream);
            let stream = time::timeout(HELLO_TIMEOUT, handshake).await??;
            forward(network, stream, backend, backend.upstream.tls.as_deref(), peer).await
        }
    }
}

async fn forward<C: ProxyStream>(
    network: &Network,
    client: C,
    backend: &Backend,
    upstream: Option<&UpstreamTls>,
    peer: SocketAddr,
) -> io::Result<()> {
    let Some(endpoint) = connect_to_endpoint(network, &backend.route, peer).await else {
        client.reset();
        return Err(io::Error::other("no endpoint accepted the connection"));
    };
    // Nothing is lost without it, only delayed.
    let _ = endpoint.set_nodelay(true);
    match upstream {
        None => BidirectionalCopy::new(client, endpoint).await,
        Some(tls) => {
            let endpoint = time::timeout(HELLO_TIMEOUT, tls.connect(endpoint)).await??;
            BidirectionalCopy::new(client, endpoint).await;
        }
    }
    Ok(())
}

/// Returns the server name in the hello of a client, which is left in the socket.
async fn server_name(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut hello = vec![0; MAX_HELLO];
    let mut known = 0;
    loop {
        let length = stream.peek(&mut hello).await?;
        if length == known {
            // It has sent no more, or it never will: the timeout decides.
            if length == 0 || length == MAX_HELLO {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            time::sleep(HELLO_RETRY).await;
            continue;
        }
        known = length;
        let mut acceptor = Acceptor::default();
        let mut read = hello.get(..length).unwrap_or_default();
        while !read.is_empty() {
            acceptor.read_tls(&mut read)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    return Ok(accepted.client_hello().server_name().map(str::to_owned));
                }
                Ok(None) => {}
                Err((error, _)) => return Err(io::Error::other(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Route, Routing};

    fn rule(name: &str) -> Arc<RouteRule> {
        let route = Arc::new(Route::new(Routing::default(), Arc::default()));
        Arc::new(Arc::new(Backend::plain(name.into(), route)).into())
    }

    #[test]
    fn listener_and_route_are_the_most_specific_ones() {
        let host = |host: &str| Some(host.to_owned()).filter(|host| !host.is_empty());
        let listeners = [("*.a.com", true), ("x.a.com", false), ("b.com", false)];
        let matches = [
            ("*.a.com", "*.a.com", "wildcard"),
            ("*.a.com", "y.a.com", "exact"),
            ("*.a.com", "y.a.com", "later"),
            ("x.a.com", "x.a.com", "own listener"),
        ];
        let table = StreamTable::new(
            listeners.map(|(name, terminates)| (host(name), terminates)),
            matches.map(|(listener, name, to)| StreamMatch {
                listener: host(listener),
                host: host(name),
                rule: rule(to),
            }),
        );
        for (name, expected) in [
            ("z.a.com", Some(("wildcard", true))),
            ("Y.A.com", Some(("exact", true))),
            ("x.a.com", Some(("own listener", false))),
            ("b.com", None),
            ("c.com", None),
            ("", None),
        ] {
            let found = table.find(host(name).as_deref());
            let found = found.map(|(rule, terminates)| {
                (rule.backends[0].backend.as_ref().unwrap().name.clone(), terminates)
            });
            let expected = expected.map(|(name, terminates)| (name.to_owned(), terminates));
            assert_eq!(found, expected, "{name}");
        }
    }
}
