//! Errors of connections, as Kubernetes' events word them.

use std::{io, net::SocketAddr};

/// Words a connection error as Go does, because that is what people search for.
pub(super) fn go_error(to: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("dial tcp {to}: connect: connection refused"),
        io::ErrorKind::ConnectionReset => format!("read tcp {to}: read: connection reset by peer"),
        io::ErrorKind::HostUnreachable => {
            format!("dial tcp {to}: connect: no route to host ({error})")
        }
        _ => error.to_string(),
    }
}
