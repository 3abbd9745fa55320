//! The content of an image: a `FROM scratch` image is one layer with one file, built without Docker.
//! The archive is byte-reproducible, and `docker load`, `ctr images import`, `kind load image-archive`
//! and the embedded cluster all take it.

use anyhow::{Context, Result};
use oci_archive::{
    Archive, Descriptor, Digest, ImageBuilder, ImageConfig, Index, Platform, TarWriter,
};
use std::{fs::File, io::Read, path::Path};

/// The user of the container: numeric, as a scratch image has no /etc/passwd, and not root.
const USER: &str = "65532:65532";

/// An image as bytes.
pub(crate) struct ImageTar {
    /// The tar file.
    pub(crate) bytes: Vec<u8>,
    /// The digest of the image's manifest, which identifies it in a registry.
    pub(crate) digest: Digest,
}

/// Packs `binary` as `/app` of the image `kubeapp:<version>` for this machine's architecture.
pub(crate) fn pack(binary: &[u8], version: &str) -> Result<ImageTar> {
    let mut layer = TarWriter::new(Vec::new());
    layer.file("app", 0o755, binary)?;
    let labels = [
        ("org.opencontainers.image.title", "kubeapp"),
        ("org.opencontainers.image.version", version),
    ];
    let config = ImageConfig {
        user: USER.to_owned(),
        exposed_ports: ["8080/tcp".to_owned()].into(),
        env: vec!["PATH=/".to_owned()],
        entrypoint: vec!["/app".to_owned()],
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..ImageConfig::default()
    };
    let mut bytes = Vec::new();
    let digest = ImageBuilder::new(&format!("kubeapp:{version}"), Platform::host(), config)?
        .layer(layer.finish()?, "COPY kubeapp /app")
        .write(&mut bytes)?;
    Ok(ImageTar { bytes, digest })
}

/// The image of an archive, ready to be pushed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The digest of the manifest.
    pub(crate) digest: Digest,
    /// The manifest's bytes.
    pub(crate) manifest: Vec<u8>,
    /// Content that the manifest refers to, by digest: layers and configuration.
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
}

/// Reads an archive back; content that does not match its digest is an error.
pub(crate) fn unpack(file: &Path) -> Result<Packed> {
    let archive = File::open(file).with_context(|| format!("failed to read {}", file.display()))?;
    let image = first_image(archive);
    image.with_context(|| {
        format!("{} is not an image archive as these tools write it", file.display())
    })
}

fn first_image(file: File) -> Result<Packed> {
    let mut archive = Archive::new(file)?;
    let descriptor = first(archive.index()?).context("index.json lists no image")?;
    let manifest = archive.manifest(&descriptor)?;
    let mut blobs = Vec::new();
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        let mut content = Vec::new();
        archive.blob(blob)?.read_to_end(&mut content)?;
        blobs.push((blob.digest, content));
    }
    let manifest = archive.document(&descriptor)?;
    Ok(Packed { digest: descriptor.digest, manifest, blobs })
}

/// Returns the processor architecture of the program in an archive, by its index; `None` if the
/// index does not name one.
pub(crate) fn architecture_of(file: &Path) -> Option<String> {
    let mut archive = Archive::new(File::open(file).ok()?).ok()?;
    let platform = first(archive.index().ok()?)?.platform?;
    Some(platform.architecture).filter(|architecture| !architecture.is_empty())
}

fn first(index: Index) -> Option<Descriptor> {
    index.manifests.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeMap;

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
        let bytes = &files[&name.parse::<Digest>().unwrap().blob_path()];
        assert_eq!(Digest::of(bytes).to_string(), name, "a blob's name is its digest");
        bytes
    }

    #[test]
    fn oci_layout_and_docker_archive_describe_the_same_image() {
        let archive = pack(b"program", "1.0").unwrap();
        let files = files(&archive.bytes);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");

        let entry = json(&files["index.json"])["manifests"][0].clone();
        assert_eq!(entry["digest"], archive.digest.to_string());
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "docker.io/library/kubeapp:1.0"
        );
        let manifest = json(blob(&files, &entry["digest"]));
        assert_eq!(entry["size"], blob(&files, &entry["digest"]).len());
        let config = json(blob(&files, &manifest["config"]["digest"]));
        let layer = blob(&files, &manifest["layers"][0]["digest"]);
        assert_eq!(manifest["layers"][0]["size"], layer.len());
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            Digest::of(layer).to_string(),
            "the layer is not compressed"
        );
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
    fn packed_image_is_unpacked_and_corruption_is_reported() {
        let packed = pack(b"program", "1.0").unwrap();
        let file = std::env::temp_dir().join(format!("canary-archive-{}.tar", std::process::id()));
        std::fs::write(&file, &packed.bytes).unwrap();
        let image = unpack(&file).unwrap();
        let own = oci_archive::host_architecture();
        assert_eq!(architecture_of(&file).as_deref(), Some(own));
        assert_eq!((&image.digest, image.blobs.len()), (&packed.digest, 2));
        assert_eq!(Digest::of(&image.manifest), packed.digest);
        let at = packed.bytes.windows(7).position(|bytes| bytes == b"program").unwrap();
        let mut damaged = packed.bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        assert!(format!("{:#}", unpack(&file).unwrap_err()).contains("is damaged"));
        std::fs::write(&file, "no tar").unwrap();
        assert!(unpack(&file).unwrap_err().to_string().contains("is not an image archive"));
        assert_eq!(architecture_of(&file), None);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn packing_is_reproducible_and_depends_on_the_version() {
        let (one, again) = (pack(b"program", "1.0").unwrap(), pack(b"program", "1.0").unwrap());
        assert_eq!((&one.bytes, &one.digest), (&again.bytes, &again.digest));
        assert_ne!(one.digest, pack(b"program", "2.0").unwrap().digest);
        assert_ne!(one.digest, pack(b"programs", "1.0").unwrap().digest);
    }
}
