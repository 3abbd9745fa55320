//! Whether a Docker engine answers, and what it is. Asked of its socket: the `docker` command may be
//! there without an engine, and takes long to find out.

use serde_json::Value;
use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// What was found where an engine should be.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// What it says of itself at `/info`.
    Answers(Value),
    /// Nothing listens at that socket.
    Absent(String),
    /// This user may not open it.
    Denied(String),
    /// Something listens and says nothing, or no sense.
    Mute(String),
    /// On another machine, by `DOCKER_HOST`.
    Elsewhere(String),
}

impl Engine {
    /// Asks the engine of this machine.
    pub(crate) fn ask() -> Self {
        match socket() {
            Ok(socket) => Self::at(&socket),
            Err(host) => Self::Elsewhere(host),
        }
    }

    fn at(socket: &str) -> Self {
        // It may have to look at its disk first.
        match get(Path::new(socket), "/info", Duration::from_secs(10)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self::Denied(socket.into())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Self::Absent(socket.into())
            }
            Err(_) => Self::Mute(socket.into()),
            Ok(answer) => match answer.split_once("\r\n\r\n") {
                Some((head, body)) if is_well(head) => serde_json::from_str(body)
                    .map_or_else(|_| Self::Mute(socket.into()), Self::Answers),
                _ => Self::Mute(socket.into()),
            },
        }
    }
}

/// Whether an engine answers, and soon.
pub(crate) fn answers() -> bool {
    let patience = Duration::from_millis(500);
    socket().is_ok_and(|socket| {
        get(Path::new(&socket), "/_ping", patience).is_ok_and(|answer| is_well(&answer))
    })
}

/// Whether this host reaches the addresses of containers, from what `docker info` says: not those of an
/// engine in a virtual machine, as Docker Desktop is one, nor of one in a network of its own.
pub(crate) fn is_near(info: &Value) -> bool {
    let system = info["OperatingSystem"].as_str().unwrap_or_default();
    let options = info["SecurityOptions"].to_string();
    !system.contains("Docker Desktop") && !options.contains("name=rootless")
}

/// The engine's socket, or where else it is: there, it would publish its ports, too.
fn socket() -> Result<String, String> {
    let host = env::var("DOCKER_HOST").unwrap_or_default();
    match host.strip_prefix("unix://") {
        Some(path) => Ok(path.into()),
        None if host.is_empty() => Ok("/var/run/docker.sock".into()),
        None => Err(host),
    }
}

fn is_well(answer: &str) -> bool {
    answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200")
}

/// HTTP 1.0: the answer ends with the connection, and comes in no chunks.
fn get(socket: &Path, path: &str, patience: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // At once: who answers the first part and closes would cut off the rest.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    #[test]
    fn containers_are_far_in_a_virtual_machine_or_a_network_of_their_own() {
        use serde_json::json;
        for (info, near) in [
            (json!({"OperatingSystem": "Debian GNU/Linux 13 (trixie)"}), true),
            (json!({"OperatingSystem": "Docker Desktop"}), false),
            (json!({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}), false),
            (json!({"SecurityOptions": ["name=seccomp,profile=builtin"]}), true),
            (json!({}), true),
        ] {
            assert_eq!(is_near(&info), near, "{info}");
        }
    }

    #[test]
    fn what_listens_at_a_socket_is_told_apart() {
        let path = env::temp_dir().join(format!("canary-docker-{}.sock", std::process::id()));
        let socket = path.to_string_lossy().into_owned();
        assert!(matches!(Engine::at(&socket), Engine::Absent(_)));
        let listener = UnixListener::bind(&path).unwrap();
        let soon = Duration::from_millis(10);
        assert!(get(&path, "/_ping", soon).is_err(), "it accepts and never answers");
        // The connection of that attempt, then one with an answer and one without.
        let server = thread::spawn(move || {
            drop(listener.accept().unwrap());
            for answer in ["HTTP/1.0 200 OK\r\n\r\n{\"Driver\": \"vfs\"}", "SSH-2.0\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 64];
                assert!(stream.read(&mut asked).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let Engine::Answers(info) = Engine::at(&socket) else { panic!("it answers") };
        assert_eq!(info["Driver"], "vfs");
        assert!(matches!(Engine::at(&socket), Engine::Mute(_)));
        server.join().unwrap();
        drop(std::fs::remove_file(&path));
        assert!(matches!(Engine::at(&socket), Engine::Absent(_)));
    }
}
