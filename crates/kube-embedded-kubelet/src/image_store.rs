//! The image store: image archives, unpacked into root file systems that pods share.
//!
//! There is no registry. Archives that `docker save`, `buildah push oci-archive:` or `cargo xtask
//! images` have written are read from disk, and every digest in them is verified before anything runs.

mod image;
mod layer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unpack;

pub use image::Image;

use oci_archive::{familiar_name, normalize_name};
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

/// The reason why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("failed to load images from {}: {cause}", file.display())]
pub struct ImageError {
    /// The archive or directory.
    pub file: PathBuf,
    /// The problem, and a hint.
    pub cause: String,
}

/// The images of a cluster.
#[derive(Debug)]
pub struct ImageStore {
    state: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    images: BTreeMap<String, Arc<Image>>,
    directories: Vec<PathBuf>,
    /// The modification time and size of the archives in the directories when they were scanned last,
    /// so that an unchanged archive is not read again.
    scanned: HashMap<PathBuf, (SystemTime, u64)>,
    /// The errors of archives in the directories that could not be loaded.
    broken: BTreeMap<PathBuf, String>,
}

impl ImageStore {
    /// Creates an empty store that unpacks below `state`, a directory that is created when needed.
    pub fn new(state: PathBuf) -> Self {
        Self { state, inner: Mutex::default() }
    }

    /// Loads every image of an archive (OCI image layout or docker-archive, gzip or plain), and
    /// returns their names. A name that was loaded before refers to the new image from then on.
    ///
    /// # Errors
    /// When the file cannot be read, is no image archive, or its content does not match its digests.
    /// Nothing of such an archive is kept.
    pub fn add_archive(&self, file: &Path) -> Result<Vec<String>, ImageError> {
        let failed = |cause: String| ImageError { file: file.to_owned(), cause };
        fs::create_dir_all(&self.state)
            .map_err(|e| failed(format!("failed to create {}: {e}", self.state.display())))?;
        let images = unpack::load(file, &self.state).map_err(failed)?;
        let mut names = Vec::new();
        let mut inner = self.lock();
        for image in images {
            let image = Arc::new(image);
            for name in &image.names {
                inner.images.insert(name.clone(), image.clone());
                names.push(name.clone());
            }
            tracing::debug!(names = ?image.names, id = image.id, "image loaded");
        }
        Ok(names)
    }

    /// Loads every `*.tar`, `*.tar.gz` and `*.tgz` of a directory. The directory is scanned again
    /// whenever an image is not found. A broken archive is skipped, and named in the message of a pod
    /// whose image is missing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn add_directory(&self, directory: &Path) -> Result<Vec<String>, ImageError> {
        let names = self.scan(directory)?;
        let mut inner = self.lock();
        if !inner.directories.iter().any(|d| d == directory) {
            inner.directories.push(directory.to_owned());
        }
        Ok(names)
    }

    /// Returns the image of a name as in a pod, such as `kubeapp:1.0`. Blocks while new archives in
    /// the directories are unpacked.
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        let name = normalize_name(name);
        if let Some(found) = self.lookup(&name) {
            return Some(found);
        }
        let directories = self.lock().directories.clone();
        for directory in directories {
            // Without the directory the image is missing, which is what the caller learns.
            if let Err(error) = self.scan(&directory) {
                tracing::warn!(%error, "failed to scan a directory of images");
            }
        }
        self.lookup(&name)
    }

    /// Returns all images, each once.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let inner = self.lock();
        let mut images: Vec<Arc<Image>> = inner.images.values().cloned().collect();
        images.sort_by(|a, b| a.id.cmp(&b.id).then(a.names.cmp(&b.names)));
        images.dedup_by(|a, b| Arc::ptr_eq(a, b));
        images
    }

    /// Explains why an image is missing and how to load it, for the status of a pod that waits for it.
    pub fn explain_missing(&self, name: &str) -> String {
        let inner = self.lock();
        let loaded: Vec<&str> = inner.images.keys().map(|n| familiar_name(n)).collect();
        let loaded = match loaded.len() {
            0 => "no image is loaded".to_owned(),
            _ => format!("loaded are {}", loaded.join(", ")),
        };
        let directories: Vec<String> =
            inner.directories.iter().map(|d| d.display().to_string()).collect();
        let hint = match directories.len() {
            0 => "start the cluster with --images ARCHIVE".to_owned(),
            _ => format!("put an archive of it (`docker save`) into {}", directories.join(" or ")),
        };
        let broken: String = inner
            .broken
            .iter()
            .map(|(f, e)| format!("; {} is unusable: {e}", f.display()))
            .collect();
        format!(
            "image {name:?} is not loaded and this cluster pulls from no registry: {loaded}; {hint}{broken}"
        )
    }

    fn lookup(&self, name: &str) -> Option<Arc<Image>> {
        let inner = self.lock();
        inner.images.get(name).cloned().or_else(|| {
            inner
                .images
                .values()
                .find(|i| i.id == name || i.id.strip_prefix("sha256:") == Some(name))
                .cloned()
        })
    }

    /// Loads the archives of a directory that are new or have changed since the last scan.
    fn scan(&self, directory: &Path) -> Result<Vec<String>, ImageError> {
        let failed = |e: io::Error| ImageError { file: directory.to_owned(), cause: e.to_string() };
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) {
                files.push(path);
            }
        }
        files.sort();
        let mut names = Vec::new();
        for file in files {
            let Ok(meta) = fs::metadata(&file) else { continue };
            let stamp = (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len());
            if self.lock().scanned.get(&file) == Some(&stamp) {
                continue;
            }
            let loaded = self.add_archive(&file);
            let mut inner = self.lock();
            inner.scanned.insert(file.clone(), stamp);
            match loaded {
                Ok(found) => {
                    inner.broken.remove(&file);
                    names.extend(found);
                }
                Err(error) => {
                    tracing::warn!(%error, "skipping a broken image archive");
                    inner.broken.insert(file, error.cause);
                }
            }
        }
        Ok(names)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}
