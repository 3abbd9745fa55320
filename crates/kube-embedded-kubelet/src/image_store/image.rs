//! An image that is unpacked and ready to be run.

use oci_archive::ImageConfig;
use std::path::PathBuf;

/// An image that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The normalized names it was loaded under, such as `docker.io/library/kubeapp:1.0`.
    pub names: Vec<String>,
    /// Digest of the image configuration, `sha256:…`; the image ID of Kubernetes.
    pub id: String,
    /// The unpacked root file system. All pods share it, so nothing may write to it.
    pub rootfs: PathBuf,
    /// The image's defaults for running it.
    pub config: ImageConfig,
    /// The size of the layers in the archive, in bytes.
    pub size: u64,
}
