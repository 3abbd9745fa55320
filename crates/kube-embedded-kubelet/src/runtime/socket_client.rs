//! Requests sockets of a process that is in another network namespace ([`super::socket_server`]).

use super::{
    fd::owned,
    scm_rights::{self, MAX_FDS},
    socket_request::SocketRequest,
    syscalls,
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The end of a connection on which requests are answered in order.
pub(super) struct SocketClient {
    socket: AsyncFd<Arc<OwnedFd>>,
    /// The number of requests whose answers have not been read. Those of earlier callers, who stopped
    /// waiting, come before one's own.
    unread: usize,
}

/// Sockets, and a message.
pub(super) type Answer = (Vec<OwnedFd>, (u32, i32));

impl SocketClient {
    /// Must be called within a Tokio runtime.
    pub(super) fn new(socket: Arc<OwnedFd>) -> io::Result<Self> {
        let both = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: `AsyncFd` holds a clone of the Arc, so the descriptor stays open, and is the same
        // one, for as long as it is registered.
        let socket = unsafe { AsyncFd::register_with_interest(socket, both)? };
        Ok(Self { socket, unread: 0 })
    }

    /// Returns the sockets that a request is answered with.
    pub(super) async fn sockets(&mut self, request: SocketRequest) -> io::Result<Vec<OwnedFd>> {
        let (sockets, (_, errno)) = self.exchange(request, &[]).await?;
        if sockets.is_empty() { Err(io::Error::from_raw_os_error(errno)) } else { Ok(sockets) }
    }

    /// Sends a request and receives its answer. A caller may stop waiting at any time.
    pub(super) async fn exchange(
        &mut self,
        request: SocketRequest,
        fds: &[RawFd],
    ) -> io::Result<Answer> {
        let send = |fd: &Arc<OwnedFd>| {
            let sent = scm_rights::send(fd.as_raw_fd(), &request.bytes(), fds);
            sent.map_err(io::Error::from_raw_os_error)
        };
        self.socket.async_io(Interest::WRITABLE, send).await.map_err(pod_gone)?;
        self.unread += 1;
        loop {
            let received = self.socket.async_io(Interest::READABLE, |fd| receive(fd.as_raw_fd()));
            let answer = received.await.map_err(pod_gone)?;
            self.unread -= 1;
            if self.unread == 0 {
                return Ok(answer);
            }
        }
    }
}

fn pod_gone(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, format!("the pod has been removed: {error}"))
}

fn receive(socket: RawFd) -> io::Result<Answer> {
    let (mut text, mut fds) = ([0u8; 8], [-1; MAX_FDS]);
    let received = scm_rights::receive(socket, &mut text, &mut fds);
    let (read, count) = received.map_err(io::Error::from_raw_os_error)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let sockets = fds.iter().take(count).map(|fd| owned(*fd)).collect::<io::Result<_>>()?;
    Ok((sockets, syscalls::parse(text)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{fd::socket_pair, socket_request::SocketKind},
        *,
    };
    use std::net::Ipv4Addr;

    fn set_nonblocking(socket: &OwnedFd) {
        // SAFETY: fcntl takes plain values; the descriptor is open.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    }

    /// Receives the next request; returns its port.
    async fn next_port(server: &Arc<OwnedFd>) -> u16 {
        let server = server.clone();
        let receive = move || {
            let mut request = [0; 8];
            scm_rights::receive(server.as_raw_fd(), &mut request, &mut []).expect("a request");
            SocketRequest::parse(request).port
        };
        tokio::task::spawn_blocking(receive).await.expect("a port")
    }

    fn answer(server: &OwnedFd, port: u16) {
        let message = syscalls::message(syscalls::READY, port.into());
        scm_rights::send(server.as_raw_fd(), &message, &[]).expect("an answer is sent");
    }

    #[tokio::test]
    async fn answers_to_requests_that_were_cancelled_are_skipped() {
        let (ours, server) = socket_pair().expect("a pair of sockets");
        set_nonblocking(&ours);
        let (mut client, server) =
            (SocketClient::new(Arc::new(ours)).expect("a client"), Arc::new(server));
        let request = |port| SocketRequest {
            kind: SocketKind::Link,
            count: 0,
            port,
            address: Ipv4Addr::UNSPECIFIED,
        };
        // The first answer is there before the next request, the second is not.
        for (port, is_answered) in [(1, true), (2, false)] {
            let received = tokio::select! {
                _ = client.exchange(request(port), &[]) => unreachable!("no answer was sent"),
                received = next_port(&server) => received,
            };
            assert_eq!(received, port);
            if is_answered {
                answer(&server, port);
            }
        }
        let late = async {
            let received = next_port(&server).await;
            answer(&server, 2);
            answer(&server, received);
        };
        let (answered, ()) = tokio::join!(client.exchange(request(3), &[]), late);
        let (sockets, (_, value)) = answered.expect("an answer");
        assert_eq!((sockets.len(), value), (0, 3));
    }
}
