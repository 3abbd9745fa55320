//! Reads an image archive for the claims about images: its metadata, and every file with a digest, to
//! compare two builds and two versions.

use anyhow::{Context as _, bail, ensure};
use oci_archive::{ConfigFile, Digest};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

/// One image, with every digest checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Archive {
    /// The digest of the manifest, by which a registry identifies the image.
    pub digest: Digest,
    /// The digest of the archive file itself.
    pub file_digest: Digest,
    /// The size of the archive file in bytes.
    pub bytes: u64,
    /// The names it is loaded under: `kubeapp:1.0`.
    pub names: Vec<String>,
    /// The entrypoint: program and first arguments.
    pub entrypoint: Vec<String>,
    /// The exposed ports: `8080/tcp`.
    pub ports: Vec<String>,
    /// The whole image config, for comparisons.
    pub config: serde_json::Value,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// The size of the layer as stored, in bytes.
    pub bytes: u64,
    /// The files it adds to the root file system, by path without a leading slash, without folders.
    pub files: BTreeMap<String, File>,
}

/// A file in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Permission bits.
    pub mode: u32,
    /// The size in bytes.
    pub bytes: u64,
    /// The digest of the content.
    pub digest: Digest,
}

impl Archive {
    /// Reads and checks the archive at `path`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is no image archive", path.display()))
    }

    /// Reads and checks an archive in memory.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut archive = oci_archive::Archive::new(Cursor::new(bytes))?;
        let index = archive.index()?;
        let [entry] = index.manifests.as_slice() else {
            bail!("index.json lists {} manifests, not one", index.manifests.len());
        };
        let manifest = archive.manifest(entry)?;
        let config_bytes = archive.document(&manifest.config)?;
        let malformed = "the configuration is malformed";
        let config = serde_json::from_slice(&config_bytes).context(malformed)?;
        let image: ConfigFile = serde_json::from_slice(&config_bytes).context(malformed)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let mut content = Vec::new();
            archive.blob(layer)?.read_to_end(&mut content)?;
            layers.push(files(&content).context("failed to read a layer")?);
        }
        let names = names_in_docker_archive(&mut archive, &manifest)?;
        Ok(Self {
            digest: entry.digest,
            file_digest: Digest::of(bytes),
            bytes: bytes.len() as u64,
            names,
            entrypoint: image.config.entrypoint,
            ports: image.config.exposed_ports.into_iter().collect(),
            config,
            layers,
        })
    }

    /// The files of the image as a container sees them: a later layer hides an earlier one.
    pub(crate) fn files(&self) -> BTreeMap<&str, &File> {
        let all = self.layers.iter().flat_map(|layer| &layer.files);
        all.map(|(path, file)| (path.as_str(), file)).collect()
    }
}

/// Returns the names in `manifest.json`. Docker reads this file, containerd `index.json`: they must
/// refer to the same image.
fn names_in_docker_archive(
    archive: &mut oci_archive::Archive<impl Read + Seek>,
    manifest: &oci_archive::Manifest,
) -> anyhow::Result<Vec<String>> {
    let docker = archive.docker_manifests()?;
    let [docker] = docker.as_slice() else {
        bail!("manifest.json lists {} images, not one", docker.len());
    };
    ensure!(
        archive.digest(&docker.config)? == manifest.config.digest,
        "manifest.json and index.json name different configs"
    );
    let listed: Vec<_> =
        docker.layers.iter().map(|path| archive.digest(path)).collect::<Result<_, _>>()?;
    let expected = manifest.layers.iter().map(|layer| &layer.digest);
    ensure!(listed.iter().eq(expected), "manifest.json and index.json name different layers");
    Ok(docker.repo_tags.clone())
}

fn files(layer: &[u8]) -> anyhow::Result<Layer> {
    ensure!(!layer.starts_with(&[0x1f, 0x8b]), "it is compressed, which these labs do not read");
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let mode = entry.header().mode()? & 0o7777;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let (bytes, digest) = (content.len() as u64, Digest::of(&content));
        files.insert(path, File { mode, bytes, digest });
    }
    Ok(Layer { bytes: layer.len() as u64, files })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// An archive of one layer with `/app`; `mutate` may change any member.
    fn archive(mutate: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let layer = tar(&[("app", b"program"), ("etc/x", b"y")]);
        let config = json!({"config": {"Entrypoint": ["/app"], "ExposedPorts": {"8080/tcp": {}}}});
        let config = config.to_string().into_bytes();
        let descriptor = |b: &[u8]| json!({"digest": Digest::of(b), "size": b.len()});
        let path = |b: &[u8]| Digest::of(b).blob_path();
        let manifest = json!({"config": descriptor(&config), "layers": [descriptor(&layer)]});
        let manifest = manifest.to_string().into_bytes();
        let index = json!({"manifests": [descriptor(&manifest)]}).to_string().into_bytes();
        let docker = json!([{"Config": path(&config), "RepoTags": ["kubeapp:1.0"],
            "Layers": [path(&layer)]}]);
        let members = [
            (path(&layer), "layer", layer.clone()),
            (path(&config), "config", config.clone()),
            (path(&manifest), "manifest", manifest.clone()),
            ("index.json".into(), "index", index),
            ("manifest.json".into(), "docker", docker.to_string().into_bytes()),
        ]
        .map(|(path, role, bytes)| (path, mutate(role, bytes)));
        let members: Vec<_> = members.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect();
        tar(&members)
    }

    #[test]
    fn archive_describes_the_image() {
        let bytes = archive(|_, bytes| bytes);
        let image = Archive::parse(&bytes).unwrap();
        assert_eq!(image.names, ["kubeapp:1.0"]);
        assert_eq!(image.entrypoint, ["/app"]);
        assert_eq!(image.ports, ["8080/tcp"]);
        assert_eq!(image.file_digest, Digest::of(&bytes));
        let files = image.files();
        assert_eq!(files.keys().collect::<Vec<_>>(), [&"app", &"etc/x"]);
        assert_eq!(files["app"].digest, Digest::of(b"program"));
        assert_eq!((files["app"].mode, files["app"].bytes), (0o755, 7));
    }

    #[test]
    fn damaged_archive_is_rejected_with_the_reason() {
        for (role, part) in [
            ("layer", "digest"),
            ("config", "digest"),
            ("manifest", "digest"),
            ("index", "index.json"),
            ("docker", "manifest.json"),
        ] {
            let damage = |found: &str, mut bytes: Vec<u8>| {
                if found == role {
                    bytes[0] ^= 1;
                }
                bytes
            };
            let error = format!("{:#}", Archive::parse(&archive(damage)).unwrap_err());
            assert!(error.contains(part), "{role}: {error}");
        }
        assert!(Archive::parse(b"no tar file").is_err());
        assert!(Archive::parse(&tar(&[])).is_err());
    }
}
