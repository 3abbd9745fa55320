//! The app as a plain process on a loopback address of its own, killed on drop.

use anyhow::{Context as _, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The port of the article's app.
pub(crate) const PORT: u16 = 8080;

/// A running app.
#[derive(Debug)]
pub(crate) struct Process {
    /// The address it listens on.
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts `binary` on an unused loopback address and waits until it accepts connections on port 8080.
    pub(crate) async fn start(binary: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let ip = free_address()?;
        let mut command = Command::new(binary);
        // Only the variable that a pod would have.
        command.env_clear().env("POD_IP", ip.to_string()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().with_context(|| format!("failed to start {}", binary.display()))?;
        let mut process = Self { address: SocketAddr::new(ip, PORT), child };
        let listening = tokio::time::timeout(timeout, process.listening());
        match listening.await {
            Ok(result) => result.with_context(|| format!("failed to run {}", binary.display()))?,
            Err(_) => bail!(
                "{} does not listen on {} within {} s",
                binary.display(),
                process.address,
                timeout.as_secs()
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
                    bail!("it exited with {} before it listened", ended.context("failed to wait for it")?);
                }
                _ = pace.tick() => {}
            }
            if TcpStream::connect(self.address).await.is_ok() {
                return Ok(());
            }
        }
    }
}

/// Returns a loopback address with the port free. Random, so that concurrent runs do not collide.
fn free_address() -> anyhow::Result<IpAddr> {
    for _ in 0..16 {
        let [_, b, c, d] = rand::random::<[u8; 4]>();
        let ip = IpAddr::V4(Ipv4Addr::new(127, b.clamp(1, 254), c, d.clamp(1, 254)));
        if std::net::TcpListener::bind((ip, PORT)).is_ok() {
            return Ok(ip);
        }
    }
    bail!(
        "found no loopback address with port {PORT} free; is 127.0.0.0/8 configured on this machine?"
    )
}
