//! The private directory of a cluster. It is removed with the cluster; directories that killed processes
//! left behind are removed when the next cluster starts in the same parent.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

const PREFIX: &str = "kube-embedded-";
/// Ignored by the clean-up of other processes, until its lock is held and it is renamed.
const DRAFT: &str = ".kube-embedded-";

/// A directory that only this process uses.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held as long as the process lives, which tells other processes that the directory is in use.
    _lock: File,
}

impl StateDir {
    /// Creates a directory in `base`, by default in `$XDG_RUNTIME_DIR` or the directory for temporary
    /// files. The error comes with the parent that was tried.
    pub(crate) fn create(base: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let base = base.map_or_else(default_base, Path::to_owned);
        let create = || {
            fs::create_dir_all(&base)?;
            let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
            let draft = base.join(format!("{DRAFT}{name}"));
            fs::DirBuilder::new().mode(0o700).create(&draft)?;
            let lock = File::create(draft.join("lock"))?;
            lock.try_lock()?;
            let path = base.join(format!("{PREFIX}{name}"));
            fs::rename(&draft, &path)?;
            let state_dir = Self { path, _lock: lock };
            remove_orphans(&base, fs::metadata(state_dir.path())?.uid());
            Ok(state_dir)
        };
        create().map_err(|error| (base.clone(), error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn default_base() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|folder| folder.is_dir()).unwrap_or_else(std::env::temp_dir)
}

/// Removes the directories of `user`'s processes that exited without doing so.
fn remove_orphans(base: &Path, user: u32) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        // Directories in use, our own included, are locked.
        if ours
            && let Ok(lock) = File::open(entry.path().join("lock"))
            && lock.try_lock().is_ok()
        {
            remove(&entry.path());
        }
    }
}

/// Removes a directory, including read-only ones inside, which an image may contain.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_ok() {
        return;
    }
    make_writable(path);
    let _ = fs::remove_dir_all(path);
}

fn make_writable(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        // The type of the entry itself: a symlink must not lead out of the directory.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_removed_with_their_process() {
        let base = std::env::temp_dir().join(format!("state-test-{:08x}", rand::random::<u32>()));
        let mine = StateDir::create(Some(&base)).unwrap();
        let dead = base.join(format!("{PREFIX}1-dead"));
        fs::create_dir_all(dead.join("rootfs/sealed")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("rootfs/sealed/file"), "").unwrap();
        let sealed = dead.join("rootfs/sealed");
        fs::set_permissions(sealed, fs::Permissions::from_mode(0o500)).unwrap();
        let other = StateDir::create(Some(&base)).unwrap();
        assert!(mine.path().is_dir() && other.path().is_dir());
        assert!(!dead.exists());
        drop((mine, other));
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::remove_dir(&base).unwrap();
    }

    #[test]
    fn error_names_the_parent() {
        let (parent, _) = StateDir::create(Some(Path::new("/dev/null/x"))).unwrap_err();
        assert_eq!(parent, Path::new("/dev/null/x"));
    }
}
