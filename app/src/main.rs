//! `kubeapp`: the web app that the labs deploy. 1.0 and 2.0 are this one source; they differ by the
//! build input `KUBEAPP_VERSION` alone.
//!
//! It is pid 1 of a container that holds nothing else, so it handles its signals itself, and it
//! goes the way Kubernetes wants a pod to go: see [`server`].

mod routes;
mod server;

use routes::App;
use std::{
    env,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// What `/version` answers and `/` names.
const VERSION: &str = match option_env!("KUBEAPP_VERSION") {
    Some(version) => version,
    None => "0.0-dev",
};

/// Where the article's app listens.
const PORT: u16 = 8080;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubeapp {VERSION}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let address = address(env::var("POD_IP").ok(), env::var("PORT").ok())?;
    // One thread: a pod's share of a node is small, and four of them share two cores in the labs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        let fault = |e: io::Error| format!("cannot handle signals: {e}");
        // Before the first connection: as pid 1 an unhandled SIGTERM would be ignored.
        let terminate = signal(SignalKind::terminate()).map_err(fault)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("cannot listen on {address}: {e}"))?;
        let address = listener.local_addr().unwrap_or(address);
        log(&format!("kubeapp {VERSION} listens on http://{address}"));
        let app = App::new(VERSION, &pod_name());
        let end = server::run(listener, app, server::Stop { terminate, interrupt }).await;
        log(&format!("kubeapp {VERSION} stopped, {end}"));
        Ok(())
    })
}

/// `POD_IP` and `PORT` where the pod sets them; every address and the article's port otherwise.
fn address(ip: Option<String>, port: Option<String>) -> Result<SocketAddr, String> {
    let ip = match ip.as_deref() {
        None | Some("") => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Some(ip) => ip.parse().map_err(|_| format!("POD_IP={ip} is not an IP address"))?,
    };
    let port = match port.as_deref() {
        None | Some("") => PORT,
        Some(port) => {
            port.parse().map_err(|_| format!("PORT={port} is not a port between 0 and 65535"))?
        }
    };
    Ok(SocketAddr::new(ip, port))
}

/// The pod's name: the downward API's where the manifest asks for it, else the host name, which
/// Kubernetes sets to it.
fn pod_name() -> String {
    ["POD_NAME", "HOSTNAME"]
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "unknown".into(), |name| name.trim().into())
}

/// A line in the pod's log. Nobody reading it is no reason to stop serving.
fn log(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(ip: Option<&str>, port: Option<&str>) -> Result<String, String> {
        address(ip.map(Into::into), port.map(Into::into)).map(|a| a.to_string())
    }

    #[test]
    fn address_follows_the_pod() {
        assert_eq!(listens(None, None).unwrap(), "0.0.0.0:8080");
        assert_eq!(listens(Some("127.7.128.3"), None).unwrap(), "127.7.128.3:8080");
        assert_eq!(listens(Some("fd00::1"), Some("81")).unwrap(), "[fd00::1]:81");
        assert_eq!(listens(Some(""), Some("")).unwrap(), "0.0.0.0:8080");
        assert_eq!(listens(Some("here"), None).unwrap_err(), "POD_IP=here is not an IP address");
        assert!(listens(None, Some("70000")).unwrap_err().starts_with("PORT=70000 is not a port"));
    }
}
