//! Lock files. The kernel releases a lock when its holder exits, however it exits, so no lock is ever
//! stale.

use anyhow::{Context, Result};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// An exclusive lock, released on drop.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Waits until the lock is acquired.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
        Ok(Self { file })
    }

    /// Acquires the lock unless it is held.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", path.display()))
            }
        }
    }

    /// Returns true if the lock is held. Several processes may check at the same time, so this takes a
    /// shared lock: an exclusive one would look like a holder to the others.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.with_context(|| format!("failed to open {}", path.display()))?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to check the lock {}", path.display()))
            }
        }
    }

    /// Returns the locked file, for a child to inherit: the lock lasts until its last holder exits.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))
}
