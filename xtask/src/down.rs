//! `cargo xtask down`: ends the cluster that `up` made, and waits until it is gone.

use crate::{
    cluster::{self, Provider, outside::House},
    flags,
    lock::Lock,
    process::Signals,
    project::Project,
    running::{Files, Running},
};
use anyhow::Result;
use std::{fs, path::Path, time::Duration};

/// For pods to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(flags: &flags::Down) -> Result<()> {
    let home = Project::find()?.home()?;
    match cluster::provider(flags.on.as_deref())? {
        Provider::Embedded => embedded(&home),
        Provider::Outside(provider) => {
            match House::of(&home, provider)?.down(flags.dry_run, &Signals::block()?)? {
                true if flags.dry_run => {}
                true => println!("down"),
                false => println!("no {} cluster is up", provider.name()),
            }
            Ok(())
        }
    }
}

fn embedded(home: &Path) -> Result<()> {
    let files = Files::of(home);
    let _lock = Lock::wait(&files.lock)?;
    match Running::find_locked(&files)? {
        None => println!("no cluster is running"),
        Some(running) => {
            running.process.finish("cluster", PATIENCE)?;
            println!("down");
        }
    }
    let _ = fs::remove_dir_all(&files.state);
    let _ = fs::remove_file(&files.about);
    Ok(())
}
