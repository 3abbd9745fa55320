//! Archives for tests: OCI layout and docker-archive at once.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
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

pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The files of an archive with these layers (as stored, and uncompressed), before they are packed.
pub(crate) fn files(name: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut blob = |bytes: Vec<u8>| {
        let hex = digest(&bytes);
        let size = bytes.len();
        files.insert(format!("blobs/sha256/{hex}"), bytes);
        json!({ "digest": format!("sha256:{hex}"), "size": size })
    };
    let ids: Vec<String> =
        layers.iter().map(|(_, plain)| format!("sha256:{}", digest(plain))).collect();
    let stored: Vec<Value> = layers.iter().map(|(stored, _)| blob(stored.clone())).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Entrypoint": ["/tool"], "Env": ["PATH=/bin"], "Cmd": null },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = blob(config.to_string().into_bytes());
    let path =
        |d: &Value| format!("blobs/sha256/{}", &d["digest"].as_str().unwrap()["sha256:".len()..]);
    let docker = json!([{ "Config": path(&config), "RepoTags": [name], "Layers": stored.iter().map(path).collect::<Vec<_>>() }]);
    let manifest = blob(
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
