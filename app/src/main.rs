//! `kubeapp`: the web app that the labs deploy. Versions 1.0 and 2.0 are built from this source, and differ only
//! in the build input `KUBEAPP_VERSION`.
//!
//! It is pid 1 of a container that contains nothing else, so it handles signals itself. It shuts down gracefully,
//! as Kubernetes expects of a pod: see [`server`].

mod faults;
mod routes;
mod server;

use faults::Faults;
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

/// The response to `/version`, which `/` mentions as well.
const VERSION: &str = match option_env!("KUBEAPP_VERSION") {
    Some(version) => version,
    None => "0.0-dev",
};

/// The port of the article's app.
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
    let faults = Faults::read(|name| env::var(name).ok())?;
    // One thread: in the labs, four pods share two cores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("failed to start the runtime: {e}"))?;
    runtime.block_on(async {
        let failed = |e: io::Error| format!("failed to handle signals: {e}");
        // Before the first connection: pid 1 ignores a SIGTERM that it does not handle.
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut stop = server::Stop { terminate, interrupt };
        if !faults.start_delay.is_zero() && stop.requested_within(faults.start_delay).await {
            log(&format!("kubeapp {VERSION} stopped before it listened"));
            return Ok(());
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("failed to listen on {address}: {e}"))?;
        let address = listener.local_addr().unwrap_or(address);
        log(&format!("kubeapp {VERSION} listens on http://{address}"));
        let app = App::new(VERSION, &pod_name(), faults);
        let end = server::run(listener, app, stop).await;
        log(&format!("kubeapp {VERSION} stopped, {end}"));
        Ok(())
    })
}

/// Returns the address to listen on: `POD_IP` and `PORT`, by default all addresses and [`PORT`].
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

/// Returns the name of the pod: from the downward API if the manifest sets `POD_NAME`, otherwise the host name,
/// which is that of the pod in Kubernetes.
fn pod_name() -> String {
    ["POD_NAME", "HOSTNAME"]
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "unknown".into(), |name| name.trim().into())
}

/// Writes a line to the log of the pod. Errors are ignored: a closed log does not affect requests.
fn log(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(ip: Option<&str>, port: Option<&str>) -> Result<String, String> {
        address(ip.map(Into::into), port.map(Into::into)).map(|a| a.to_string())
    }

    #[test]
    fn address_is_read_from_pod_ip_and_port() {
        assert_eq!(parsed(None, None).unwrap(), "0.0.0.0:8080");
        assert_eq!(parsed(Some("127.7.128.3"), None).unwrap(), "127.7.128.3:8080");
        assert_eq!(parsed(Some("fd00::1"), Some("81")).unwrap(), "[fd00::1]:81");
        assert_eq!(parsed(Some(""), Some("")).unwrap(), "0.0.0.0:8080");
        assert_eq!(parsed(Some("here"), None).unwrap_err(), "POD_IP=here is not an IP address");
        assert!(parsed(None, Some("70000")).unwrap_err().starts_with("PORT=70000 is not a port"));
    }
}
