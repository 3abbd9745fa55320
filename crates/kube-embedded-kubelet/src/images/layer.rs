//! One layer of an image, applied to a folder the way a container runtime does it.

use super::root;
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
/// Names the entry at which it stopped; paths that point out of the image are refused rather than
/// cut down, because an archive that has one is an attack or badly broken.
pub(super) fn apply(layer: impl Read, rootfs: &Path) -> Result<(), String> {
    let mut archive = tar::Archive::new(layer);
    let mut written: HashSet<PathBuf> = HashSet::new();
    let entries = archive.entries().map_err(|e| format!("is no tar archive: {e}"))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| format!("is cut off or no tar archive: {e}"))?;
        let raw =
            entry.path().map_err(|e| format!("has a name that is no path: {e}"))?.into_owned();
        let named = |e: io::Error| format!("entry {}: {e}", raw.display());
        let path = inside(&raw)?;
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            continue; // the root folder itself
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = root::resolve(rootfs, parent, true).map_err(named)?;
        if name == ".wh..wh..opq" {
            clear(&folder, rootfs, &written).map_err(named)?;
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            if matches!(gone, "" | "." | "..") {
                return Err(format!("entry {}: a whiteout of nothing", raw.display()));
            }
            remove(&folder.join(gone)).map_err(named)?;
            continue;
        }
        make_folder(&folder).map_err(named)?;
        let target = folder.join(&name);
        place(&mut entry, &target, rootfs).map_err(|e| format!("entry {}: {e}", raw.display()))?;
        if let Ok(relative) = target.strip_prefix(rootfs) {
            written.extend(relative.ancestors().map(Path::to_owned));
        }
    }
    Ok(())
}

fn place(
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
        // The owner has to be able to fill, and later to remove, every folder.
        return fs::set_permissions(target, fs::Permissions::from_mode(mode & 0o1777 | 0o700))
            .map_err(text);
    }
    let link = entry.link_name().map_err(text)?.map(|l| l.into_owned());
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            remove(target).map_err(text)?;
            let mut file = fs::File::create_new(target).map_err(text)?;
            io::copy(entry, &mut file).map_err(text)?;
            // No set-user-id: inside a sandbox there is one user, outside it would be a hole.
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777 | 0o400)).map_err(text)
        }
        EntryType::Symlink => {
            let link = link.ok_or("a symbolic link to nothing")?;
            remove(target).map_err(text)?;
            std::os::unix::fs::symlink(link, target).map_err(text)
        }
        EntryType::Link => {
            let link = inside(&link.ok_or("a hard link to nothing")?)?;
            let source = root::resolve(rootfs, &link, false).map_err(text)?;
            if source == target {
                return Ok(());
            }
            remove(target).map_err(text)?;
            fs::hard_link(&source, target)
                .map_err(|e| format!("hard link to {}: {e}", link.display()))
        }
        // Devices and pipes: an ordinary user cannot make the former, and a sandbox brings its own.
        _ => Ok(()),
    }
}

/// The path relative to the root of the image.
fn inside(path: &Path) -> Result<PathBuf, String> {
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

fn make_folder(folder: &Path) -> io::Result<()> {
    if fs::symlink_metadata(folder).is_ok_and(|m| !m.is_dir()) {
        remove(folder)?;
    }
    fs::create_dir_all(folder)
}

/// Empties a folder of what earlier layers put there.
fn clear(folder: &Path, rootfs: &Path, keep: &HashSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
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
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
