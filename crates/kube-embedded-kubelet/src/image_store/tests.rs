//! Archives with all that images may contain, and with what they must not.

use super::*;
use crate::testing::Folder;
use std::io::Write;
use tar::EntryType;

struct Fixture {
    folder: Folder,
    store: ImageStore,
}

impl Fixture {
    fn new() -> Self {
        let folder = Folder::new();
        let store = ImageStore::new(folder.0.join("state"));
        Self { folder, store }
    }

    fn file(&self) -> PathBuf {
        self.folder.0.join("image.tar")
    }

    /// Loads an image of these layers, and returns its root file system or the error.
    fn load(&self, layers: &[Vec<u8>]) -> Result<PathBuf, String> {
        let layers: Vec<_> = layers.iter().map(|l| (l.clone(), l.clone())).collect();
        testing::pack(&self.file(), &testing::files("a:1", &layers));
        self.store.add_archive(&self.file()).map_err(|e| e.to_string())?;
        Ok(self.store.resolve("a:1").unwrap().rootfs.clone())
    }

    fn remaining(&self) -> usize {
        fs::read_dir(self.folder.0.join("state")).unwrap().count()
    }
}

/// A layer of entries with links, written without the checks of a tar library.
fn raw(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, path, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        let content = if *kind == EntryType::Regular { text.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        if *kind != EntryType::Regular {
            gnu.linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().div_ceil(512) * 512, 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[test]
fn later_layers_replace_files_and_whiteouts_remove_them() {
    let fixture = Fixture::new();
    let first =
        testing::layer(&[("etc/a", b"1"), ("etc/b", b"1"), ("opt/x/old", b"1"), ("keep", b"1")]);
    let second = testing::layer(&[
        ("etc/.wh.a", b""),
        ("etc/b", b"2"),
        ("opt/x/new", b"2"),
        ("opt/x/.wh..wh..opq", b""),
    ]);
    let root = fixture.load(&[first, second]).unwrap();
    assert!(!root.join("etc/a").exists());
    assert_eq!(fs::read_to_string(root.join("etc/b")).unwrap(), "2");
    assert!(!root.join("opt/x/old").exists() && root.join("opt/x/new").exists());
    assert!(root.join("keep").exists());
    assert_eq!(fixture.remaining(), 1);
}

#[test]
fn links_are_followed_inside_the_image_only() {
    let fixture = Fixture::new();
    let outside = fixture.folder.0.join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    let layer = raw(&[
        (EntryType::Symlink, "evil", &target),
        (EntryType::Regular, "evil/file", "x"),
        (EntryType::Symlink, "lib", "usr/lib"),
        (EntryType::Regular, "lib/a", "a"),
        (EntryType::Link, "hard", "lib/a"),
        (EntryType::Symlink, "self", "evil/file"),
        (EntryType::Regular, "self", "replaced"),
    ]);
    let root = fixture.load(&[layer]).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(root.join("usr/lib/a")).unwrap(), "a");
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "a");
    assert_eq!(fs::read_to_string(root.join("self")).unwrap(), "replaced");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(root.join("usr/lib/a")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn path_that_leads_out_of_the_image_is_refused() {
    for entry in [
        (EntryType::Regular, "../escape", "x"),
        (EntryType::Regular, "a/../../escape", "x"),
        (EntryType::Link, "a", "../../etc/passwd"),
    ] {
        let fixture = Fixture::new();
        let error = fixture.load(&[raw(&[entry])]).unwrap_err();
        assert!(
            error.contains("points out of the image") && error.contains("image.tar"),
            "{error}"
        );
        assert!(!fixture.folder.0.join("escape").exists());
        assert_eq!(fixture.remaining(), 0);
    }
}

#[test]
fn layers_and_whole_archives_may_be_compressed() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let fixture = Fixture::new();
    let plain = testing::layer(&[("tool", b"hello")]);
    testing::pack(&fixture.file(), &testing::files("z:1", &[(gzip(&plain), plain)]));
    let whole = gzip(&fs::read(fixture.file()).unwrap());
    fs::write(fixture.folder.0.join("whole.tar.gz"), whole).unwrap();
    assert_eq!(fixture.store.add_archive(&fixture.file()).unwrap(), ["docker.io/library/z:1"]);
    assert_eq!(
        fixture.store.add_archive(&fixture.folder.0.join("whole.tar.gz")).unwrap(),
        ["docker.io/library/z:1"]
    );
    let image = fixture.store.resolve("z:1").unwrap();
    assert_eq!(fs::read_to_string(image.rootfs.join("tool")).unwrap(), "hello");
    assert_eq!(image.config.entrypoint, ["/tool"]);
    assert_eq!(fixture.store.list().len(), 1);
}

#[test]
fn docker_archive_without_oci_layout_is_loaded() {
    let fixture = Fixture::new();
    let layer = testing::layer(&[("tool", b"hello")]);
    let mut files = testing::files("d:1", &[(layer.clone(), layer)]);
    files.remove("index.json");
    testing::pack(&fixture.file(), &files);
    assert_eq!(fixture.store.add_archive(&fixture.file()).unwrap(), ["docker.io/library/d:1"]);
}

#[test]
fn broken_archive_is_explained_and_leaves_nothing_behind() {
    let layer = testing::layer(&[("tool", b"hello")]);
    let good = || testing::files("b:1", &[(layer.clone(), layer.clone())]);
    let layer_path = oci_archive::Digest::of(&layer).blob_path();
    let error = |change: &dyn Fn(&Fixture)| {
        let fixture = Fixture::new();
        change(&fixture);
        let error = fixture.store.add_archive(&fixture.file()).unwrap_err().to_string();
        assert!(error.contains("image.tar"), "{error}");
        assert!(!fixture.folder.0.join("state").exists() || fixture.remaining() == 0);
        error
    };
    let with = |change: &dyn Fn(&mut std::collections::BTreeMap<String, Vec<u8>>)| {
        error(&|fixture| {
            let mut files = good();
            change(&mut files);
            testing::pack(&fixture.file(), &files);
        })
    };
    assert!(error(&|_| {}).contains("No such file"));
    assert!(
        error(&|w| fs::write(w.file(), "hello".repeat(300)).unwrap()).contains("not a tar archive")
    );
    assert!(with(&|f| f.clear()).contains("neither index.json nor manifest.json"));
    assert!(with(&|f| drop(f.remove(&layer_path))).contains("is missing"));
    assert!(
        with(&|f| f.get_mut(&layer_path).unwrap()[600] ^= 1).contains("is damaged: its digest is")
    );
    assert!(
        with(&|f| drop(f.insert("index.json".into(), b"{".to_vec())))
            .contains("failed to parse index.json")
    );
    let cut = error(&|w| {
        testing::pack(&w.file(), &good());
        let bytes = fs::read(w.file()).unwrap();
        fs::write(w.file(), &bytes[..700]).unwrap();
    });
    assert!(cut.contains("truncated archive"), "{cut}");
}

#[test]
fn directory_is_scanned_again_and_broken_archives_are_named() {
    let fixture = Fixture::new();
    let folder = fixture.folder.0.join("images");
    fs::create_dir(&folder).unwrap();
    assert!(fixture.store.add_directory(&folder.join("none")).is_err());
    assert!(fixture.store.add_directory(&folder).unwrap().is_empty());
    assert!(fixture.store.resolve("a:1").is_none());
    fs::write(folder.join("bad.tar"), "nonsense").unwrap();
    testing::archive(&folder.join("a.tar"), "a:1", &[("tool", b"1")]);
    assert!(fixture.store.resolve("a:1").is_some());
    assert!(fixture.store.resolve("b:1").is_none());
    let why = fixture.store.explain_missing("b:1");
    assert!(
        why.contains("\"b:1\" is not loaded")
            && why.contains("bad.tar is unusable")
            && why.contains("loaded are a:1"),
        "{why}"
    );
}
