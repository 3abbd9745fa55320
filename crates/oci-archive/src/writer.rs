//! The writer. An archive depends on the image alone: it has no clock, no owner, no order that could
//! vary, so that two builds of equal input are equal to the byte.

use crate::{
    CONFIG_MEDIA_TYPE, ConfigFile, Descriptor, Digest, DockerManifest, Error, History,
    INDEX_MEDIA_TYPE, ImageConfig, Index, LAYER_MEDIA_TYPE, MANIFEST_MEDIA_TYPE, Manifest,
    NAME_ANNOTATION, Platform, REF_NAME_ANNOTATION, Result, RootFs, familiar_name, normalize_name,
};
use serde::Serialize;
use std::{borrow::Cow, collections::BTreeMap, io::Write};

const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image that is being put together, and written as an OCI image layout and a docker-archive at
/// once: `docker load`, `ctr images import`, `kind load image-archive` and kube-embedded all take it.
///
/// ```
/// # fn main() -> Result<(), oci_archive::Error> {
/// use oci_archive::{ImageBuilder, ImageConfig, Platform, TarWriter};
///
/// let mut layer = TarWriter::new(Vec::new());
/// layer.file("tool", 0o755, b"\x7fELF...")?;
///
/// let config = ImageConfig { entrypoint: vec!["/tool".to_owned()], ..ImageConfig::default() };
/// let image = ImageBuilder::new("tool:1.0", Platform::host(), config)?
///     .layer(layer.finish()?, "COPY tool /tool");
/// let (mut first, mut second) = (Vec::new(), Vec::new());
/// assert_eq!(image.write(&mut first)?, image.write(&mut second)?);
/// assert_eq!(first, second);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    /// Normalized.
    name: String,
    platform: Platform,
    config: ImageConfig,
    layers: Vec<Vec<u8>>,
    history: Vec<History>,
}

impl ImageBuilder {
    /// Starts an image without layers.
    ///
    /// # Errors
    /// When an image cannot be tagged with `name`. `kubeapp`, without a tag, becomes `kubeapp:latest`.
    pub fn new(name: &str, platform: Platform, config: ImageConfig) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        if name.is_empty() || name.starts_with("sha256:") || !name.chars().all(allowed) {
            return Err(Error::InvalidName(name.to_owned()));
        }
        let name = normalize_name(name);
        Ok(Self { name, platform, config, layers: Vec::new(), history: Vec::new() })
    }

    /// Adds a layer above those there are: an uncompressed tar archive, and the command that made it
    /// as `docker history` shows it.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>, created_by: &str) -> Self {
        self.layers.push(tar);
        self.history.push(History { created: EPOCH.to_owned(), created_by: created_by.to_owned() });
        self
    }

    /// Writes the archive and returns the digest of the image's manifest, by which a registry knows
    /// the image.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, to: impl Write) -> Result<Digest> {
        let mut blobs = Blobs::default();
        let layers: Vec<Descriptor> =
            self.layers.iter().map(|tar| blobs.add(LAYER_MEDIA_TYPE, Cow::Borrowed(tar))).collect();
        let config = blobs.add_json(
            CONFIG_MEDIA_TYPE,
            &ConfigFile {
                platform: self.platform.clone(),
                created: EPOCH.to_owned(),
                config: self.config.clone(),
                rootfs: RootFs {
                    kind: "layers".to_owned(),
                    // Not compressed, so the digest of the content is the digest of the blob.
                    diff_ids: layers.iter().map(|layer| layer.digest).collect(),
                },
                history: self.history.clone(),
            },
        )?;
        let docker = [DockerManifest {
            config: config.digest.blob_path(),
            repo_tags: vec![familiar_name(&self.name).to_owned()],
            layers: layers.iter().map(|layer| layer.digest.blob_path()).collect(),
        }];
        let media_type = MANIFEST_MEDIA_TYPE.to_owned();
        let manifest = Manifest { schema_version: 2, media_type, config, layers };
        let manifest = blobs.add_json(MANIFEST_MEDIA_TYPE, &manifest)?;
        let digest = manifest.digest;
        let index = Index {
            schema_version: 2,
            media_type: INDEX_MEDIA_TYPE.to_owned(),
            manifests: vec![Descriptor {
                platform: Some(self.platform.clone()),
                annotations: BTreeMap::from([
                    (NAME_ANNOTATION.to_owned(), self.name.clone()),
                    (REF_NAME_ANNOTATION.to_owned(), self.tag().to_owned()),
                ]),
                ..manifest
            }],
        };
        let mut tar = TarWriter::new(to);
        blobs.write(&mut tar)?;
        tar.file("index.json", 0o644, &json("index.json", &index)?)?;
        tar.file("manifest.json", 0o644, &json("manifest.json", &docker)?)?;
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.finish()?.flush().map_err(|cause| Error::write("the archive", cause))?;
        Ok(digest)
    }

    fn tag(&self) -> &str {
        self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
    }
}

/// Content by digest: equal layers are written once, and in one order.
#[derive(Default)]
struct Blobs<'a>(BTreeMap<Digest, Cow<'a, [u8]>>);

impl<'a> Blobs<'a> {
    fn add(&mut self, media_type: &str, content: Cow<'a, [u8]>) -> Descriptor {
        let (digest, size) = (Digest::of(&content), content.len() as u64);
        self.0.insert(digest, content);
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    fn add_json(&mut self, media_type: &str, document: &impl Serialize) -> Result<Descriptor> {
        Ok(self.add(media_type, Cow::Owned(json(media_type, document)?)))
    }

    fn write(&self, tar: &mut TarWriter<impl Write>) -> Result<()> {
        tar.directory("blobs/", 0o755)?;
        tar.directory("blobs/sha256/", 0o755)?;
        self.0
            .iter()
            .try_for_each(|(digest, content)| tar.file(&digest.blob_path(), 0o644, content))
    }
}

fn json(name: &str, document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|cause| Error::write(name, cause.into()))
}

/// Writes a tar archive that depends on its content alone: all is owned by root and dated to 1970.
///
/// ```
/// # fn main() -> Result<(), oci_archive::Error> {
/// let mut tar = oci_archive::TarWriter::new(Vec::new());
/// tar.directory("etc/", 0o755)?;
/// tar.file("etc/hostname", 0o644, b"canary\n")?;
/// assert_eq!(tar.finish()?.len() % 512, 0);
/// # Ok(())
/// # }
/// ```
pub struct TarWriter<W: Write>(tar::Builder<W>);

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(to: W) -> Self {
        Self(tar::Builder::new(to))
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// When writing fails, or the path is absolute or has a `..` in it.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.append(tar::EntryType::Directory, path, mode, &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When writing fails, or the path is absolute or has a `..` in it.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.append(tar::EntryType::Regular, path, mode, content)
    }

    /// Ends the archive and returns what it was written to.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(self) -> Result<W> {
        self.0.into_inner().map_err(|cause| Error::write("the archive", cause))
    }

    fn append(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).map_err(|cause| Error::write(path, cause))
    }
}

#[cfg(test)]
mod tests;
