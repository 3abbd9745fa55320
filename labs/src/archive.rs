//! Image archives as they lie on disk: a tar file that is an OCI image layout and a docker-archive at
//! once. Read here by the labs' own means, so that a claim about an image does not rest on what built
//! it.

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// One image, with every digest checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Archive {
    /// Of the manifest, `sha256:…`: what a registry would call the image by.
    pub digest: String,
    /// Of the archive file itself.
    pub file_digest: String,
    /// Bytes of the archive file.
    pub bytes: u64,
    /// Names it is loaded under: `kubeapp:1.0`.
    pub names: Vec<String>,
    /// The program that is started, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Ports it says it listens on: `8080/tcp`.
    pub ports: Vec<String>,
    /// The whole image config, for comparisons.
    pub config: serde_json::Value,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Bytes of the layer as it is stored.
    pub bytes: u64,
    /// What it puts into the root file system, by path without a leading slash; folders left out.
    pub files: BTreeMap<String, File>,
}

/// A file in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub bytes: u64,
    /// `sha256:…` of the content.
    pub digest: String,
}

impl Archive {
    /// Reads and checks the archive at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is no image archive", path.display()))
    }

    /// The same of bytes in memory.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let members = members(bytes)?;
        let index: Index = document(&members, "index.json")?;
        let [entry] = index.manifests.as_slice() else {
            bail!("index.json lists {} manifests, not one", index.manifests.len());
        };
        let manifest: Manifest = json(blob(&members, entry)?, "the manifest")?;
        let config_bytes = blob(&members, &manifest.config)?;
        let config: serde_json::Value = json(config_bytes, "the config")?;
        let image: Image = json(config_bytes, "the config")?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            layers.push(files(blob(&members, layer)?).context("reading a layer")?);
        }
        let docker: Vec<DockerManifest> = document(&members, "manifest.json")?;
        let [docker] = docker.as_slice() else {
            bail!("manifest.json lists {} images, not one", docker.len());
        };
        let named = |path: &str| {
            let bytes = members.get(path).with_context(|| format!("{path} is missing"))?;
            Ok::<_, anyhow::Error>(digest_of(bytes))
        };
        // Docker reads one list, containerd the other: they must mean the same image.
        ensure!(
            named(&docker.config)? == manifest.config.digest,
            "manifest.json and index.json name different configs"
        );
        let listed: Vec<_> =
            docker.layers.iter().map(|path| named(path)).collect::<Result<_, _>>()?;
        let expected = manifest.layers.iter().map(|layer| &layer.digest);
        ensure!(listed.iter().eq(expected), "manifest.json and index.json name different layers");
        Ok(Self {
            digest: entry.digest.clone(),
            file_digest: digest_of(bytes),
            bytes: bytes.len() as u64,
            names: docker.repo_tags.clone(),
            entrypoint: image.config.entrypoint,
            ports: image.config.exposed_ports.into_keys().collect(),
            config,
            layers,
        })
    }

    /// The files of the image as a container sees them: a later layer hides an earlier one.
    pub fn files(&self) -> BTreeMap<&str, &File> {
        let all = self.layers.iter().flat_map(|layer| &layer.files);
        all.map(|(path, file)| (path.as_str(), file)).collect()
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    config: Settings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    entrypoint: Vec<String>,
    exposed_ports: BTreeMap<String, serde_json::Value>,
}

type Members = BTreeMap<String, Vec<u8>>;

fn members(bytes: &[u8]) -> anyhow::Result<Members> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().context("not a tar file")? {
        let mut entry = entry.context("not a tar file")?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).with_context(|| format!("reading {path}"))?;
            members.insert(path, content);
        }
    }
    Ok(members)
}

fn document<T: DeserializeOwned>(members: &Members, name: &str) -> anyhow::Result<T> {
    json(members.get(name).with_context(|| format!("{name} is missing"))?, name)
}

fn json<T: DeserializeOwned>(bytes: &[u8], name: &str) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("{name} is not as it should be"))
}

/// A blob by its descriptor, which must tell the truth.
fn blob<'a>(members: &'a Members, descriptor: &Descriptor) -> anyhow::Result<&'a [u8]> {
    let digest = &descriptor.digest;
    let path = format!("blobs/{}", digest.replace(':', "/"));
    let bytes = members.get(&path).with_context(|| format!("{path} is missing"))?;
    ensure!(digest_of(bytes) == *digest, "{path} does not have the digest it is named by");
    ensure!(bytes.len() as u64 == descriptor.size, "{path} does not have the size that is told");
    Ok(bytes)
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
        let (bytes, digest) = (content.len() as u64, digest_of(&content));
        files.insert(path, File { mode, bytes, digest });
    }
    Ok(Layer { bytes: layer.len() as u64, files })
}

/// `sha256:…` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let hexadecimal = Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("sha256:{hexadecimal}")
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

    /// An archive of one layer with `/app`; `spoil` may change any member.
    fn archive(spoil: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let layer = tar(&[("app", b"program"), ("etc/x", b"y")]);
        let config = json!({"config": {"Entrypoint": ["/app"], "ExposedPorts": {"8080/tcp": {}}}});
        let config = config.to_string().into_bytes();
        let descriptor = |b: &[u8]| json!({"digest": digest_of(b), "size": b.len()});
        let path = |b: &[u8]| format!("blobs/{}", digest_of(b).replace(':', "/"));
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
        .map(|(path, role, bytes)| (path, spoil(role, bytes)));
        let members: Vec<_> = members.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect();
        tar(&members)
    }

    #[test]
    fn an_archive_tells_what_the_image_is() {
        let bytes = archive(|_, bytes| bytes);
        let image = Archive::parse(&bytes).unwrap();
        assert_eq!(image.names, ["kubeapp:1.0"]);
        assert_eq!(image.entrypoint, ["/app"]);
        assert_eq!(image.ports, ["8080/tcp"]);
        assert_eq!(image.file_digest, digest_of(&bytes));
        let files = image.files();
        assert_eq!(files.keys().collect::<Vec<_>>(), [&"app", &"etc/x"]);
        assert_eq!(files["app"].digest, digest_of(b"program"));
        assert_eq!((files["app"].mode, files["app"].bytes), (0o755, 7));
    }

    #[test]
    fn a_damaged_archive_is_refused_with_the_reason() {
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

    #[test]
    fn digests_are_those_of_sha256sum() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest_of(b""), empty);
    }
}
