//! Whether a Docker engine answers. Asked of its socket: the `docker` command may be there without
//! an engine, and takes long to find out.

use std::{
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Whether an engine answers, and soon.
pub(crate) fn answers() -> bool {
    let host = env::var("DOCKER_HOST").unwrap_or_default();
    let socket = match host.strip_prefix("unix://") {
        Some(path) => path,
        None if host.is_empty() => "/var/run/docker.sock",
        // An engine elsewhere would publish its ports elsewhere, too.
        None => return false,
    };
    ping(Path::new(socket)).is_some_and(|answer| {
        answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200")
    })
}

fn ping(socket: &Path) -> Option<[u8; 12]> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let patience = Some(Duration::from_millis(500));
    stream.set_read_timeout(patience).ok()?;
    stream.set_write_timeout(patience).ok()?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_without_an_engine_is_no_engine() {
        let path = env::temp_dir().join(format!("canary-docker-{}.sock", std::process::id()));
        assert!(ping(&path).is_none());
        let _mute = UnixListener::bind(&path).unwrap();
        assert!(ping(&path).is_none(), "it accepts and never answers");
        std::fs::remove_file(&path).unwrap();
    }
}
