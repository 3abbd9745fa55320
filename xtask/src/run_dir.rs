//! The temporary directory of one run, removed at its end. A run that was killed leaves its directory
//! unlocked, and the next run removes it.

use crate::{files, lock::Lock};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

/// A directory that only this user can read.
pub(crate) struct RunDir {
    path: PathBuf,
    /// Held while the directory is in use.
    _lock: Lock,
}

impl RunDir {
    /// Creates the directory below `home`, and removes those of killed runs.
    pub(crate) fn create(home: &Path) -> Result<Self> {
        let runs = home.join("runs");
        files::private_directory(&runs)?;
        // Keeps another run from sweeping the directory between its creation and its lock.
        let _all = Lock::wait(&runs.join("lock"))?;
        sweep(&runs)?;
        let path = runs.join(process::id().to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        let lock = Lock::wait(&path.join("lock"))?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sweep(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        if path.is_dir() && Lock::attempt(&path.join("lock")).is_ok_and(|lock| lock.is_some()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_killed_runs_are_removed_and_those_in_use_are_kept() {
        let home = std::env::temp_dir().join(format!("canary-run-dir-{}", process::id()));
        let (stale, used) = (home.join("runs/1"), home.join("runs/2"));
        fs::create_dir_all(stale.join("state")).unwrap();
        fs::create_dir_all(&used).unwrap();
        let lock = Lock::wait(&used.join("lock")).unwrap();
        let run_dir = RunDir::create(&home).unwrap();
        assert_eq!((stale.exists(), used.exists(), run_dir.path().exists()), (false, true, true));
        let path = run_dir.path().to_owned();
        drop((run_dir, lock));
        assert!(!path.exists());
        fs::remove_dir_all(&home).unwrap();
    }
}
