use super::*;
use crate::Archive;
use proptest::{collection::vec, prelude::*};
use std::io::{Cursor, Read};

fn builder(name: &str) -> ImageBuilder {
    ImageBuilder::new(name, Platform::host(), ImageConfig::default()).unwrap()
}

fn layer(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (path, content) in files {
        tar.file(path, 0o644, content).unwrap();
    }
    tar.finish().unwrap()
}

fn written(image: &ImageBuilder) -> (Digest, Vec<u8>) {
    let mut bytes = Vec::new();
    (image.write(&mut bytes).unwrap(), bytes)
}

/// Any layer: some files of any content.
fn any_layer() -> impl Strategy<Value = Vec<u8>> {
    let file = ("[a-z]{1,20}(/[a-z]{1,120}){0,2}", vec(any::<u8>(), 0..2000));
    vec(file, 0..4).prop_map(|files| layer(&files))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_layers_are_read_back_with_equal_digests(layers in vec(any_layer(), 0..5)) {
        let image = layers
            .iter()
            .enumerate()
            .fold(builder("a:1"), |image, (n, tar)| image.layer(tar.clone(), &format!("RUN {n}")));
        let (digest, bytes) = written(&image);
        prop_assert_eq!(&written(&image).1, &bytes, "a second build is equal");

        let mut archive = Archive::new(Cursor::new(&bytes)).unwrap();
        let index = archive.index().unwrap();
        prop_assert_eq!(index.manifests[0].digest, digest);
        let images = archive.images(&Platform::host()).unwrap();
        prop_assert_eq!(images.len(), 1);
        prop_assert_eq!(images[0].layers.len(), layers.len());
        prop_assert_eq!(images[0].config.history.len(), layers.len());
        for (read, tar) in images[0].layers.iter().zip(&layers) {
            prop_assert_eq!((read.diff_id, read.size), (Digest::of(tar), tar.len() as u64));
        }
        prop_assert_eq!(read_layers(bytes).unwrap(), layers);
    }

    #[test]
    fn a_changed_bit_among_the_blobs_is_an_error_or_changes_nothing(
        place in 0.0..1.0,
        bit in 0_u8..8,
    ) {
        let tar = layer(&[("tool".to_owned(), b"hello".repeat(300))]);
        let (_, mut bytes) = written(&builder("a:1").layer(tar.clone(), "COPY tool /tool"));
        let blobs = bytes.windows(10).position(|part| part == b"index.json").unwrap();
        let at = (blobs as f64 * place) as usize;
        bytes[at] ^= 1 << bit;
        // Padding and the mode of an entry, for example, do not matter.
        if let Ok(layers) = read_layers(bytes) {
            prop_assert_eq!(layers, [tar]);
        }
    }
}

fn read_layers(archive: Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let mut archive = Archive::new(Cursor::new(archive))?;
    let images = archive.images(&Platform::host())?;
    let mut contents = Vec::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        let mut reader = archive.layer(layer)?;
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(|cause| Error::read("a layer", cause))?;
        reader.finish()?;
        contents.push(content);
    }
    Ok(contents)
}

/// A change of these digests changes the digest of every image that is built again.
#[test]
fn archive_of_a_fixed_image_has_a_fixed_digest() {
    let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned() };
    let config = ImageConfig {
        user: "65532:65532".to_owned(),
        exposed_ports: ["8080/tcp".to_owned()].into(),
        env: vec!["PATH=/".to_owned()],
        entrypoint: vec!["/app".to_owned()],
        labels: BTreeMap::from([("version".to_owned(), "1.0".to_owned())]),
        ..ImageConfig::default()
    };
    let layer = layer(&[("app".to_owned(), b"program".to_vec())]);
    let image = ImageBuilder::new("kubeapp:1.0", platform, config).unwrap().layer(layer, "COPY");
    let (manifest, archive) = written(&image);
    assert_eq!(
        manifest.to_string(),
        "sha256:0021bd98073502ecb08878e240ac42dd58a4b0e17a72b2f59c80291c2f1f2593"
    );
    assert_eq!(
        Digest::of(archive).to_string(),
        "sha256:0da3811405884a7c37d5955a45629dcb28d39cc254ada6e3f41f2d12bb8c7f49"
    );
}

#[test]
fn entries_have_no_clock_no_owner_and_one_order() {
    let (_, bytes) = written(&builder("a:1").layer(layer(&[]), "b").layer(layer(&[]), "c"));
    let mut tar = tar::Archive::new(bytes.as_slice());
    let mut paths = Vec::new();
    for entry in tar.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(
            (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
            (0, 0, 0)
        );
        paths.push(entry.path().unwrap().to_string_lossy().into_owned());
    }
    assert!(paths.is_sorted(), "{paths:?}");
    let blobs = paths.iter().filter(|path| path.starts_with("blobs/sha256/") && path.len() > 13);
    assert_eq!(blobs.count(), 3, "equal layers are one blob");
    assert_eq!(paths[paths.len() - 3..], ["index.json", "manifest.json", "oci-layout"]);
}

#[test]
fn names_are_what_containerd_and_docker_each_expect() {
    for (name, full, tag, familiar) in [
        ("kubeapp:1.0", "docker.io/library/kubeapp:1.0", "1.0", "kubeapp:1.0"),
        ("me/a", "docker.io/me/a:latest", "latest", "me/a:latest"),
        ("localhost:5000/a:2", "localhost:5000/a:2", "2", "localhost:5000/a:2"),
    ] {
        let mut archive = Archive::new(Cursor::new(written(&builder(name)).1)).unwrap();
        let annotations = archive.index().unwrap().manifests.remove(0).annotations;
        assert_eq!(annotations["io.containerd.image.name"], full);
        assert_eq!(annotations["org.opencontainers.image.ref.name"], tag);
        assert_eq!(archive.docker_manifests().unwrap()[0].repo_tags, [familiar]);
        assert_eq!(archive.images(&Platform::host()).unwrap()[0].names, [full]);
    }
}

#[test]
fn name_that_is_no_tag_is_refused() {
    let digest = format!("a@{}", Digest::of("a"));
    for name in ["", "a b", "a\n", &digest, "sha256:0"] {
        let error = ImageBuilder::new(name, Platform::host(), ImageConfig::default()).unwrap_err();
        assert!(matches!(&error, Error::InvalidName(found) if found == name), "{error}");
    }
}

#[test]
fn path_out_of_the_archive_is_refused() {
    for path in ["../escape", "a/../../escape"] {
        let error = TarWriter::new(Vec::new()).file(path, 0o644, b"").unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error}");
    }
}
