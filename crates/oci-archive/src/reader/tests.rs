use super::*;
use crate::{ConfigFile, Platform, TarWriter, host_architecture};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
};

/// The files of an archive by path, and what its documents refer to.
struct Fixture {
    files: BTreeMap<String, Vec<u8>>,
    index: Value,
    docker: Value,
    layer: String,
    config: String,
    manifest: String,
}

impl Fixture {
    fn new() -> Self {
        let layer = tar([("tool", &b"hello"[..])]);
        Self::of(layer.clone(), &layer)
    }

    /// An image of one layer, as stored and uncompressed.
    fn of(stored: Vec<u8>, plain: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        let mut add = |content: Vec<u8>| {
            let (digest, size) = (Digest::of(&content), content.len());
            files.insert(digest.blob_path(), content);
            (json!({ "digest": digest, "size": size }), digest.blob_path())
        };
        let (layer_descriptor, layer) = add(stored);
        let (config_descriptor, config) = add(bytes(&json!({
            "architecture": host_architecture(), "os": "linux",
            "config": { "Entrypoint": ["/tool"], "Cmd": null },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(plain)] },
        })));
        let (descriptor, manifest) = add(bytes(&json!({
            "schemaVersion": 2, "config": config_descriptor, "layers": [layer_descriptor],
        })));
        let docker = json!([{ "Config": config, "RepoTags": ["tool:1"], "Layers": [layer] }]);
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        Self { files, index, docker, layer, config, manifest }
    }

    fn file(&mut self, path: &str, content: &[u8]) {
        self.files.insert(path.to_owned(), content.to_vec());
    }

    /// Adds a document and makes it the only one that the index refers to.
    fn index_refers_to(&mut self, media_type: &str, document: &Value) {
        let content = bytes(document);
        let digest = Digest::of(&content);
        self.index["manifests"] =
            json!([{ "mediaType": media_type, "digest": digest, "size": content.len() }]);
        self.file(&digest.blob_path(), &content);
    }

    fn pack(&self) -> Vec<u8> {
        let mut files = self.files.clone();
        files.entry("index.json".to_owned()).or_insert(bytes(&self.index));
        files.entry("manifest.json".to_owned()).or_insert(bytes(&self.docker));
        tar(files.iter().map(|(path, content)| (path.as_str(), content.as_slice())))
    }

    /// Packs without one of the two roots.
    fn pack_without(&self, root: &str) -> Vec<u8> {
        let mut files = self.files.clone();
        match root {
            "index.json" => files.insert("manifest.json".to_owned(), bytes(&self.docker)),
            _ => files.insert("index.json".to_owned(), bytes(&self.index)),
        };
        tar(files.iter().map(|(path, content)| (path.as_str(), content.as_slice())))
    }
}

fn bytes(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn tar<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (path, content) in files {
        tar.file(path, 0o755, content).unwrap();
    }
    tar.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn archive(tar: Vec<u8>) -> Archive<Cursor<Vec<u8>>> {
    Archive::new(Cursor::new(tar)).unwrap()
}

/// Reads all of an archive: its images, and their layers to the end.
fn read_all(tar: Vec<u8>) -> Result<Vec<(Vec<String>, ConfigFile, Vec<u8>)>> {
    let mut archive = Archive::new(Cursor::new(tar))?;
    let images = archive.images(&Platform::host())?;
    images
        .into_iter()
        .map(|image| {
            let mut content = Vec::new();
            for layer in &image.layers {
                let mut reader = archive.layer(layer)?;
                reader.read_to_end(&mut content).map_err(|e| Error::read("a layer", e))?;
                reader.finish()?;
            }
            Ok((image.names, image.config, content))
        })
        .collect()
}

fn error(tar: Vec<u8>) -> String {
    read_all(tar).unwrap_err().to_string()
}

#[test]
fn oci_layout_and_docker_archive_lead_to_the_same_image() {
    let fixture = Fixture::new();
    let both = read_all(fixture.pack()).unwrap();
    let docker = read_all(fixture.pack_without("index.json")).unwrap();
    assert_eq!(both, docker);
    let [(names, config, content)] = both.as_slice() else { panic!("{both:?}") };
    assert_eq!(names, &["docker.io/library/tool:1"]);
    assert_eq!(config.config.entrypoint, ["/tool"]);
    assert_eq!(content, &fixture.files[&fixture.layer]);
    let oci = read_all(fixture.pack_without("manifest.json")).unwrap();
    assert!(oci[0].0.is_empty(), "only manifest.json has a name");
}

#[test]
fn name_annotation_counts_unless_it_is_a_bare_tag() {
    for (key, value, names) in [
        (
            "io.containerd.image.name",
            "ghcr.io/a:1",
            &["docker.io/library/tool:1", "ghcr.io/a:1"][..],
        ),
        ("org.opencontainers.image.ref.name", "tool:1", &["docker.io/library/tool:1"]),
        ("org.opencontainers.image.ref.name", "latest", &["docker.io/library/tool:1"]),
    ] {
        let mut fixture = Fixture::new();
        fixture.index["manifests"][0]["annotations"] = json!({ key: value });
        assert_eq!(read_all(fixture.pack()).unwrap()[0].0, names, "{key}={value}");
    }
}

#[test]
fn leading_dot_slash_of_entries_is_ignored() {
    let fixture = Fixture::new();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in [("index.json", bytes(&fixture.index))]
        .into_iter()
        .chain(fixture.files.iter().map(|(path, content)| (path.as_str(), content.clone())))
    {
        let mut header = tar::Header::new_gnu();
        let name = format!("./{path}");
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    assert_eq!(read_all(builder.into_inner().unwrap()).unwrap().len(), 1);
}

#[test]
fn gzip_is_decompressed_for_layers_and_for_the_whole() {
    let plain = tar([("tool", &b"hello"[..])]);
    let fixture = Fixture::of(gzip(&plain), &plain);
    let packed = fixture.pack();
    assert_eq!(read_all(packed.clone()).unwrap()[0].2, plain);

    let folder = std::env::temp_dir().join(format!("oci-archive-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("image.tar.gz");
    fs::write(&path, gzip(&packed)).unwrap();
    let mut whole = Archive::open(&path, &folder).unwrap();
    assert_eq!(whole.images(&Platform::host()).unwrap().len(), 1);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is visible");
    fs::write(&path, &gzip(&packed)[..100]).unwrap();
    let error = Archive::open(&path, &folder).unwrap_err().to_string();
    assert!(error.starts_with("failed to decompress the archive: "), "{error}");
    fs::write(&path, &packed).unwrap();
    assert!(Archive::open(&path, &folder).is_ok(), "not compressed");
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(Archive::open(&path, &folder), Err(Error::Read { .. })));
}

#[test]
fn truncated_archive_never_yields_other_content() {
    let packed = Fixture::new().pack();
    let whole = read_all(packed.clone()).unwrap();
    let index = packed.windows(10).position(|part| part == b"index.json").unwrap();
    for length in (1..packed.len()).step_by(97) {
        match read_all(packed[..length].to_vec()) {
            // All that an OCI image layout needs was there; the names are in manifest.json.
            Ok(images) => {
                assert!(length > index, "the first {length} bytes");
                assert_eq!((&images[0].1, &images[0].2), (&whole[0].1, &whole[0].2));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(error(packed[..700].to_vec()).starts_with("truncated archive: blobs/sha256/"));
    assert!(error(b"hello".repeat(300)).starts_with("not a tar archive"));
    assert!(error(Vec::new()).starts_with("not an image archive"));
}

#[test]
fn changed_content_is_rejected_as_damaged() {
    let fixture = Fixture::new();
    for path in [&fixture.layer, &fixture.config, &fixture.manifest] {
        let mut changed = fixture.files[path].clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        let mut damaged = Fixture::new();
        damaged.file(path, &changed);
        let found = error(damaged.pack());
        assert!(found.starts_with(&format!("{path} is damaged: its digest is sha256:")), "{found}");

        let mut shorter = Fixture::new();
        shorter.file(path, &fixture.files[path][..last]);
        let found = error(shorter.pack());
        assert!(found.starts_with(&format!("{path} is damaged: its size is {last} ")), "{found}");

        let mut missing = Fixture::new();
        missing.files.remove(path);
        let expected = format!("{path} is missing, though the archive refers to it");
        assert_eq!(error(missing.pack()), expected);
    }
}

#[test]
fn layer_of_a_docker_archive_is_checked_against_the_configuration() {
    let mut fixture = Fixture::new();
    let mut changed = fixture.files[&fixture.layer].clone();
    changed[600] ^= 1;
    fixture.file(&fixture.layer.clone(), &changed);
    assert!(error(fixture.pack_without("index.json")).contains("is damaged: its digest is"));
    let mut fixture = Fixture::new();
    fixture.file(&fixture.config.clone(), b"{}");
    assert!(error(fixture.pack_without("index.json")).contains("is damaged: its digest is"));
}

#[test]
fn padding_after_the_layer_counts() {
    let layer = tar([("tool", &b"hello"[..])]);
    let padded = [layer.as_slice(), &[0; 512]].concat();
    assert!(error(Fixture::of(gzip(&padded), &layer).pack()).contains("is damaged"));
    assert!(read_all(Fixture::of(gzip(&padded), &padded).pack()).is_ok());
}

#[test]
fn malformed_document_is_named() {
    for (path, content) in [("index.json", &b"{"[..]), ("index.json", br#"{"manifests": 1}"#)] {
        let mut fixture = Fixture::new();
        fixture.file(path, content);
        assert!(error(fixture.pack()).starts_with("failed to parse index.json: "));
    }
    let mut fixture = Fixture::new();
    fixture.index["manifests"][0]["digest"] = json!("sha512:../../etc/passwd");
    assert!(error(fixture.pack()).contains("\"sha512:../../etc/passwd\" is not a sha256 digest"));
    let mut fixture = Fixture::new();
    fixture.file("manifest.json", b"{");
    assert!(read_all(fixture.pack()).is_ok(), "an OCI image layout needs no manifest.json");
    assert!(
        error(tar([("manifest.json", &b"{"[..])])).starts_with("failed to parse manifest.json")
    );
}

#[test]
fn document_over_the_limit_is_not_read() {
    let mut fixture = Fixture::new();
    fixture.file("index.json", &vec![b' '; MAX_DOCUMENT as usize + 1]);
    let expected =
        "index.json has 8388609 bytes, more than the 8388608 allowed for a JSON document";
    assert_eq!(error(fixture.pack()), expected);
}

#[test]
fn index_is_followed_to_the_platform_and_not_for_ever() {
    let host = json!({ "os": "linux", "architecture": host_architecture() });
    let other = json!({ "os": "linux", "architecture": "other" });
    let index = |of: &Value| json!({ "schemaVersion": 2, "manifests": of });
    let mut fixture = Fixture::new();
    let mut foreign = fixture.index["manifests"][0].clone();
    let mut own = foreign.clone();
    foreign["platform"] = other;
    foreign["digest"] = json!(Digest::of("not in the archive"));
    own["platform"] = host;
    let media_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    fixture.index_refers_to(media_type, &index(&json!([foreign, own])));
    assert_eq!(read_all(fixture.pack()).unwrap().len(), 1);
    for _ in 0..3 {
        let nested = index(&fixture.index["manifests"]);
        fixture.index_refers_to("", &nested);
    }
    assert_eq!(read_all(fixture.pack()).unwrap().len(), 1);
    let nested = index(&fixture.index["manifests"]);
    fixture.index_refers_to("", &nested);
    assert_eq!(error(fixture.pack()), "indexes are nested more than 3 deep");

    let mut fixture = Fixture::new();
    fixture.index["manifests"] = json!([foreign]);
    let expected = format!("no image for linux/{} in the archive", host_architecture());
    assert_eq!(error(fixture.pack()), expected);
}

#[test]
fn configuration_must_agree_with_platform_and_layers() {
    let with_config = |config: &Value| {
        let mut fixture = Fixture::new();
        let content = bytes(config);
        fixture.file("config", &content);
        fixture.docker[0]["Config"] = json!("config");
        error(fixture.pack_without("index.json"))
    };
    let found = with_config(&json!({ "os": "linux", "architecture": "other" }));
    assert!(
        found.starts_with("image docker.io/library/tool:1 is built for linux/other"),
        "{found}"
    );
    let found = with_config(&json!({ "os": "linux" }));
    assert_eq!(found, "the configuration lists 0 layers, the manifest 1");
}

#[test]
fn zstd_is_refused() {
    let zstd = b"\x28\xb5\x2f\xfd and so on".to_vec();
    assert!(error(Fixture::of(zstd.clone(), &zstd).pack()).contains("is compressed with zstd"));
}

#[test]
fn blob_and_digest_are_read_by_reference() {
    let fixture = Fixture::new();
    let mut archive = archive(fixture.pack());
    let descriptor = archive.index().unwrap().manifests.remove(0);
    let manifest = archive.manifest(&descriptor).unwrap();
    let mut content = Vec::new();
    archive.blob(&manifest.layers[0]).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, fixture.files[&fixture.layer]);
    let docker = archive.docker_manifests().unwrap();
    assert_eq!(archive.digest(&docker[0].layers[0]).unwrap(), manifest.layers[0].digest);
    assert_eq!(archive.document(&manifest.config).unwrap(), fixture.files[&fixture.config]);
    assert!(matches!(archive.digest("../../etc/passwd"), Err(Error::Missing { .. })));
}

#[test]
fn corpus_of_archives_passes() {
    test_support::corpus_passes("archives", |bytes| {
        let mut archive = Archive::new(Cursor::new(bytes)).unwrap();
        // An archive that the fuzzer made may be refused; it is read as far as it is valid.
        let images = archive.images(&Platform::host()).unwrap_or_default();
        for layer in images.iter().flat_map(|image| &image.layers) {
            if let Ok(mut reader) = archive.layer(layer) {
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
            }
        }
    });
}
