//! Folders in which a container, or another process of the user, may put symbolic links. Everything is
//! opened relative to a descriptor, component by component, and no link is ever followed: there is no
//! time between a check and the use of what was checked.

use rustix::{
    fs::{
        AtFlags, Dir, Mode, OFlags, fchmod, fchown, fstat, mkdirat, openat, renameat, statat,
        unlinkat,
    },
    io::Errno,
    process::Gid,
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Folders that are nested deeper than this are left out: each level takes a descriptor.
const MAX_DEPTH: usize = 128;

/// An open folder.
pub(crate) struct SafeDir(OwnedFd);

impl SafeDir {
    /// Opens a folder. Only its last component must not be a link: the path above it is the kubelet's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// Opens a folder, and creates it if it does not exist.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// Opens a folder below this one, without following links.
    fn child(&self, name: &Path) -> io::Result<Self> {
        Ok(Self(openat(&self.0, name, DIRECTORY, Mode::empty())?))
    }

    /// Opens a folder below this one, and creates what does not exist of it.
    ///
    /// # Errors
    /// `ENOTDIR` or `ELOOP` where a component is a file or a link, `InvalidInput` for `..`.
    pub(crate) fn create_below(&self, path: &Path) -> io::Result<Self> {
        let mut here = Self(self.0.try_clone()?);
        for component in path.components() {
            let Component::Normal(name) = component else {
                let message = format!("{} must be a relative path without ..", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            };
            match mkdirat(&here.0, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            here = here.child(Path::new(name))?;
        }
        Ok(here)
    }

    /// Gives the folder to a group, which may do what the owner may, and to which files in it will
    /// belong.
    pub(crate) fn give_to(&self, group: u32) -> io::Result<()> {
        fchown(&self.0, None, Some(Gid::from_raw(group)))?;
        let mode = fstat(&self.0)?.st_mode & 0o7777;
        // The group gets the rights of the owner.
        let mode = mode | (mode & 0o700) >> 3 | 0o2000;
        Ok(fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Opens a file for reading.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Creates an empty file in place of anything that has the name.
    pub(crate) fn replace_file(&self, name: &str) -> io::Result<File> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?))
    }

    /// Writes a file atomically, because a container may be reading it. An unchanged file stays.
    /// A group that it is given to may read it, whatever the mode.
    pub(crate) fn write(
        &self,
        name: &str,
        bytes: &[u8],
        mode: u32,
        group: Option<u32>,
    ) -> io::Result<()> {
        let unchanged = self.open_file(name).is_ok_and(|mut file| {
            let mut current = Vec::new();
            let is_file = file.metadata().is_ok_and(|m| m.is_file());
            is_file && io::Read::read_to_end(&mut file, &mut current).is_ok() && current == bytes
        });
        if unchanged {
            return Ok(());
        }
        let draft = format!("{name}..new");
        let mut file = self.replace_file(&draft)?;
        file.write_all(bytes)?;
        if let Some(group) = group {
            fchown(&file, None, Some(Gid::from_raw(group)))?;
        }
        let mode = if group.is_some() { mode | 0o440 } else { mode };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(renameat(&self.0, &draft, &self.0, name)?)
    }

    /// Removes the files whose paths are not among `kept`. Folders stay, because something may be
    /// mounted there.
    pub(crate) fn remove_others(&self, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        self.visit(Path::new(""), &mut |folder, name, path, is_folder| {
            if !is_folder && !kept.contains(path) {
                unlinkat(folder, name, AtFlags::empty())?;
            }
            Ok(())
        })
    }

    /// Returns the size of the folder's files on the disk, in bytes.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        let mut usage = 0;
        self.visit(Path::new(""), &mut |folder, name, _, _| {
            // A file may have been removed meanwhile.
            if let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                usage += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
            Ok(())
        })?;
        Ok(usage)
    }

    /// Calls `each` with every entry: its folder, its name, its path, and whether it is a folder.
    fn visit(
        &self,
        prefix: &Path,
        each: &mut impl FnMut(&OwnedFd, &Path, &Path, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut entries = Dir::read_from(self.0.as_fd())?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            let path = prefix.join(name);
            let depth = path.components().count();
            let child = self.child(name);
            each(&self.0, name, &path, child.is_ok())?;
            // A folder that cannot be opened is left out.
            if let Ok(child) = child
                && depth < MAX_DEPTH
            {
                child.visit(&path, each)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_neither_followed_nor_written_through() {
        let (folder, host) = (Folder::new(), Folder::new());
        fs::write(host.0.join("file"), "stays").unwrap();
        symlink(&host.0, folder.0.join("dir")).unwrap();
        symlink(host.0.join("file"), folder.0.join("file")).unwrap();
        symlink(host.0.join("file"), folder.0.join("new..new")).unwrap();
        let root = SafeDir::open(&folder.0).unwrap();
        assert!(root.create_below(Path::new("dir/sub")).is_err());
        assert!(root.create_below(Path::new("../x")).is_err());
        assert!(root.open_file("file").is_err());
        root.write("file", b"ours", 0o640, None).unwrap();
        root.write("new", b"ours", 0o600, None).unwrap();
        assert!(root.create_below(Path::new("a/b")).is_ok());
        assert_eq!(fs::read_to_string(host.0.join("file")).unwrap(), "stays");
        assert_eq!(fs::read_dir(&host.0).unwrap().count(), 1);
        let file = folder.0.join("file");
        assert!(!file.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        root.remove_others(&BTreeSet::from([PathBuf::from("new")])).unwrap();
        let names = |path: &Path| fs::read_dir(path).unwrap().flatten().map(|e| e.file_name());
        let mut left: Vec<_> = names(&folder.0).collect();
        left.sort();
        assert_eq!(left, ["a", "new"]);
        assert!(SafeDir::open(&folder.0.join("dir")).is_err());
    }

    #[test]
    fn usage_counts_files_at_any_depth_and_no_link_targets() {
        let (folder, host) = (Folder::new(), Folder::new());
        fs::write(host.0.join("large"), vec![1; 1 << 20]).unwrap();
        symlink(&host.0, folder.0.join("link")).unwrap();
        let deep = folder.0.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), vec![1; 100_000]).unwrap();
        let usage = SafeDir::open(&folder.0).unwrap().usage().unwrap();
        assert!((100_000..500_000).contains(&usage), "{usage}");
    }
}
