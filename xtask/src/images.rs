//! The app's two images: built and packed without Docker, pushed without Docker, and the registry
//! credentials for both this machine and the nodes.

pub(crate) mod archive;
pub(crate) mod build;
pub(crate) mod credentials;
pub(crate) mod pull_secret;
pub(crate) mod push;

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The versions of the app, stable first.
pub(crate) const VERSIONS: [&str; 2] = ["1.0", "2.0"];

/// One image on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `1.0`.
    pub(crate) version: String,
    /// `kubeapp:1.0`.
    pub(crate) name: String,
    /// The digest of the image's manifest.
    pub(crate) digest: String,
    /// The archive file.
    pub(crate) archive: PathBuf,
    /// The size of the archive in bytes.
    pub(crate) size: u64,
    /// A second archive, built from the same input.
    pub(crate) rebuilt: PathBuf,
    /// The program in the image.
    pub(crate) binary: PathBuf,
    /// The one input in which the versions differ.
    pub(crate) build_input: String,
}

/// Returns the digests of images by name.
pub(crate) fn digests(images: &[Image]) -> BTreeMap<String, String> {
    images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect()
}
