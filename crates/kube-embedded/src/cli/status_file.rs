//! The file in which `serve` reports that it lives, and that it loaded images again on SIGUSR1. It is removed
//! when the cluster is stopped, so one that remains shows when the process died.

use crate::Cluster;
use kube_embedded_apiserver::credentials::write_private;
use serde_json::json;
use std::{
    convert::Infallible,
    fs::File,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

/// The interval at which the file is touched.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) struct StatusFile {
    path: Option<PathBuf>,
    reload: Signal,
    loads: u64,
}

impl StatusFile {
    /// Listens for SIGUSR1, whose default is to end the process.
    pub(super) fn listen(path: Option<PathBuf>) -> Result<Self, String> {
        let reload = signal(SignalKind::user_defined1())
            .map_err(|error| format!("failed to listen for SIGUSR1: {error}"))?;
        Ok(Self { path, reload, loads: 0 })
    }

    /// Writes the file.
    pub(super) fn write(&self, error: Option<String>) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = json!({ "pid": std::process::id(), "loads": self.loads, "error": error });
        write_private(path, &format!("{text}\n"))
            .map_err(|error| format!("failed to write {}: {error}", path.display()))
    }

    /// Touches the file, and loads the images again on SIGUSR1.
    pub(super) async fn maintain(&mut self, cluster: &Cluster, images: &[PathBuf]) -> Infallible {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = heartbeat.tick() => self.touch(),
                _ = self.reload.recv() => {
                    let loaded = images.iter().try_for_each(|path| cluster.add_images(path));
                    self.loads += 1;
                    let error = loaded.err().map(|error| error.to_string());
                    tracing::info!(?error, "loaded the images again");
                    if let Err(error) = self.write(error) {
                        tracing::error!("{error}");
                    }
                }
            }
        }
    }

    fn touch(&self) {
        let Some(path) = &self.path else { return };
        // It may have been removed together with its directory.
        let file = File::options().write(true).open(path);
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    pub(super) fn remove(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
