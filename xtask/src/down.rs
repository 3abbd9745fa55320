//! `cargo xtask down`: ends the cluster that `up` started, and waits until it is gone.

use crate::{
    lock::Lock,
    project::Project,
    running::{Files, Running},
};
use anyhow::{Result, ensure};
use std::{fs, time::Duration};

/// For pods to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run() -> Result<()> {
    let home = Project::find()?.home()?;
    let files = Files::of(&home);
    let _lock = Lock::wait(&files.lock)?;
    match Running::find_locked(&files)? {
        None => println!("no cluster is running"),
        Some(running) => {
            if !running.end(libc::SIGTERM, PATIENCE)? {
                eprintln!("the cluster did not end within {PATIENCE:?}: killing it");
                ensure!(
                    running.end(libc::SIGKILL, PATIENCE)?,
                    "process {} does not end",
                    running.about.pid
                );
            }
            println!("down");
        }
    }
    let _ = fs::remove_dir_all(&files.state);
    let _ = fs::remove_file(&files.about);
    Ok(())
}
