//! A running container, for what is started in it or connects to it: probes, hooks, exec.

use crate::runtime::{Launch, LaunchError, LaunchTarget, Process, Security, Spawner, Stdio};
use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};
use kube_embedded_core::network::Network;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

/// The most output of a program that is kept, as for the kubelet's exec probes.
const MAX_OUTPUT: usize = 10 << 10;

/// A running container.
pub(crate) struct Target {
    /// The namespace and name of the pod, for logs.
    pub(crate) pod: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) network: Arc<Network>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) process: Arc<Process>,
    pub(crate) container: Container,
    /// Environment and working directory of programs that are started in the container.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) security: Arc<Security>,
    /// The root file system, in the plain sandbox.
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) started: Instant,
}

impl Target {
    /// Starts a program in the container. Dropped before it has exited, it is killed.
    pub(crate) async fn exec(
        &self,
        argv: Vec<String>,
        variables: &[&str],
        stdio: Stdio,
    ) -> Result<Process, LaunchError> {
        let target = match &self.rootfs {
            Some(rootfs) => LaunchTarget::Host { rootfs: rootfs.clone() },
            None => LaunchTarget::Exec(self.process.pidfd()),
        };
        let mut env = self.env.clone();
        env.extend(variables.iter().map(|v| (*v).to_owned()));
        let (cwd, security) = (self.cwd.clone(), self.security.clone());
        let launch = Launch { argv, env, cwd, target, stdio, security, rlimits: Vec::new() };
        self.spawner.launch(launch).await
    }

    /// Runs a program in the container and returns its exit code and output. If the future is dropped
    /// before the program has exited, the program is killed.
    pub(crate) async fn run(&self, argv: Vec<String>) -> Result<(i32, String), String> {
        let process = self.exec(argv, &[], Stdio::Output).await.map_err(|e| e.to_string())?;
        let streams = process.streams().map_err(|e| e.to_string())?;
        let err = async {
            match streams.stderr {
                Some(err) => read_limited(err).await,
                None => String::new(),
            }
        };
        let (out, err) = tokio::join!(read_limited(streams.stdout), err);
        let exit = process.wait().await.map_err(|e| e.to_string())?;
        Ok((exit.code, out + &err))
    }

    /// Resolves the host and port of a probe or hook: the pod's address by default, and a port by
    /// number or by the name that the container has for it.
    pub(crate) fn address(
        &self,
        host: Option<&str>,
        port: &IntOrString,
    ) -> Result<SocketAddr, String> {
        let ip = match host.filter(|h| !h.is_empty()) {
            None => IpAddr::V4(self.ip),
            Some(host) => {
                host.parse().map_err(|_| format!("host {host:?} is not an IP address"))?
            }
        };
        let number = match port {
            IntOrString::Int(n) => Some(*n),
            IntOrString::String(name) => {
                let mut ports = self.container.ports.iter().flatten();
                let named = ports.find(|p| p.name.as_deref() == Some(name));
                named.map(|p| p.container_port).or_else(|| name.parse().ok())
            }
        };
        match number.and_then(|n| u16::try_from(n).ok()) {
            Some(number) if number > 0 => Ok(SocketAddr::new(ip, number)),
            _ => Err(format!(
                "invalid port {port:?}; allowed are 1 to 65535 and the names of the container's ports"
            )),
        }
    }
}

/// Reads to the end, and keeps the first [`MAX_OUTPUT`] bytes: a program must not be stopped by a
/// pipe that is full.
async fn read_limited(mut from: impl AsyncRead + Unpin) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(all.len());
        all.extend_from_slice(buffer.get(..read.min(room)).unwrap_or_default());
    }
    String::from_utf8_lossy(&all).into_owned()
}
