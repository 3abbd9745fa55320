//! The name servers of the host, to which names that are not the cluster's are forwarded.

use super::message::Transport;
use kube_embedded_core::{network::Addresses, resolv_conf::ResolvConf};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

/// The time that a server has to respond. All three together stay below the 5 s after which clients
/// ask again.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// The time that a server has which did not respond last time.
const SHORT_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a server that did not respond has less time.
const PENALTY: Duration = Duration::from_secs(10);
/// The most servers that are asked, as in libc.
const MAX_SERVERS: usize = 3;
/// The most bytes of a UDP message.
const MAX_DATAGRAM: usize = 4096;
const HEADER: usize = 12;

/// The name servers in the host's `resolv.conf`, which is read again when it has changed.
pub(super) struct Upstream {
    path: PathBuf,
    port: u16,
    addresses: Addresses,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The time and length of the file that was read.
    version: Option<(SystemTime, u64)>,
    servers: Vec<SocketAddr>,
    /// The server that did not respond last, and when.
    silent: Option<(SocketAddr, Instant)>,
}

impl Upstream {
    pub(super) fn new(path: PathBuf, port: u16, addresses: Addresses) -> Self {
        Self { path, port, addresses, state: Mutex::default() }
    }

    /// Forwards a query as it is, and returns the response with the ID of the query. `None` if no
    /// server responds, at once where the host has none or no network.
    pub(super) async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut message = query.to_vec();
        // Not the client's: with the port of the socket it is what a forged response has to guess.
        let id = rand::random::<[u8; 2]>();
        message.get_mut(..2)?.copy_from_slice(&id);
        for server in self.servers() {
            let exchange = exchange(server, &message, transport);
            match timeout(self.patience(server), exchange).await {
                Ok(Ok(mut response)) => {
                    response.get_mut(..2)?.copy_from_slice(query.get(..2)?);
                    self.responded(server);
                    return Some(response);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "failed to forward a query"),
                Err(_) => {
                    tracing::debug!(%server, "a name server of the host does not respond");
                    self.lock().silent = Some((server, Instant::now()));
                }
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let metadata = std::fs::metadata(&self.path).ok();
        let version = metadata.and_then(|file| Some((file.modified().ok()?, file.len())));
        let mut state = self.lock();
        if state.version != version {
            let servers = ResolvConf::read(&self.path).nameservers.into_iter();
            let servers = servers.filter(|address| !self.is_own(*address)).take(MAX_SERVERS);
            state.servers = servers.map(|address| SocketAddr::new(address, self.port)).collect();
            state.version = version;
            tracing::debug!(servers = ?state.servers, "names outside of the cluster are forwarded");
        }
        state.servers.clone()
    }

    /// Returns whether the address is one of this cluster's: forwarding to it would be a loop.
    fn is_own(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let [first, block, ..] = address.octets();
        (first, block) == (127, self.addresses.block)
    }

    fn patience(&self, server: SocketAddr) -> Duration {
        match self.lock().silent {
            Some((silent, at)) if silent == server && at.elapsed() < PENALTY => SHORT_TIMEOUT,
            _ => TIMEOUT,
        }
    }

    fn responded(&self, server: SocketAddr) {
        let mut state = self.lock();
        state.silent = state.silent.filter(|(silent, _)| *silent != server);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

async fn exchange(server: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => exchange_datagrams(server, query).await,
        Transport::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            write_framed(&mut stream, query).await?;
            let response = read_framed(&mut stream).await?;
            if is_response(&response, query) {
                Ok(response)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "not a response to the query"))
            }
        }
    }
}

async fn exchange_datagrams(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only datagrams of this server are received, and its refusals are errors.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut response = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut response).await?;
        if let Some(received) = response.get(..length).filter(|r| is_response(r, query)) {
            return Ok(received.to_vec());
        }
    }
}

/// Returns whether a message is a response with the ID and the question of a query. Servers may drop
/// the question from an error, and change its case.
fn is_response(response: &[u8], query: &[u8]) -> bool {
    let [r0, r1, flags, _, questions @ ..] = response else { return false };
    if response.len() < HEADER || query.get(..2) != Some(&[*r0, *r1]) || flags & 0x80 == 0 {
        return false;
    }
    if questions.get(..2) == Some(&[0, 0]) {
        return true;
    }
    // The name ends with an empty label; type and class follow.
    let mut end = HEADER;
    while let Some(length @ 1..) = query.get(end) {
        end += usize::from(*length) + 1;
    }
    let question = |message: &[u8]| message.get(HEADER..end + 5).map(<[u8]>::to_ascii_lowercase);
    question(query).is_some() && question(response) == question(query)
}

/// Reads a message with its length in front, as over TCP.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length in front, at once: some clients expect both in one segment.
pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
