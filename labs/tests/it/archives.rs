//! The images under test, and mutations of them.

use lab_environment::Image;
use oci_archive::Digest;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Returns one version as `cargo xtask images` built it.
pub(crate) fn image(version: &str) -> Image {
    let folder = folder();
    let archive = folder.join(format!("kubeapp-{version}.tar"));
    assert!(
        archive.exists(),
        "no image {}; run `cargo xtask images` first, or set CANARY_IMAGES to the folder \
         that `cargo xtask images --out` wrote",
        archive.display()
    );
    Image {
        version: version.into(),
        manifest_name: format!("kubeapp:{version}"),
        name: format!("kubeapp:{version}"),
        rebuilt: folder.join(format!("rebuilt/kubeapp-{version}.tar")),
        binary: folder.join(format!("kubeapp-{version}")),
        build_input: format!("KUBEAPP_VERSION={version}"),
        archive,
    }
}

/// Returns `image` with the content of another: what `kubeapp:2.0` would be if the wrong build had been
/// tagged.
pub(crate) fn mistagged(image: &Image, content: &Image, folder: &Path) -> Image {
    let archive = folder.join(format!("mistagged-{}.tar", image.version));
    let (from, to) = (content.version.as_str(), image.version.as_str());
    rewrite(&content.archive, &archive, |name, bytes| {
        if !matches!(name, "manifest.json" | "index.json") {
            return bytes;
        }
        let text = String::from_utf8(bytes).expect("JSON");
        let text = text.replace(&format!("kubeapp:{from}"), &format!("kubeapp:{to}"));
        let mut json: Value = serde_json::from_str(&text).expect("JSON");
        let reference = "/manifests/0/annotations/org.opencontainers.image.ref.name";
        if let Some(reference) = json.pointer_mut(reference) {
            *reference = to.into();
        }
        json.to_string().into_bytes()
    });
    Image { archive, ..image.clone() }
}

/// Returns the image with one more file, in the archive and in the second build.
pub(crate) fn with_extra_file(image: &Image, folder: &Path) -> Image {
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(fs::File::open(&image.archive).expect("the archive"));
    for entry in archive.entries().expect("a tar file") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its content");
        if entry.header().entry_type().is_file() {
            members.insert(name, bytes);
        }
    }
    let mut take = |name: &str| members.remove(name).expect("a member of the archive");
    let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).expect("JSON");
    let path =
        |digest: &Value| format!("blobs/{}", digest.as_str().expect("a digest").replace(':', "/"));

    let (mut index, mut docker) = (json(take("index.json")), json(take("manifest.json")));
    let mut manifest = json(take(&path(&index["manifests"][0]["digest"])));
    let mut config = json(take(&path(&manifest["config"]["digest"])));
    let mut layer = take(&path(&manifest["layers"][0]["digest"]));
    // A tar file ends with two empty blocks, which the new member must precede.
    let end = layer.iter().rposition(|byte| *byte != 0).expect("a layer") / 512 * 512 + 512;
    layer.truncate(end);
    let mut extended = tar::Builder::new(layer);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(5);
    extended.append_data(&mut header, "etc/extra", &b"more\n"[..]).expect("one more file");
    let layer = extended.into_inner().expect("a layer");

    let mut put = |bytes: Vec<u8>| {
        let (digest, size) = (Digest::of(&bytes).to_string(), bytes.len());
        members.insert(path(&digest.as_str().into()), bytes);
        (digest, size)
    };
    let describe = |descriptor: &mut Value, (digest, size): &(String, usize)| {
        (descriptor["digest"], descriptor["size"]) = (digest.as_str().into(), (*size).into());
    };
    let layer = put(layer);
    config["rootfs"]["diff_ids"][0] = layer.0.as_str().into();
    let config = put(config.to_string().into_bytes());
    describe(&mut manifest["layers"][0], &layer);
    describe(&mut manifest["config"], &config);
    describe(&mut index["manifests"][0], &put(manifest.to_string().into_bytes()));
    docker[0]["Config"] = path(&config.0.into()).into();
    docker[0]["Layers"][0] = path(&layer.0.into()).into();
    members.insert("index.json".into(), index.to_string().into_bytes());
    members.insert("manifest.json".into(), docker.to_string().into_bytes());

    let archive = folder.join(format!("extended-{}.tar", image.version));
    let mut changed = tar::Builder::new(fs::File::create(&archive).expect("a new archive"));
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        changed.append_data(&mut header, name, bytes.as_slice()).expect("an entry");
    }
    changed.finish().expect("the new archive");
    Image { rebuilt: archive.clone(), archive, ..image.clone() }
}

/// Copies a tar file and changes the content of its files.
pub(crate) fn rewrite(from: &Path, to: &Path, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) {
    let mut archive = tar::Archive::new(fs::File::open(from).expect("the archive"));
    let mut changed = tar::Builder::new(fs::File::create(to).expect("a new archive"));
    for entry in archive.entries().expect("a tar file") {
        let mut entry = entry.expect("an entry");
        let mut header = entry.header().clone();
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its content");
        if header.entry_type().is_file() {
            bytes = change(&name, bytes);
        }
        header.set_size(bytes.len() as u64);
        changed.append_data(&mut header, &name, bytes.as_slice()).expect("an entry");
    }
    changed.finish().expect("the new archive");
}

/// Returns `CANARY_IMAGES`, or the default of `cargo xtask images`: `images` next to the folder of this
/// test's profile.
fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CANARY_IMAGES") {
        return folder.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("a test lies in TARGET/PROFILE/deps");
    target.join("images")
}
