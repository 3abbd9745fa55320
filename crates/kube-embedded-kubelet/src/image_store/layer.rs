//! Applies a layer of an image to a directory, as a container runtime does.

use crate::root_path::resolve_in_root;
use std::{
    collections::HashSet,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};
use tar::EntryType;

/// Applies the uncompressed tar stream `layer` to `rootfs`.
///
/// # Errors
/// The message names the entry that could not be applied. A path that leads out of the image is an
/// error and not normalized, because an archive that has one is an attack or badly broken.
pub(super) fn apply(layer: impl Read, rootfs: &Path) -> Result<(), String> {
    let mut archive = tar::Archive::new(layer);
    let mut written: HashSet<PathBuf> = HashSet::new();
    let entries = archive.entries().map_err(|e| format!("not a tar archive: {e}"))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| format!("truncated, or not a tar archive: {e}"))?;
        let raw = entry.path().map_err(|e| format!("invalid path: {e}"))?.into_owned();
        let named = |e: io::Error| format!("entry {}: {e}", raw.display());
        let path = relative(&raw)?;
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            continue; // the root directory itself
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = resolve_in_root(rootfs, parent, true).map_err(named)?;
        if name == ".wh..wh..opq" {
            clear(&directory, rootfs, &written).map_err(named)?;
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            if matches!(hidden, "" | "." | "..") {
                return Err(format!("entry {}: a whiteout without a name", raw.display()));
            }
            remove(&directory.join(hidden)).map_err(named)?;
            continue;
        }
        create_directory(&directory).map_err(named)?;
        let target = directory.join(&name);
        create(&mut entry, &target, rootfs).map_err(|e| format!("entry {}: {e}", raw.display()))?;
        if let Ok(relative) = target.strip_prefix(rootfs) {
            written.extend(relative.ancestors().map(Path::to_owned));
        }
    }
    Ok(())
}

fn create(
    entry: &mut tar::Entry<'_, impl Read>,
    target: &Path,
    rootfs: &Path,
) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    let mode = entry.header().mode().map_err(text)?;
    let kind = entry.header().entry_type();
    let existing = fs::symlink_metadata(target).ok();
    if kind == EntryType::Directory {
        if !existing.as_ref().is_some_and(|m| m.is_dir()) {
            remove(target).map_err(text)?;
            fs::create_dir(target).map_err(text)?;
        }
        // The owner has to be able to fill, and later to remove, every directory.
        return fs::set_permissions(target, fs::Permissions::from_mode(mode & 0o1777 | 0o700))
            .map_err(text);
    }
    let link = entry.link_name().map_err(text)?.map(|l| l.into_owned());
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            remove(target).map_err(text)?;
            let mut file = fs::File::create_new(target).map_err(text)?;
            io::copy(entry, &mut file).map_err(text)?;
            // No set-user-ID bit: in a sandbox there is one user, and on the host it would be a
            // privilege escalation.
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777 | 0o400)).map_err(text)
        }
        EntryType::Symlink => {
            let link = link.ok_or("a symbolic link without a target")?;
            remove(target).map_err(text)?;
            std::os::unix::fs::symlink(link, target).map_err(text)
        }
        EntryType::Link => {
            let link = relative(&link.ok_or("a hard link without a target")?)?;
            let source = resolve_in_root(rootfs, &link, false).map_err(text)?;
            if source == target {
                return Ok(());
            }
            remove(target).map_err(text)?;
            fs::hard_link(&source, target)
                .map_err(|e| format!("hard link to {}: {e}", link.display()))
        }
        // Devices and pipes are skipped: an ordinary user cannot create the former, and a sandbox has
        // its own.
        _ => Ok(()),
    }
}

/// Returns the path relative to the root of the image.
fn relative(path: &Path) -> Result<PathBuf, String> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                return Err(format!("entry {} points out of the image", path.display()));
            }
            _ => {}
        }
    }
    Ok(clean)
}

fn create_directory(directory: &Path) -> io::Result<()> {
    if fs::symlink_metadata(directory).is_ok_and(|m| !m.is_dir()) {
        remove(directory)?;
    }
    fs::create_dir_all(directory)
}

/// Removes what earlier layers have put into a directory (an opaque whiteout).
fn clear(directory: &Path, rootfs: &Path, keep: &HashSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        let kept = path.strip_prefix(rootfs).is_ok_and(|relative| keep.contains(relative));
        if !kept {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
