//! `hostPath` volumes: folders and files of the host, below the folders that the cluster allows.

use crate::safe_dir::SafeDir;
use k8s_openapi::api::core::v1::HostPathVolumeSource;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// The attempts to resolve a path with `..` in a link while folders are being renamed.
const ATTEMPTS: u32 = 32;

/// Checks and, where its type says so, creates a path of the host. Returns an allowed folder and the
/// path below it.
///
/// # Errors
/// The message of the kubelet where the path is not of the type, or the reason why it is not allowed.
pub(crate) fn prepare(
    source: &HostPathVolumeSource,
    allowed: &[PathBuf],
) -> Result<(PathBuf, PathBuf), String> {
    let path = Path::new(&source.path);
    let below = |root: &PathBuf| path.strip_prefix(root).ok().map(Path::to_owned);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    let found = allowed.iter().filter_map(|root| Some((root.clone(), below(root)?)));
    let found = found.min_by_key(|(_, below)| below.components().count());
    let Some((root, below)) = found.filter(|_| !climbs) else {
        return Err(format!(
            "hostPath {:?} is not in a folder that the cluster allows",
            source.path
        ));
    };
    let kind = source.type_.as_deref().unwrap_or_default();
    let mut status = open_below(&root, &below).and_then(|fd| Ok(fstat(&fd)?));
    if let (Err(error), "" | "DirectoryOrCreate" | "FileOrCreate") = (&status, kind)
        && error.kind() == io::ErrorKind::NotFound
    {
        create(&root, &below, kind == "FileOrCreate").map_err(|e| e.to_string())?;
        status = open_below(&root, &below).and_then(|fd| Ok(fstat(&fd)?));
    }
    let found = match status {
        Ok(status) => FileType::from_raw_mode(status.st_mode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("hostPath type check failed: {} is not {}", source.path, a(kind)));
        }
        Err(error) => return Err(format!("hostPath {:?}: {error}", source.path)),
    };
    let expected = match kind {
        "Directory" | "DirectoryOrCreate" => FileType::Directory,
        "File" | "FileOrCreate" => FileType::RegularFile,
        "Socket" => FileType::Socket,
        "CharDevice" => FileType::CharacterDevice,
        "BlockDevice" => FileType::BlockDevice,
        _ => found,
    };
    if found != expected {
        return Err(format!("hostPath type check failed: {} is not {}", source.path, a(kind)));
    }
    Ok((root, below))
}

/// The type in the words of the kubelet's message.
fn a(kind: &str) -> &'static str {
    match kind {
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        _ => "a directory",
    }
}

fn create(root: &Path, below: &Path, file: bool) -> io::Result<()> {
    let root = SafeDir::open(root)?;
    match (file, below.parent(), below.file_name().and_then(|name| name.to_str())) {
        (true, Some(parent), Some(name)) => root.create_below(parent)?.replace_file(name).map(drop),
        _ => root.create_below(below).map(drop),
    }
}

/// Opens a path below a folder, only to refer to it. Links are followed as long as they stay below the
/// folder.
///
/// # Errors
/// `EXDEV` if it leads out of the folder.
pub(crate) fn open_below(root: &Path, below: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let is_root = root == Path::new("/");
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    if below.as_os_str().is_empty() {
        return Ok(root);
    }
    // An absolute link leads out of every folder but this one.
    let scope = if is_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
    let resolve = scope | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match openat2(&root, below, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn host_path_is_of_its_type_and_in_an_allowed_folder() {
        let (folder, other) = (Folder::new(), Folder::new());
        let at = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("dir")).unwrap();
        symlink("dir", at("inside")).unwrap();
        symlink(&other.0, at("outside")).unwrap();
        let prepared = |path: String, kind: &str| {
            let source = HostPathVolumeSource { path, type_: Some(kind.to_owned()) };
            prepare(&source, std::slice::from_ref(&folder.0))
                .map(|(_, below)| below.display().to_string())
        };
        for (name, kind, expected) in [
            ("dir", "Directory", Ok("dir")),
            ("inside", "Directory", Ok("inside")),
            ("file", "File", Ok("file")),
            ("file", "", Ok("file")),
            ("new/dir", "DirectoryOrCreate", Ok("new/dir")),
            ("new/file", "FileOrCreate", Ok("new/file")),
            ("unset", "", Ok("unset")),
            ("file", "Directory", Err("is not a directory")),
            ("dir", "FileOrCreate", Err("is not a file")),
            ("none", "Directory", Err("is not a directory")),
            ("dir", "Socket", Err("is not a socket file")),
            ("outside", "Directory", Err("Invalid cross-device link")),
            ("outside/new", "DirectoryOrCreate", Err("Invalid cross-device link")),
            ("../x", "", Err("is not in a folder that the cluster allows")),
        ] {
            match (prepared(at(name), kind), expected) {
                (Ok(below), Ok(expected)) => {
                    assert_eq!(below, expected);
                    assert!(folder.0.join(below).exists());
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
                (other, _) => panic!("{name} {kind}: {other:?}"),
            }
        }
        assert!(prepared("/etc".to_owned(), "").is_err());
        assert!(!other.0.join("new").exists());
    }
}
