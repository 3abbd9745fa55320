//! Access to the entries of an archive by path and by descriptor. [`images`](crate::Archive::images)
//! builds on this.

use crate::{
    Descriptor, Digest, DockerManifest, Error, Index, Manifest, Result, digest::HashingReader,
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};
use tar::EntryType;

/// Manifests, indexes and configurations are kilobytes. Whatever claims otherwise is not loaded.
const MAX_DOCUMENT: u64 = 8 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Makes the names of temporary files unique in this process.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

/// An image archive that is being read: an OCI image layout, what `docker save` writes, or both in
/// one tar file.
///
/// Content stays where it is until it is asked for, and is checked against its digest and size
/// before it is returned.
///
/// ```
/// # fn main() -> Result<(), oci_archive::Error> {
/// use oci_archive::{Archive, ImageBuilder, ImageConfig, Platform};
/// use std::io::Cursor;
///
/// let mut tar = Vec::new();
/// let image = ImageBuilder::new("tool:1.0", Platform::host(), ImageConfig::default())?;
/// let digest = image.write(&mut tar)?;
///
/// let mut archive = Archive::new(Cursor::new(tar))?;
/// let index = archive.index()?;
/// assert_eq!(index.manifests[0].digest, digest);
/// let manifest = archive.manifest(&index.manifests[0])?;
/// assert!(manifest.layers.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Archive<R> {
    source: R,
    /// Regular files by path.
    entries: HashMap<String, Span>,
}

/// The place of an entry's content in the file.
#[derive(Clone, Copy, Debug)]
struct Span {
    offset: u64,
    size: u64,
}

/// A file of the archive and what is known about its content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blob {
    pub(crate) path: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
}

impl From<&Descriptor> for Blob {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            path: descriptor.digest.blob_path(),
            digest: Some(descriptor.digest),
            size: Some(descriptor.size),
        }
    }
}

impl Archive<File> {
    /// Opens the archive at `path`, which may be compressed with gzip as a whole. It is decompressed
    /// into a temporary file in the folder `scratch` then.
    ///
    /// # Errors
    /// Those of [`Archive::new`], and when the file cannot be opened or decompressed.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let read = |cause| Error::read("the archive", cause);
        let mut file = File::open(path).map_err(read)?;
        let mut magic = [0; GZIP_MAGIC.len()];
        let compressed = file.read_exact(&mut magic).is_ok() && is_gzip(&magic);
        if compressed {
            file.rewind().map_err(read)?;
            let mut plain = temporary(scratch)?;
            let mut decoder = flate2::read::MultiGzDecoder::new(BufReader::new(file));
            io::copy(&mut decoder, &mut plain).map_err(Error::Gzip)?;
            file = plain;
        }
        Self::new(file)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Lists the entries of an uncompressed archive.
    ///
    /// # Errors
    /// When it cannot be read, is no tar archive, or is truncated.
    pub fn new(mut source: R) -> Result<Self> {
        let read = |cause| Error::read("the archive", cause);
        let length = source.seek(SeekFrom::End(0)).map_err(read)?;
        source.rewind().map_err(read)?;
        let mut entries = HashMap::new();
        let mut tar = tar::Archive::new(&mut source);
        for entry in tar.entries_with_seek().map_err(Error::NotTar)? {
            let entry = entry.map_err(Error::NotTar)?;
            let path = entry.path().map_err(Error::NotTar)?.to_string_lossy().into_owned();
            let span = Span { offset: entry.raw_file_position(), size: entry.size() };
            if span.offset.saturating_add(span.size) > length {
                return Err(Error::Truncated { entry: path });
            }
            if entry.header().entry_type() == EntryType::Regular {
                entries.insert(path.trim_start_matches("./").to_owned(), span);
            }
        }
        Ok(Self { source, entries })
    }

    /// Reads `index.json`, the root of an OCI image layout.
    ///
    /// # Errors
    /// When the archive has none, or a malformed one.
    pub fn index(&mut self) -> Result<Index> {
        self.json("index.json")
    }

    /// Reads `manifest.json`, the root of what `docker save` writes.
    ///
    /// # Errors
    /// When the archive has none, or a malformed one.
    pub fn docker_manifests(&mut self) -> Result<Vec<DockerManifest>> {
        self.json("manifest.json")
    }

    /// Reads the manifest that an index refers to.
    ///
    /// # Errors
    /// Those of [`Archive::document`], and when it is malformed.
    pub fn manifest(&mut self, descriptor: &Descriptor) -> Result<Manifest> {
        let raw = self.document(descriptor)?;
        serde_json::from_slice(&raw)
            .map_err(|cause| Error::malformed(&descriptor.digest.blob_path(), cause))
    }

    /// Reads a small blob as a whole: a manifest, an index or a configuration.
    ///
    /// # Errors
    /// Those of [`Archive::blob`], and when it is larger than 8 MiB.
    pub fn document(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.read_document(&descriptor.into())
    }

    /// Opens a blob whose content was checked: its size and digest are those of the descriptor.
    ///
    /// # Errors
    /// When it is missing, damaged or cannot be read.
    pub fn blob(&mut self, descriptor: &Descriptor) -> Result<impl Read> {
        let blob = descriptor.into();
        self.verify(&blob)?;
        self.entry(&blob.path)
    }

    /// Returns the digest of a file by its path in the archive.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub fn digest(&mut self, path: &str) -> Result<Digest> {
        Digest::of_reader(self.entry(path)?).map_err(|cause| Error::read(path, cause))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Returns the length of a file in bytes.
    pub(crate) fn size(&self, path: &str) -> Result<u64> {
        self.span(path).map(|span| span.size)
    }

    /// Opens a file without checking its content.
    pub(crate) fn entry(&mut self, path: &str) -> Result<io::Take<&mut R>> {
        let span = self.span(path)?;
        self.source.seek(SeekFrom::Start(span.offset)).map_err(|cause| Error::read(path, cause))?;
        Ok((&mut self.source).take(span.size))
    }

    /// Checks the content of a blob against what is known about it.
    pub(crate) fn verify(&mut self, blob: &Blob) -> Result<()> {
        self.verify_size(blob)?;
        match blob.digest {
            Some(expected) => Error::check_digest(&blob.path, self.digest(&blob.path)?, expected),
            None => Ok(()),
        }
    }

    pub(crate) fn read_document(&mut self, blob: &Blob) -> Result<Vec<u8>> {
        self.verify_size(blob)?;
        let size = self.size(&blob.path)?;
        if size > MAX_DOCUMENT {
            return Err(Error::TooLarge { entry: blob.path.clone(), size, limit: MAX_DOCUMENT });
        }
        let mut raw = Vec::new();
        self.entry(&blob.path)?
            .read_to_end(&mut raw)
            .map_err(|cause| Error::read(&blob.path, cause))?;
        if let Some(expected) = blob.digest {
            Error::check_digest(&blob.path, Digest::of(&raw), expected)?;
        }
        Ok(raw)
    }

    fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let raw = self.read_document(&Blob { path: path.to_owned(), digest: None, size: None })?;
        serde_json::from_slice(&raw).map_err(|cause| Error::malformed(path, cause))
    }

    fn verify_size(&self, blob: &Blob) -> Result<()> {
        let actual = self.size(&blob.path)?;
        match blob.size {
            Some(expected) if actual != expected => {
                Err(Error::WrongSize { entry: blob.path.clone(), actual, expected })
            }
            _ => Ok(()),
        }
    }

    fn span(&self, path: &str) -> Result<Span> {
        let span = self.entries.get(path).copied();
        span.ok_or_else(|| Error::Missing { entry: path.to_owned() })
    }
}

/// Creates a file without a name, which the operating system removes with its last handle: nothing
/// is left behind when the process is killed.
fn temporary(folder: &Path) -> Result<File> {
    let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".decompressing-{}-{number}", std::process::id()));
    let create = || {
        let file = File::create_new(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    };
    create().map_err(|cause| Error::write(&path.display().to_string(), cause))
}

/// A layer's uncompressed tar stream, from [`Archive::layer`](crate::Archive::layer).
pub struct LayerReader<'a> {
    stream: HashingReader<Box<dyn Read + 'a>>,
    path: String,
    diff_id: Digest,
}

impl<'a> LayerReader<'a> {
    pub(crate) fn new(stream: impl Read + 'a, gzip: bool, path: String, diff_id: Digest) -> Self {
        let buffered = BufReader::with_capacity(64 << 10, stream);
        let stream: Box<dyn Read + 'a> = if gzip {
            Box::new(flate2::read::MultiGzDecoder::new(buffered))
        } else {
            Box::new(buffered)
        };
        Self { stream: HashingReader::new(stream), path, diff_id }
    }

    /// Reads the rest of the layer and checks the whole against the digest in the configuration. A
    /// tar archive ends before its stream does, and the padding counts.
    ///
    /// # Errors
    /// When the rest cannot be read, or the content is another.
    pub fn finish(mut self) -> Result<()> {
        io::copy(&mut self.stream, &mut io::sink())
            .map_err(|cause| Error::read(&self.path, cause))?;
        Error::check_digest(&self.path, self.stream.digest(), self.diff_id)
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }
}

/// Reports whether the first bytes of a file are those of a gzip stream.
pub(crate) fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&GZIP_MAGIC)
}

#[cfg(test)]
mod tests;
