//! Archives for tests: OCI layout and docker-archive at once.

use oci_archive::{Digest, host_architecture};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// A layer as an uncompressed tar.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The files of an archive with these layers (as stored, and uncompressed), before they are packed.
pub(crate) fn files(name: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut blob = |bytes: Vec<u8>| {
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        files.insert(digest.blob_path(), bytes);
        (json!({ "digest": digest, "size": size }), digest.blob_path())
    };
    let ids: Vec<Digest> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
    let (stored, paths): (Vec<Value>, Vec<String>) =
        layers.iter().map(|(stored, _)| blob(stored.clone())).unzip();
    let config = json!({
        "architecture": host_architecture(), "os": "linux",
        "config": { "Entrypoint": ["/tool"], "Env": ["PATH=/bin"], "Cmd": null },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let (config, config_path) = blob(config.to_string().into_bytes());
    let docker = json!([{ "Config": config_path, "RepoTags": [name], "Layers": paths }]);
    let (manifest, _) = blob(
        json!({ "schemaVersion": 2, "config": config, "layers": stored }).to_string().into_bytes(),
    );
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    files.insert("manifest.json".to_owned(), docker.to_string().into_bytes());
    files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    files
}

/// Packs files into an archive.
pub(crate) fn pack(path: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let all: Vec<(&str, &[u8])> = files.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
    fs::write(path, layer(&all)).unwrap();
}

/// An archive of one image of one plain layer.
pub(crate) fn archive(path: &Path, name: &str, content: &[(&str, &[u8])]) {
    let layer = layer(content);
    pack(path, &files(name, &[(layer.clone(), layer)]));
}
