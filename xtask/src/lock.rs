//! Files that one process at a time may hold. The kernel lets go of the lock when the holder ends,
//! however it ends, so no lock is ever stale.

use anyhow::{Context, Result};
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

/// A held lock; dropping it lets go.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Waits until the lock is ours.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { file })
    }

    /// The lock if nobody holds it.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Whether somebody holds it. To look is not to hold: several may look at a time.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        match open(path)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot look at {}", path.display()))
            }
        }
    }

    /// The file, for a child to hold on to: the lock lasts as long as the longest holder.
    pub(crate) fn share(self) -> File {
        self.file
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
