//! Receives queries: over UDP inside of pods, over UDP and TCP on the host.

use super::{
    message::Transport,
    resolver::{Answer, Resolver},
    upstream::{read_framed, write_framed},
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, pending},
    stream::FuturesUnordered,
};
use kube_embedded_core::{backoff::Backoff, network::PodSockets, task::TaskSet};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Queries of one socket that wait for other name servers; more are not answered, and their clients
/// ask again.
const MAX_FORWARDED: usize = 64;
/// Connections over TCP at a time.
const MAX_CONNECTIONS: usize = 128;
/// The time between two queries of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Queries received before others get their turn.
const QUERIES_PER_ROUND: usize = 16;
/// Longer queries are cut, and then malformed.
const MAX_QUERY: usize = 4096;

/// Answers the queries of a pod, until dropped.
pub(super) async fn serve_pod(resolver: Arc<Resolver>, sockets: Arc<dyn PodSockets>) {
    if let Some(socket) = sockets.dns_queries() {
        serve_datagrams(&resolver, socket).await;
    }
}

/// Answers datagrams to an address, until dropped.
pub(super) async fn serve_udp(
    resolver: Arc<Resolver>,
    sockets: Arc<dyn PodSockets>,
    at: SocketAddr,
    backoff: Backoff,
) {
    if let Some(socket) = bind(at, backoff, || sockets.bind_udp(at)).await {
        serve_datagrams(&resolver, &socket).await;
    }
}

/// Answers connections to an address of the host, until dropped.
pub(super) async fn serve_tcp(resolver: Arc<Resolver>, at: SocketAddr, backoff: Backoff) {
    if let Some(listener) = bind(at, backoff, || TcpListener::bind(at)).await {
        serve_connections(&resolver, listener).await;
    }
}

/// Binds an address, with as many attempts as it takes; `None` if this user may not.
async fn bind<S, F: Future<Output = io::Result<S>>>(
    at: SocketAddr,
    mut backoff: Backoff,
    bind: impl Fn() -> F,
) -> Option<S> {
    loop {
        match bind().await {
            Ok(bound) => return Some(bound),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::info!(%at, %error, "cluster names are not served at this address");
                return None;
            }
            Err(error) => tracing::warn!(%at, %error, "failed to listen for DNS queries"),
        }
        sleep(backoff.next_delay()).await;
    }
}

/// Answers queries that come as datagrams, until dropped.
async fn serve_datagrams(resolver: &Resolver, socket: &UdpSocket) {
    let mut waiting: FuturesUnordered<BoxFuture<'static, (Vec<u8>, SocketAddr)>> =
        FuturesUnordered::new();
    loop {
        let next = async {
            match waiting.next().await {
                Some(answered) => answered,
                None => pending().await,
            }
        };
        tokio::select! {
            (response, client) = next => send(socket, &response, client),
            ready = socket.readable() => {
                if ready.is_err() {
                    return;
                }
                for _ in 0..QUERIES_PER_ROUND {
                    let Some((query, client)) = receive(socket) else { break };
                    match resolver.answer(query, Transport::Udp) {
                        Answer::Nothing => {}
                        Answer::Now(response) => send(socket, &response, client),
                        Answer::Later(response) if waiting.len() < MAX_FORWARDED => {
                            waiting.push(response.map(move |r| (r, client)).boxed());
                        }
                        Answer::Later(_) => {
                            tracing::debug!(%client, "too many queries wait for other name servers");
                        }
                    }
                }
                // A client that never stops asking leaves the thread to others.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Receives one query, if there is one. The buffer is on the stack: most pods wait all of the time.
fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; MAX_QUERY];
    loop {
        match socket.try_recv_from(&mut buffer) {
            Ok((length, client)) => return Some((buffer.get(..length)?.to_vec(), client)),
            // An earlier client that has closed its socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

/// Sends a response. Where that is not possible at once, the client has stopped reading: it asks again.
fn send(socket: &UdpSocket, response: &[u8], client: SocketAddr) {
    if !response.is_empty()
        && let Err(error) = socket.try_send_to(response, client)
    {
        tracing::debug!(%client, %error, "failed to send a DNS response");
    }
}

/// Answers queries that come over connections, until dropped.
async fn serve_connections(resolver: &Arc<Resolver>, listener: TcpListener) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = TaskSet::default();
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let resolver = resolver.clone();
                connections.spawn("dns connection", async move {
                    // An error ends the connection, which is all that a client can be told.
                    let _ = serve_connection(&resolver, stream).await;
                    drop(permit);
                });
            }
            // No file descriptors are left, for example.
            Err(error) => {
                tracing::debug!(%error, "failed to accept a DNS connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = timeout(IDLE_TIMEOUT, read_framed(&mut stream)).await??;
        let response = match resolver.answer(query, Transport::Tcp) {
            Answer::Nothing => return Ok(()),
            Answer::Now(response) => response,
            Answer::Later(response) => response.await,
        };
        timeout(IDLE_TIMEOUT, write_framed(&mut stream, &response)).await??;
    }
}
