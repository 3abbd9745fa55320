//! What the benchmarks share: a cluster in a process of its own, and the memory of a process.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The result of a part of a benchmark, whose error ends the program.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// `kube-embedded serve` of the same build, which exits when this is dropped.
pub struct Server {
    child: Child,
    /// The administrator's kubeconfig.
    pub kubeconfig: Value,
}

impl Server {
    /// Starts it with these images and flags, and waits until its API responds.
    ///
    /// # Errors
    /// If there are no images or no program, or if it ends.
    pub fn start(images: &Path, flags: &[&str]) -> Result<Self> {
        if !images.is_dir() {
            let images = images.display();
            return Err(
                format!("{images} is not a directory; `cargo xtask images` creates it").into()
            );
        }
        // Both programs are in target/release.
        let program = env::current_exe()?.with_file_name("kube-embedded");
        let mut child = Command::new(&program)
            .args(["serve", "--exit-with-stdin"])
            .args(flags)
            .arg("--images")
            .arg(images)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let program = program.display();
                format!(
                    "failed to start {program}: {error}; build it with `-p kube-embedded --bins`"
                )
            })?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)?;
        let path = ready["kubeconfig"].as_str().ok_or("no kubeconfig")?;
        let kubeconfig = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
        Ok(Self { child, kubeconfig })
    }

    /// Returns a client with connections of its own.
    ///
    /// # Errors
    /// If the kubeconfig is not one.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig: Kubeconfig = serde_json::from_value(self.kubeconfig.clone())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Client::try_from(config)?)
    }

    /// Returns the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its memory in bytes, as [`memory`].
    ///
    /// # Errors
    /// As [`memory`].
    pub fn memory(&self) -> Result<u64> {
        memory(self.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Returns the proportional share (`Pss`) of a process in bytes, because forks share their pages.
///
/// # Errors
/// If there is no such process.
pub fn memory(process: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: u64 = line.and_then(|l| l.trim().split(' ').next()?.parse().ok()).ok_or("no Pss")?;
    Ok(kib * 1024)
}
