//! One image as a tar file that is an OCI image layout and a docker-archive at once, so that
//! `docker load`, `ctr images import`, `kind load image-archive` and the embedded cluster all take
//! it. Made without Docker: a `FROM scratch` image is one layer with one file.
//!
//! Byte-reproducible: no clock, no owner, no order that could vary. The documents are structs, not
//! JSON maps, because the order of a map's keys depends on what else is compiled with serde_json.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// An image as bytes.
pub(crate) struct Archive {
    /// The tar file.
    pub(crate) bytes: Vec<u8>,
    /// Digest of the image's manifest: `sha256:…`, what a registry would call it by.
    pub(crate) digest: String,
}

/// Packs `binary` as `/app` of the image `kubeapp:<version>` for this machine's architecture.
pub(crate) fn pack(binary: &[u8], version: &str) -> Result<Archive> {
    let architecture = architecture(std::env::consts::ARCH);
    let layer = Blob::new(LAYER, tar(&[("app", 0o755, binary)])?);
    let labels = BTreeMap::from([
        ("org.opencontainers.image.title", "kubeapp"),
        ("org.opencontainers.image.version", version),
    ]);
    let config = Blob::json(
        CONFIG,
        &Image {
            architecture,
            os: "linux",
            created: EPOCH,
            config: Config {
                user: USER,
                exposed_ports: BTreeMap::from([("8080/tcp", Empty {})]),
                env: ["PATH=/"],
                entrypoint: ["/app"],
                labels,
            },
            rootfs: RootFs { kind: "layers", diff_ids: [&layer.digest] },
            history: [History { created: EPOCH, created_by: "COPY kubeapp /app" }],
        },
    )?;
    let manifest = Blob::json(
        MANIFEST,
        &Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: config.descriptor(),
            layers: [layer.descriptor()],
        },
    )?;
    let name = format!("kubeapp:{version}");
    let index = serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: "application/vnd.oci.image.index.v1+json",
        manifests: [Descriptor {
            platform: Some(Platform { architecture, os: "linux" }),
            annotations: BTreeMap::from([
                ("io.containerd.image.name", format!("docker.io/library/{name}")),
                ("org.opencontainers.image.ref.name", version.to_owned()),
            ]),
            ..manifest.descriptor()
        }],
    })?;
    let docker = serde_json::to_vec(&[DockerManifest {
        config: config.path(),
        repo_tags: [name],
        layers: [layer.path()],
    }])?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let mut blobs = [&config, &layer, &manifest].map(|blob| (blob.path(), blob.bytes.as_slice()));
    blobs.sort();
    let [(a, first), (b, second), (c, third)] = &blobs;
    let bytes = tar(&[
        ("blobs/", 0o755, b""),
        ("blobs/sha256/", 0o755, b""),
        (a, 0o644, first),
        (b, 0o644, second),
        (c, 0o644, third),
        ("index.json", 0o644, &index),
        ("manifest.json", 0o644, &docker),
        ("oci-layout", 0o644, layout),
    ])?;
    Ok(Archive { bytes, digest: manifest.digest })
}

/// The image of an archive, ready to be pushed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Of the manifest.
    pub(crate) digest: String,
    /// The manifest's bytes.
    pub(crate) manifest: Vec<u8>,
    /// What the manifest names, by digest: configuration and layers.
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
}

/// Reads an archive back; what does not match its digest is an error.
pub(crate) fn unpack(file: &Path) -> Result<Packed> {
    let problem = || format!("{} is not an image archive as these tools write it", file.display());
    let archive = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().with_context(problem)? {
        let mut entry = entry.with_context(problem)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).with_context(problem)?;
        files.insert(entry.path()?.to_string_lossy().into_owned(), bytes);
    }
    let index = files.remove("index.json").with_context(problem)?;
    let index: Value = serde_json::from_slice(&index).with_context(problem)?;
    let mut blob = |digest: &str| -> Result<Vec<u8>> {
        let bytes = files.remove(&format!("blobs/{}", digest.replace(':', "/")));
        let bytes = bytes.with_context(problem)?;
        ensure!(self::digest(&bytes) == digest, "{}: {digest} is damaged", file.display());
        Ok(bytes)
    };
    let named = |value: &Value| value.get("digest").and_then(Value::as_str).map(str::to_owned);
    let digest = index.pointer("/manifests/0").and_then(named).with_context(problem)?;
    let manifest = blob(&digest)?;
    let parsed: Value = serde_json::from_slice(&manifest).with_context(problem)?;
    let layers = parsed.get("layers").and_then(Value::as_array).with_context(problem)?;
    let mut blobs = Vec::new();
    for descriptor in layers.iter().chain(parsed.get("config")) {
        let digest = named(descriptor).with_context(problem)?;
        blobs.push((digest.clone(), blob(&digest)?));
    }
    Ok(Packed { digest, manifest, blobs })
}

/// What processors the program in an archive is for, as its index says; `None` if it does not.
pub(crate) fn architecture_of(file: &Path) -> Option<String> {
    let mut archive = tar::Archive::new(File::open(file).ok()?);
    let mut index = archive
        .entries_with_seek()
        .ok()?
        .flatten()
        .find(|entry| entry.path().is_ok_and(|path| path == Path::new("index.json")))?;
    let mut bytes = Vec::new();
    index.read_to_end(&mut bytes).ok()?;
    let index: Value = serde_json::from_slice(&bytes).ok()?;
    Some(index.pointer("/manifests/0/platform/architecture")?.as_str()?.into())
}

/// `sha256:` and the digest in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// Nobody in particular, but not root: a number, as a scratch image has no /etc/passwd.
const USER: &str = "65532:65532";

/// Rust's name of an architecture as Go, and so every image, names it.
fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    fn json(media_type: &'static str, document: &impl Serialize) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(document)?))
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self) -> Descriptor<'_> {
        Descriptor {
            media_type: self.media_type,
            digest: &self.digest,
            size: self.bytes.len(),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A tar file of folders (names that end in `/`) and files: owned by root, dated to the epoch.
fn tar(entries: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(match path.ends_with('/') {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, *bytes)
            .with_context(|| format!("cannot pack {path}"))?;
    }
    tar.into_inner().context("cannot finish the archive")
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Image<'a> {
    architecture: &'a str,
    os: &'a str,
    created: &'a str,
    config: Config<'a>,
    rootfs: RootFs<'a>,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    user: &'a str,
    exposed_ports: BTreeMap<&'a str, Empty>,
    env: [&'a str; 1],
    entrypoint: [&'a str; 1],
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: [&'a str; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: [Descriptor<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: [Descriptor<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Platform<'a> {
    architecture: &'a str,
    os: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: [String; 1],
    layers: [String; 1],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
        });
        entries.collect()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, named: &Value) -> &'a [u8] {
        let name = named.as_str().unwrap();
        let bytes = &files[&format!("blobs/{}", name.replace(':', "/"))];
        assert_eq!(digest(bytes), name, "a blob's name is its digest");
        bytes
    }

    #[test]
    fn both_views_lead_to_the_same_image() {
        let archive = pack(b"program", "1.0").unwrap();
        let files = files(&archive.bytes);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");

        let entry = json(&files["index.json"])["manifests"][0].clone();
        assert_eq!(entry["digest"], archive.digest.as_str());
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "docker.io/library/kubeapp:1.0"
        );
        let manifest = json(blob(&files, &entry["digest"]));
        assert_eq!(entry["size"], blob(&files, &entry["digest"]).len());
        let config = json(blob(&files, &manifest["config"]["digest"]));
        let layer = blob(&files, &manifest["layers"][0]["digest"]);
        assert_eq!(manifest["layers"][0]["size"], layer.len());
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(layer), "the layer is not compressed");
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/app"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["ExposedPorts"], serde_json::json!({"8080/tcp": {}}));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], "1.0");

        let docker = &json(&files["manifest.json"])[0];
        assert_eq!(docker["RepoTags"], serde_json::json!(["kubeapp:1.0"]));
        assert_eq!(json(&files[docker["Config"].as_str().unwrap()]), config);
        assert_eq!(files[docker["Layers"][0].as_str().unwrap()], layer);
        let content = self::files(layer);
        assert_eq!(content.into_iter().collect::<Vec<_>>(), [("app".into(), b"program".to_vec())]);
    }

    #[test]
    fn what_was_packed_is_unpacked_and_damage_is_named() {
        let packed = pack(b"program", "1.0").unwrap();
        let file = std::env::temp_dir().join(format!("canary-archive-{}.tar", std::process::id()));
        std::fs::write(&file, &packed.bytes).unwrap();
        let image = unpack(&file).unwrap();
        let own = architecture(std::env::consts::ARCH);
        assert_eq!(architecture_of(&file).as_deref(), Some(own));
        assert_eq!((&image.digest, image.blobs.len()), (&packed.digest, 2));
        assert_eq!(digest(&image.manifest), packed.digest);
        let at = packed.bytes.windows(7).position(|bytes| bytes == b"program").unwrap();
        let mut damaged = packed.bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        assert!(unpack(&file).unwrap_err().to_string().contains("is damaged"));
        std::fs::write(&file, "no tar").unwrap();
        assert!(unpack(&file).unwrap_err().to_string().contains("is not an image archive"));
        assert_eq!(architecture_of(&file), None);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn equal_input_gives_equal_bytes_and_another_version_does_not() {
        let (one, again) = (pack(b"program", "1.0").unwrap(), pack(b"program", "1.0").unwrap());
        assert_eq!((&one.bytes, &one.digest), (&again.bytes, &again.digest));
        assert_ne!(one.digest, pack(b"program", "2.0").unwrap().digest);
        assert_ne!(one.digest, pack(b"programs", "1.0").unwrap().digest);
    }
}
