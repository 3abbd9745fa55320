//! A private folder for one run, gone with it. Of a run that was killed the next one finds the
//! folder unlocked, and removes it.

use crate::lock::Lock;
use anyhow::{Context, Result};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

/// The folder of this run.
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Held as long as the folder is in use.
    _lock: Lock,
}

impl Scratch {
    /// Makes a folder that only this user can read below `home`, and sweeps up what was left.
    pub(crate) fn new(home: &Path) -> Result<Self> {
        let runs = home.join("runs");
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
        // Against a sweep between making a folder and locking it.
        let _all = Lock::wait(&runs.join("lock"))?;
        sweep(&runs)?;
        let folder = runs.join(process::id().to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = Lock::wait(&folder.join("lock"))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes a file that only this user can read, from its first byte on.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn sweep(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let folder = entry?.path();
        if folder.is_dir() && Lock::attempt(&folder.join("lock")).is_ok_and(|free| free.is_some()) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_in_use_is_not() {
        let home = std::env::temp_dir().join(format!("canary-scratch-{}", process::id()));
        let (left, used) = (home.join("runs/1"), home.join("runs/2"));
        fs::create_dir_all(left.join("state")).unwrap();
        fs::create_dir_all(&used).unwrap();
        let held = Lock::wait(&used.join("lock")).unwrap();
        let scratch = Scratch::new(&home).unwrap();
        assert_eq!((left.exists(), used.exists(), scratch.path().exists()), (false, true, true));
        let mine = scratch.path().to_owned();
        drop((scratch, held));
        assert!(!mine.exists());
        fs::remove_dir_all(&home).unwrap();
    }
}
