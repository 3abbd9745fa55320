//! Unpacks the images of an archive into root file systems, as containerd's snapshotter does.

use super::{image::Image, layer};
use oci_archive::{Archive, Platform};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// Unpacks all images of an archive below `state`.
pub(super) fn load(file: &Path, state: &Path) -> Result<Vec<Image>, String> {
    let mut archive = Archive::open(file, state).map_err(|e| e.to_string())?;
    let images = archive.images(&Platform::host()).map_err(|e| e.to_string())?;
    if images.iter().any(|image| image.names.is_empty()) {
        return Err(
            "it contains an image without a name; save it by name, as in `docker save kubeapp:1.0`"
                .to_owned(),
        );
    }
    images.into_iter().map(|image| unpack(&mut archive, image, state)).collect()
}

fn unpack(
    archive: &mut Archive<File>,
    image: oci_archive::Image,
    state: &Path,
) -> Result<Image, String> {
    let rootfs = state.join(image.id.hex());
    if !rootfs.exists() {
        // Unpacked under another name and renamed: a directory of this name is always complete.
        let work = TemporaryDirectory::create(state)?;
        for layer in &image.layers {
            let mut reader = archive.layer(layer).map_err(|e| e.to_string())?;
            layer::apply(&mut reader, &work.0)
                .map_err(|e| format!("layer {}: {e}", layer.path()))?;
            reader.finish().map_err(|e| e.to_string())?;
        }
        match fs::rename(&work.0, &rootfs) {
            Err(e) if !rootfs.exists() => {
                return Err(format!("failed to create {}: {e}", rootfs.display()));
            }
            _ => {}
        }
    }
    Ok(Image {
        names: image.names,
        id: image.id.to_string(),
        rootfs,
        config: image.config.config,
        size: image.layers.iter().map(|layer| layer.size).sum(),
    })
}

/// A directory that is removed when this is dropped.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn create(state: &Path) -> Result<Self, String> {
        let n = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let path = state.join(format!(".unpacking-{}-{n}", std::process::id()));
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(e) => Err(format!("failed to create {}: {e}", path.display())),
        }
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
