//! Reads and writes container image archives: tar files that hold an [OCI image layout], what
//! `docker save` writes, or both. It is for programs that exchange images without a registry and
//! without a container engine: kube-embedded's kubelet, the labs and xtask.
//!
//! - [`Archive`] reads. Every digest and size is checked before content is returned, layers are
//!   streamed, and [`Archive::images`] picks those for a [`Platform`].
//! - [`ImageBuilder`] writes, byte-reproducibly. [`TarWriter`] makes the layers.
//! - [`Digest`], [`normalize_name`] and the documents of the specification ([`Index`], [`Manifest`],
//!   [`ConfigFile`]) are what both share.
//!
//! Absent: registries, zstd, and unpacking of layers into a root file system, which has to decide
//! about whiteouts, links and owners.
//!
//! ```
//! # fn main() -> Result<(), oci_archive::Error> {
//! use oci_archive::{Archive, ImageBuilder, ImageConfig, Platform, TarWriter};
//! use std::io::{Cursor, Read};
//!
//! let mut layer = TarWriter::new(Vec::new());
//! layer.file("greeting", 0o644, b"hello")?;
//! let mut tar = Vec::new();
//! ImageBuilder::new("greeter:1.0", Platform::host(), ImageConfig::default())?
//!     .layer(layer.finish()?, "COPY greeting /greeting")
//!     .write(&mut tar)?;
//!
//! let mut archive = Archive::new(Cursor::new(tar))?;
//! for image in archive.images(&Platform::host())? {
//!     assert_eq!(image.names, ["docker.io/library/greeter:1.0"]);
//!     for layer in &image.layers {
//!         let mut content = archive.layer(layer)?;
//!         let mut start = [0; 8];
//!         content.read_exact(&mut start).expect("a tar archive");
//!         assert_eq!(&start, b"greeting");
//!         content.finish()?; // Reads the rest and checks the digest.
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md

mod digest;
mod error;
mod images;
mod name;
mod reader;
mod spec;
mod writer;

pub use digest::{Digest, ParseDigestError};
pub use error::{Error, Result};
pub use images::{Image, Layer};
pub use name::{familiar_name, normalize_name};
pub use reader::{Archive, LayerReader};
pub use spec::{
    CONFIG_MEDIA_TYPE, ConfigFile, Descriptor, DockerManifest, History, INDEX_MEDIA_TYPE,
    ImageConfig, Index, LAYER_MEDIA_TYPE, MANIFEST_MEDIA_TYPE, Manifest, NAME_ANNOTATION, Platform,
    REF_NAME_ANNOTATION, RootFs, host_architecture,
};
pub use writer::{ImageBuilder, TarWriter};
