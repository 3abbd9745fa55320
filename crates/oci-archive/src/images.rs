//! The images of an archive for one platform, found through nested indexes or `manifest.json`.

use crate::{
    Archive, ConfigFile, Descriptor, Digest, Error, Index, Manifest, NAME_ANNOTATION, Platform,
    REF_NAME_ANNOTATION, Result, normalize_name,
    reader::{Blob, LayerReader, is_gzip},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::HashMap,
    io::{Read, Seek},
};

/// As deep as indexes may be nested.
const MAX_DEPTH: u8 = 3;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An image in an archive.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Image {
    /// Normalized names, sorted; empty for an image that was saved by its ID.
    pub names: Vec<String>,
    /// The image ID: the digest of the configuration.
    pub id: Digest,
    /// The configuration.
    pub config: ConfigFile,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an [`Image`]. Opened with [`Archive::layer`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layer {
    /// Length in the archive in bytes.
    pub size: u64,
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
    blob: Blob,
}

impl Layer {
    /// Returns the path in the archive, by which messages name the layer.
    pub fn path(&self) -> &str {
        &self.blob.path
    }
}

/// An image whose configuration is not yet read.
struct Candidate {
    names: Vec<String>,
    config: Blob,
    layers: Vec<Blob>,
}

impl<R: Read + Seek> Archive<R> {
    /// Returns the images for a platform; at least one. An archive that is an OCI image layout and
    /// a docker-archive at once is read as the former, whose digests cover everything.
    ///
    /// # Errors
    /// When there is none, or any document that leads to one is missing, malformed or damaged.
    /// Layers are not read yet.
    pub fn images(&mut self, platform: &Platform) -> Result<Vec<Image>> {
        let candidates = if self.has("index.json") {
            self.oci_images(platform)?
        } else if self.has("manifest.json") {
            self.docker_images()?
        } else {
            return Err(Error::NotImageArchive);
        };
        if candidates.is_empty() {
            return Err(Error::NoImage(platform.clone()));
        }
        candidates.into_iter().map(|candidate| self.image(candidate, platform)).collect()
    }

    /// Opens a layer, decompressed. It was checked against the digest in the manifest; what comes
    /// out of the decompressor is checked by [`LayerReader::finish`].
    ///
    /// # Errors
    /// When the layer is missing, damaged, compressed with zstd, or cannot be read.
    pub fn layer(&mut self, layer: &Layer) -> Result<LayerReader<'_>> {
        let path = &layer.blob.path;
        self.verify(&layer.blob)?;
        let mut start = Vec::new();
        self.entry(path)?
            .take(ZSTD_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(|cause| Error::read(path, cause))?;
        if start == ZSTD_MAGIC {
            return Err(Error::Zstd { entry: path.clone() });
        }
        let stream = self.entry(path)?;
        Ok(LayerReader::new(stream, is_gzip(&start), path.clone(), layer.diff_id))
    }

    fn oci_images(&mut self, platform: &Platform) -> Result<Vec<Candidate>> {
        let index = self.index()?;
        let tags = self.docker_tags();
        let mut found = Vec::new();
        for descriptor in &index.manifests {
            let Some(manifest) = self.resolve(descriptor, platform, 0)? else { continue };
            let config = Blob::from(&manifest.config);
            let mut names: Vec<String> = annotated_name(descriptor).into_iter().collect();
            names.extend(tags.get(&config.path).cloned().unwrap_or_default());
            let layers = manifest.layers.iter().map(Blob::from).collect();
            found.push(Candidate { names, config, layers });
        }
        Ok(found)
    }

    /// Returns the manifest for the platform, through nested indexes.
    fn resolve(
        &mut self,
        descriptor: &Descriptor,
        platform: &Platform,
        depth: u8,
    ) -> Result<Option<Manifest>> {
        if descriptor.platform.as_ref().is_some_and(|built_for| !platform.accepts(built_for)) {
            return Ok(None);
        }
        let path = descriptor.digest.blob_path();
        let raw = self.document(descriptor)?;
        let document: Value = parse(&path, &raw)?;
        // OCI's "index" and Docker's "manifest list". A media type is optional in the document.
        let is_index = descriptor.media_type.contains("index")
            || descriptor.media_type.contains("list")
            || document.get("manifests").is_some();
        if !is_index {
            return parse(&path, &raw).map(Some);
        }
        if depth > MAX_DEPTH {
            return Err(Error::NestedTooDeep(MAX_DEPTH));
        }
        for inner in &parse::<Index>(&path, &raw)?.manifests {
            if let Some(found) = self.resolve(inner, platform, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn docker_images(&mut self) -> Result<Vec<Candidate>> {
        let manifests = self.docker_manifests()?.into_iter();
        Ok(manifests
            .map(|manifest| Candidate {
                names: manifest.repo_tags,
                config: Blob {
                    digest: digest_in_path(&manifest.config),
                    path: manifest.config,
                    size: None,
                },
                layers: manifest
                    .layers
                    .into_iter()
                    .map(|path| Blob { path, digest: None, size: None })
                    .collect(),
            })
            .collect())
    }

    /// Returns the names of `manifest.json` by path of the configuration. An OCI image layout needs
    /// no such file.
    fn docker_tags(&mut self) -> HashMap<String, Vec<String>> {
        let manifests = self.docker_manifests().unwrap_or_default().into_iter();
        manifests.map(|manifest| (manifest.config, manifest.repo_tags)).collect()
    }

    fn image(&mut self, candidate: Candidate, platform: &Platform) -> Result<Image> {
        let mut names: Vec<String> =
            candidate.names.iter().map(|name| normalize_name(name)).collect();
        names.sort();
        names.dedup();
        let raw = self.read_document(&candidate.config)?;
        let config: ConfigFile = parse(&candidate.config.path, &raw)?;
        if !platform.accepts(&config.platform) {
            return Err(Error::WrongPlatform {
                image: names.join(", "),
                actual: config.platform,
                expected: platform.clone(),
            });
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != candidate.layers.len() {
            return Err(Error::LayerCount {
                config: diff_ids.len(),
                manifest: candidate.layers.len(),
            });
        }
        let layers = candidate.layers.into_iter().zip(diff_ids).map(|(blob, diff_id)| {
            Ok(Layer { size: self.size(&blob.path)?, diff_id: *diff_id, blob })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Image { names, id: Digest::of(&raw), config, layers })
    }
}

fn annotated_name(descriptor: &Descriptor) -> Option<String> {
    let annotations = [NAME_ANNOTATION, REF_NAME_ANNOTATION];
    let name = annotations.iter().find_map(|key| descriptor.annotations.get(*key))?;
    // A bare tag, as `docker buildx` writes it, names no image.
    name.contains([':', '/']).then(|| name.clone())
}

/// `docker save` names a configuration after its digest: `<hex>.json`, or `blobs/sha256/<hex>`.
fn digest_in_path(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
}

fn parse<T: DeserializeOwned>(path: &str, raw: &[u8]) -> Result<T> {
    serde_json::from_slice(raw).map_err(|cause| Error::malformed(path, cause))
}
