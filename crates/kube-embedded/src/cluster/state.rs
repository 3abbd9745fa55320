//! The private folder of a cluster. It goes with the cluster; what a killed process left behind
//! goes with the next cluster that starts beside it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

const PREFIX: &str = "kube-embedded-";
/// Not seen by those who clear up, until its lock is held.
const DRAFT: &str = ".kube-embedded-";

/// A folder that only this process uses.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// Held as long as the process lives: how others know.
    _lock: File,
}

impl State {
    /// Makes a folder below `base`, or where such things belong. The error names where it was tried.
    pub(super) fn create(base: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let base = base.map_or_else(default_base, Path::to_owned);
        let create = || {
            fs::create_dir_all(&base)?;
            clear_up(&base);
            let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
            let draft = base.join(format!("{DRAFT}{name}"));
            fs::DirBuilder::new().mode(0o700).create(&draft)?;
            let lock = File::create(draft.join("lock"))?;
            if !lock_now(&lock) {
                return Err(io::Error::other("cannot lock a new file"));
            }
            let folder = base.join(format!("{PREFIX}{name}"));
            fs::rename(&draft, &folder)?;
            Ok(Self { folder, _lock: lock })
        };
        create().map_err(|error| (base.clone(), error))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for State {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn default_base() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|folder| folder.is_dir()).unwrap_or_else(std::env::temp_dir)
}

/// Removes folders of ours whose processes are gone.
fn clear_up(base: &Path) {
    // SAFETY: `geteuid` only reads a number of this process.
    let me = unsafe { libc::geteuid() };
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == me);
        if !ours {
            continue;
        }
        if let Ok(lock) = File::open(entry.path().join("lock"))
            && lock_now(&lock)
        {
            remove(&entry.path());
        }
    }
}

fn lock_now(file: &File) -> bool {
    // SAFETY: the descriptor is open as long as `file` lives.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Removes a folder, also one with folders inside that an image made read-only.
fn remove(folder: &Path) {
    if fs::remove_dir_all(folder).is_ok() {
        return;
    }
    open_up(folder);
    let _ = fs::remove_dir_all(folder);
}

fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Of the entry itself: a link is not followed out of the folder.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_process_and_only_then() {
        let base = std::env::temp_dir().join(format!("state-test-{:08x}", rand::random::<u32>()));
        let mine = State::create(Some(&base)).unwrap();
        let dead = base.join(format!("{PREFIX}1-dead"));
        fs::create_dir_all(dead.join("rootfs/sealed")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("rootfs/sealed/file"), "").unwrap();
        let sealed = dead.join("rootfs/sealed");
        fs::set_permissions(sealed, fs::Permissions::from_mode(0o500)).unwrap();
        let other = State::create(Some(&base)).unwrap();
        assert!(mine.folder().is_dir() && other.folder().is_dir());
        assert!(!dead.exists());
        drop((mine, other));
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::remove_dir(&base).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let (folder, _) = State::create(Some(Path::new("/dev/null/x"))).unwrap_err();
        assert_eq!(folder, Path::new("/dev/null/x"));
    }
}
