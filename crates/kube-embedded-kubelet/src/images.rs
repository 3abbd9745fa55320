//! Container images: archives unpacked into root file systems that pods share.
//!
//! There is no registry. What `docker save`, `buildah push oci-archive:` or `cargo xtask images`
//! write is read from disk, and every digest in it is checked before anything is run.

mod archive;
mod layer;
mod root;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use oci_archive::host_architecture as architecture;
pub use oci_archive::{ImageConfig, normalize_name as normalise};
pub(crate) use root::resolve as resolve_in_root;

use oci_archive::familiar_name;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

/// An image that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The names it was loaded under, in full: `docker.io/library/kubeapp:1.0`.
    pub names: Vec<String>,
    /// Digest of the image configuration, `sha256:…`; the image ID of Kubernetes.
    pub id: String,
    /// The unpacked root file system. Shared by all pods, so nothing may write to it.
    pub rootfs: PathBuf,
    /// What the image says about how it wants to be run.
    pub config: ImageConfig,
    /// Bytes of the layers as they are in the archive.
    pub size: u64,
}

/// Why an archive could not be loaded. Always names the file.
#[derive(Debug, thiserror::Error)]
#[error("cannot load images from {}: {what}", file.display())]
pub struct ImageError {
    /// The archive or folder.
    pub file: PathBuf,
    /// What is wrong with it, and what to do.
    pub what: String,
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
    folders: Vec<PathBuf>,
    /// Archives of the folders as they were when last looked at, so that a second look is cheap.
    seen: HashMap<PathBuf, (SystemTime, u64)>,
    /// What was wrong with archives of the folders when last looked at.
    broken: BTreeMap<PathBuf, String>,
}

impl ImageStore {
    /// An empty store that unpacks below `state`. The folder is made when it is first needed.
    pub fn new(state: PathBuf) -> Self {
        Self { state, inner: Mutex::default() }
    }

    /// Loads every image of an archive (OCI layout or docker-archive, gzip or plain), and returns
    /// their names. A name that was loaded before now means the new image.
    ///
    /// # Errors
    /// When the file cannot be read, is no image archive, or does not have the content that its
    /// own digests promise. Nothing of such an archive is kept.
    pub fn add_archive(&self, file: &Path) -> Result<Vec<String>, ImageError> {
        let failed = |what: String| ImageError { file: file.to_owned(), what };
        fs::create_dir_all(&self.state)
            .map_err(|e| failed(format!("cannot make {}: {e}", self.state.display())))?;
        let images = archive::load(file, &self.state).map_err(failed)?;
        let mut names = Vec::new();
        let mut inner = self.lock();
        for image in images {
            let image = Arc::new(image);
            for name in &image.names {
                inner.images.insert(name.clone(), image.clone());
                names.push(name.clone());
            }
        }
        Ok(names)
    }

    /// Loads every `*.tar`, `*.tar.gz` and `*.tgz` of a folder, and remembers the folder: it is
    /// looked at again when an image is not found. An archive that is broken is left out, and
    /// named when one of its images is missed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn add_folder(&self, folder: &Path) -> Result<Vec<String>, ImageError> {
        let names = self.scan(folder)?;
        let mut inner = self.lock();
        if !inner.folders.iter().any(|f| f == folder) {
            inner.folders.push(folder.to_owned());
        }
        Ok(names)
    }

    /// The image of a name as a pod writes it, `kubeapp:1.0`. Blocks for as long as unpacking
    /// takes when an archive was put into one of the folders since.
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        let name = normalise(name);
        if let Some(found) = self.lookup(&name) {
            return Some(found);
        }
        let folders = self.lock().folders.clone();
        for folder in folders {
            // A folder that is gone has no image, which is what the caller learns.
            let _ = self.scan(&folder);
        }
        self.lookup(&name)
    }

    /// All images, each once.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let inner = self.lock();
        let mut images: Vec<Arc<Image>> = inner.images.values().cloned().collect();
        images.sort_by(|a, b| a.id.cmp(&b.id).then(a.names.cmp(&b.names)));
        images.dedup_by(|a, b| Arc::ptr_eq(a, b));
        images
    }

    /// Why an image is not there and how to load it, for the message of a pod that waits for it.
    pub fn explain_missing(&self, name: &str) -> String {
        let inner = self.lock();
        let loaded: Vec<&str> = inner.images.keys().map(|n| familiar_name(n)).collect();
        let loaded = match loaded.len() {
            0 => "no image is loaded".to_owned(),
            _ => format!("loaded are {}", loaded.join(", ")),
        };
        let folders: Vec<String> = inner.folders.iter().map(|f| f.display().to_string()).collect();
        let how = match folders.len() {
            0 => "start the cluster with --images ARCHIVE".to_owned(),
            _ => format!("put an archive of it (`docker save`) into {}", folders.join(" or ")),
        };
        let broken: String = inner
            .broken
            .iter()
            .map(|(f, e)| format!("; {} is unusable: {e}", f.display()))
            .collect();
        format!(
            "image {name:?} is not loaded and this cluster pulls from no registry: {loaded}; {how}{broken}"
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

    fn scan(&self, folder: &Path) -> Result<Vec<String>, ImageError> {
        let failed = |e: io::Error| ImageError { file: folder.to_owned(), what: e.to_string() };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
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
            if self.lock().seen.get(&file) == Some(&stamp) {
                continue;
            }
            let loaded = self.add_archive(&file);
            let mut inner = self.lock();
            inner.seen.insert(file.clone(), stamp);
            match loaded {
                Ok(found) => {
                    inner.broken.remove(&file);
                    names.extend(found);
                }
                Err(e) => {
                    inner.broken.insert(file, e.what);
                }
            }
        }
        Ok(names)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}
