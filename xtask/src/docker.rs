//! The Docker engine: whether it responds, and its `/info`. Queried on its socket instead of by
//! `docker info`, because the embedded cluster and its labs need no `docker` command, and because a
//! command without an engine takes long to give up.

use serde_json::Value;
use std::{
    env, fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// The state of the engine that the `docker` command would use.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// The engine responds; its `/info`.
    Ready(Value),
    /// Nothing listens on that socket.
    Absent(String),
    /// This user may not open the socket.
    Denied(String),
    /// Something listens on the socket but does not speak the Docker API.
    Unresponsive(String),
    /// On another machine, by `DOCKER_HOST` or a context: it would publish its ports there, too.
    Remote(String),
}

impl Engine {
    /// Queries the engine.
    pub(crate) fn query() -> Self {
        let host = env_var("DOCKER_HOST").or_else(context_host);
        match socket(host.as_deref()) {
            Ok(socket) => Self::at(&socket),
            Err(host) => Self::Remote(host),
        }
    }

    fn at(socket: &str) -> Self {
        // The engine may have to scan its disk first.
        match get(Path::new(socket), "/info", Duration::from_secs(10)) {
            Err(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => Self::Denied(socket.into()),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Self::Absent(socket.into())
                }
                _ => Self::Unresponsive(socket.into()),
            },
            Ok(response) => match response.split_once("\r\n\r\n") {
                Some((head, body)) if is_ok(head) => serde_json::from_str(body)
                    .map_or_else(|_| Self::Unresponsive(socket.into()), Self::Ready),
                _ => Self::Unresponsive(socket.into()),
            },
        }
    }
}

/// Returns true if an engine responds quickly where the labs' client looks for one.
pub(crate) fn responds() -> bool {
    let timeout = Duration::from_millis(500);
    socket(env_var("DOCKER_HOST").as_deref()).is_ok_and(|socket| {
        get(Path::new(&socket), "/_ping", timeout).is_ok_and(|response| is_ok(&response))
    })
}

/// Returns whether the engine has an image; `None` if it does not respond to that.
pub(crate) fn has_image(name: &str) -> Option<bool> {
    let host = env_var("DOCKER_HOST").or_else(context_host);
    let socket = socket(host.as_deref()).ok()?;
    let response = get(Path::new(&socket), &format!("/images/{name}/json"), Duration::from_secs(5));
    let response = response.ok()?;
    match response.split(' ').nth(1)? {
        "200" => Some(true),
        "404" => Some(false),
        _ => None,
    }
}

/// Returns true if this host can reach the addresses of containers. It cannot where the engine runs in
/// a virtual machine, as with Docker Desktop, or in a network namespace of its own.
pub(crate) fn containers_are_reachable(info: &Value) -> bool {
    let system = info["OperatingSystem"].as_str().unwrap_or_default();
    let options = info["SecurityOptions"].to_string();
    !system.contains("Docker Desktop") && !options.contains("name=rootless")
}

fn env_var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the host of the selected Docker context, unless that is the default one.
fn context_host() -> Option<String> {
    let config = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let config = config.or_else(|| Some(env::home_dir()?.join(".docker")))?;
    let current =
        || read_json(&config.join("config.json"))?["currentContext"].as_str().map(Into::into);
    let name: String = env_var("DOCKER_CONTEXT").or_else(current)?;
    let digest = oci_archive::Digest::of(name.as_bytes()).to_string();
    // A context is stored below the digest of its name.
    let folder = config.join("contexts/meta").join(digest.trim_start_matches("sha256:"));
    let meta = read_json(&folder.join("meta.json"))?;
    meta["Endpoints"]["docker"]["Host"].as_str().map(Into::into)
}

fn read_json(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Returns the path of the engine's socket, or the host if it is another machine.
fn socket(host: Option<&str>) -> Result<String, String> {
    match host {
        None => Ok("/var/run/docker.sock".into()),
        Some(host) => host.strip_prefix("unix://").map(Into::into).ok_or_else(|| host.into()),
    }
}

fn is_ok(response: &str) -> bool {
    response.starts_with("HTTP/1.0 200") || response.starts_with("HTTP/1.1 200")
}

/// Sends a GET request as HTTP/1.0: the response ends with the connection and is not chunked.
fn get(socket: &Path, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // One write: a server that responds to the first part and closes would reset the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.take(1 << 20).read_to_string(&mut response)?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    #[test]
    fn containers_in_a_vm_or_rootless_network_are_unreachable() {
        use serde_json::json;
        for (info, reachable) in [
            (json!({"OperatingSystem": "Debian GNU/Linux 13 (trixie)"}), true),
            (json!({"OperatingSystem": "Docker Desktop"}), false),
            (json!({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}), false),
            (json!({"SecurityOptions": ["name=seccomp,profile=builtin"]}), true),
            (json!({}), true),
        ] {
            assert_eq!(containers_are_reachable(&info), reachable, "{info}");
        }
    }

    #[test]
    fn engine_state_is_detected_from_the_socket() {
        let path = env::temp_dir().join(format!("canary-docker-{}.sock", std::process::id()));
        let socket = path.to_string_lossy().into_owned();
        assert!(matches!(Engine::at(&socket), Engine::Absent(_)));
        let listener = UnixListener::bind(&path).unwrap();
        let short = Duration::from_millis(10);
        assert!(get(&path, "/_ping", short).is_err(), "it accepts and never responds");
        // The connection of that attempt, then one with a response and one without.
        let server = thread::spawn(move || {
            drop(listener.accept().unwrap());
            for response in ["HTTP/1.0 200 OK\r\n\r\n{\"Driver\": \"vfs\"}", "SSH-2.0\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 64];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(response.as_bytes()).unwrap();
            }
        });
        let Engine::Ready(info) = Engine::at(&socket) else { panic!("it responds") };
        assert_eq!(info["Driver"], "vfs");
        assert!(matches!(Engine::at(&socket), Engine::Unresponsive(_)));
        server.join().unwrap();
        drop(std::fs::remove_file(&path));
        assert!(matches!(Engine::at(&socket), Engine::Absent(_)));
    }

    #[test]
    fn hosts_other_than_unix_sockets_are_remote() {
        assert_eq!(socket(None), Ok("/var/run/docker.sock".into()));
        assert_eq!(socket(Some("unix:///run/d.sock")), Ok("/run/d.sock".into()));
        assert_eq!(socket(Some("tcp://h:2375")), Err("tcp://h:2375".into()));
    }
}
