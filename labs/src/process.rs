//! The app as a plain process on an address of its own, ended when it is dropped.

use anyhow::{Context as _, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Where the article's app listens.
pub const PORT: u16 = 8080;

/// A running app.
#[derive(Debug)]
pub struct Process {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts `binary` and waits until it takes connections on port 8080 of a loopback address that
    /// nothing else uses.
    pub async fn start(binary: &Path, patience: Duration) -> anyhow::Result<Self> {
        let ip = free_address()?;
        let mut command = Command::new(binary);
        // Nothing of the environment but what a pod would have.
        command.env_clear().env("POD_IP", ip.to_string()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let mut process = Self { address: SocketAddr::new(ip, PORT), child };
        let listening = tokio::time::timeout(patience, process.listening());
        match listening.await {
            Ok(result) => result.with_context(|| format!("running {}", binary.display()))?,
            Err(_) => bail!(
                "{} does not listen on {} within {} s",
                binary.display(),
                process.address,
                patience.as_secs()
            ),
        }
        Ok(process)
    }

    async fn listening(&mut self) -> anyhow::Result<()> {
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        loop {
            tokio::select! {
                biased;
                ended = self.child.wait() => {
                    bail!("it ended with {} before it listened", ended.context("waiting for it")?);
                }
                _ = pace.tick() => {}
            }
            if TcpStream::connect(self.address).await.is_ok() {
                return Ok(());
            }
        }
    }
}

/// A loopback address whose port nobody holds. Random, so that several runs stay apart.
fn free_address() -> anyhow::Result<IpAddr> {
    for _ in 0..16 {
        let [_, b, c, d] = rand::random::<[u8; 4]>();
        let ip = IpAddr::V4(Ipv4Addr::new(127, b.clamp(1, 254), c, d.clamp(1, 254)));
        if std::net::TcpListener::bind((ip, PORT)).is_ok() {
            return Ok(ip);
        }
    }
    bail!("no loopback address has port {PORT} free; is 127.0.0.0/8 there on this machine?")
}
