//! The images under test, and ways to make them wrong.

use lab_environment::Image;
use serde_json::Value;
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// One version as `cargo xtask images` left it.
pub(crate) fn image(version: &str) -> Image {
    let folder = folder();
    let archive = folder.join(format!("kubeapp-{version}.tar"));
    assert!(
        archive.exists(),
        "there is no image {}: run `cargo xtask images` first, or set CANARY_IMAGES to the folder \
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

/// The same image under the name of another: what `kubeapp:2.0` would be if somebody had tagged the
/// wrong build.
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

/// Copies a tar file with the content of its files changed.
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

/// `CANARY_IMAGES`, or where `cargo xtask images` leaves them: `images` beside the folder of the
/// profile that this test was built with.
fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CANARY_IMAGES") {
        return folder.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("a test lies in TARGET/PROFILE/deps");
    target.join("images")
}
