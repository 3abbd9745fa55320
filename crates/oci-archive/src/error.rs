//! Reasons why an archive cannot be read or written.

use crate::{Digest, Platform};
use std::io;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why an archive cannot be read or written. The file is for the caller to name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file, or an entry of it, cannot be read.
    #[error("failed to read {entry}: {cause}")]
    Read {
        /// Path of the entry, or `the archive`.
        entry: String,
        /// The operating system's or the decompressor's error.
        cause: io::Error,
    },
    /// The whole archive is compressed, and cannot be decompressed.
    #[error("failed to decompress the archive: {0}")]
    Gzip(io::Error),
    /// The file is no tar archive, or ends in the middle of a header.
    #[error("not a tar archive, or truncated: {0}")]
    NotTar(io::Error),
    /// The file ends in the middle of an entry.
    #[error("truncated archive: {entry} extends past the end of the file")]
    Truncated {
        /// Path of the entry.
        entry: String,
    },
    /// A tar archive of something else.
    #[error(
        "not an image archive: it has neither index.json nor manifest.json; `docker save` writes one"
    )]
    NotImageArchive,
    /// No image of the archive is built for the platform.
    #[error("no image for {0} in the archive")]
    NoImage(Platform),
    /// The index has an image for the platform, whose configuration names another one.
    #[error("image {image} is built for {actual}, not for {expected}")]
    WrongPlatform {
        /// Names of the image.
        image: String,
        /// The platform of the image's configuration.
        actual: Platform,
        /// The platform that was asked for.
        expected: Platform,
    },
    /// An entry that another one refers to is not in the archive.
    #[error("{entry} is missing, though the archive refers to it")]
    Missing {
        /// Path of the entry.
        entry: String,
    },
    /// A document is larger than any manifest or configuration.
    #[error("{entry} has {size} bytes, more than the {limit} allowed for a JSON document")]
    TooLarge {
        /// Path of the entry.
        entry: String,
        /// Its length in bytes.
        size: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// A document is not the JSON that it has to be.
    #[error("failed to parse {entry}: {cause}")]
    Malformed {
        /// Path of the entry.
        entry: String,
        /// The parser's error.
        cause: serde_json::Error,
    },
    /// Content does not have the digest that refers to it.
    #[error("{entry} is damaged: its digest is {actual}, expected {expected}")]
    WrongDigest {
        /// Path of the entry.
        entry: String,
        /// Digest of the content.
        actual: Digest,
        /// Digest in the reference.
        expected: Digest,
    },
    /// Content does not have the length that the reference to it gives.
    #[error("{entry} is damaged: its size is {actual} bytes, expected {expected}")]
    WrongSize {
        /// Path of the entry.
        entry: String,
        /// Length of the content.
        actual: u64,
        /// Length in the reference.
        expected: u64,
    },
    /// Indexes refer to indexes, and so on.
    #[error("indexes are nested more than {0} deep")]
    NestedTooDeep(u8),
    /// The configuration has more or fewer layers than the manifest.
    #[error("the configuration lists {config} layers, the manifest {manifest}")]
    LayerCount {
        /// Layers in the configuration.
        config: usize,
        /// Layers in the manifest.
        manifest: usize,
    },
    /// A layer is compressed in a way that is not supported.
    #[error(
        "layer {entry} is compressed with zstd, which is not supported; use gzip or no compression"
    )]
    Zstd {
        /// Path of the layer.
        entry: String,
    },
    /// An image cannot be written under this name.
    #[error("{0:?} is not an image name; use a repository and a tag, such as kubeapp:1.0")]
    InvalidName(String),
    /// The archive, or an entry of it, cannot be written.
    #[error("failed to write {entry}: {cause}")]
    Write {
        /// Path of the entry, or `the archive`.
        entry: String,
        /// The operating system's error, or the tar library's complaint about the path.
        cause: io::Error,
    },
}

impl Error {
    pub(crate) fn read(entry: &str, cause: io::Error) -> Self {
        Self::Read { entry: entry.to_owned(), cause }
    }

    pub(crate) fn write(entry: &str, cause: io::Error) -> Self {
        Self::Write { entry: entry.to_owned(), cause }
    }

    pub(crate) fn malformed(entry: &str, cause: serde_json::Error) -> Self {
        Self::Malformed { entry: entry.to_owned(), cause }
    }

    /// Succeeds if the digests are equal.
    pub(crate) fn check_digest(entry: &str, actual: Digest, expected: Digest) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        Err(Self::WrongDigest { entry: entry.to_owned(), actual, expected })
    }
}
