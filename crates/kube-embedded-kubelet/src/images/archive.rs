//! Reads the two formats that tools write images in: an OCI layout and what `docker save` writes.
//! Some archives are both; then the OCI half is read, because its digests cover everything.

use super::{Image, ImageConfig, layer, normalise};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Manifests, indexes and configurations are small; whatever claims otherwise is not read.
const DOCUMENT: u64 = 8 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// Unpacks all images of `file` below `state`.
pub(super) fn load(file: &Path, state: &Path) -> Result<Vec<Image>, String> {
    let mut archive = Archive::open(file, state)?;
    let found = if archive.entries.contains_key("index.json") {
        archive.oci()?
    } else if archive.entries.contains_key("manifest.json") {
        archive.docker()?
    } else {
        return Err("it has neither index.json nor manifest.json, so it is no image archive; \
                    `docker save` and `cargo xtask images` write such"
            .to_owned());
    };
    if found.is_empty() {
        return Err(format!("it holds no image for linux/{}", architecture()));
    }
    found.into_iter().map(|described| archive.unpack(described, state)).collect()
}

/// An image as the archive describes it, not yet unpacked.
struct Described {
    names: Vec<String>,
    config: Blob,
    layers: Vec<Blob>,
}

struct Blob {
    path: String,
    /// `sha256:…`, where the archive promises one.
    digest: Option<String>,
}

struct Archive {
    file: File,
    entries: HashMap<String, (u64, u64)>,
    _unzipped: Option<Temporary>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
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
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Option<ImageConfig>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl Archive {
    fn open(path: &Path, state: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        let mut magic = [0; 2];
        let gzip = file.read_exact(&mut magic).is_ok() && magic == GZIP;
        let mut unzipped = None;
        if gzip {
            file.rewind().map_err(|e| e.to_string())?;
            let plain = Temporary::new(state);
            let mut to = File::create_new(&plain.0).map_err(|e| e.to_string())?;
            io::copy(&mut flate2::read::MultiGzDecoder::new(BufReader::new(&file)), &mut to)
                .map_err(|e| format!("its gzip stream is broken: {e}"))?;
            file = File::open(&plain.0).map_err(|e| e.to_string())?;
            unzipped = Some(plain);
        }
        file.rewind().map_err(|e| e.to_string())?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        let mut entries = HashMap::new();
        let mut tar = tar::Archive::new(&file);
        let broken = |e: io::Error| format!("it is no tar archive, or cut off: {e}");
        for entry in tar.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let path = entry.path().map_err(broken)?;
            let path = path.to_string_lossy();
            let (at, size) = (entry.raw_file_position(), entry.size());
            if at.saturating_add(size) > length {
                return Err(format!("it is cut off: {path} ends behind the end of the file"));
            }
            if entry.header().entry_type() == tar::EntryType::Regular {
                entries.insert(path.trim_start_matches("./").to_owned(), (at, size));
            }
        }
        Ok(Self { file, entries, _unzipped: unzipped })
    }

    fn oci(&mut self) -> Result<Vec<Described>, String> {
        let index: Index = self.document("index.json", None)?;
        let tags = self.docker_tags();
        let mut found = Vec::new();
        for descriptor in index.manifests {
            let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .find_map(|key| descriptor.annotations.get(*key))
                // `docker buildx` writes a bare tag into the latter, which names no image.
                .filter(|name| name.contains([':', '/']))
                .cloned();
            let Some(manifest) = self.manifest(descriptor, 0)? else { continue };
            let config = blob(&manifest.config)?;
            let mut names: Vec<String> = name.into_iter().collect();
            names.extend(tags.get(&config.path).cloned().unwrap_or_default());
            let layers = manifest.layers.iter().map(blob).collect::<Result<_, _>>()?;
            found.push(Described { names, config, layers });
        }
        Ok(found)
    }

    /// The manifest for this machine, through nested indexes.
    fn manifest(&mut self, of: Descriptor, depth: u8) -> Result<Option<Manifest>, String> {
        let fits = |p: &Platform| {
            (p.os.is_empty() || p.os == "linux")
                && (p.architecture.is_empty() || p.architecture == architecture())
        };
        if !of.platform.as_ref().is_none_or(fits) {
            return Ok(None);
        }
        let at = blob(&of)?;
        let value: serde_json::Value = self.document(&at.path, at.digest.as_deref())?;
        if of.media_type.contains("index")
            || of.media_type.contains("list")
            || value.get("manifests").is_some()
        {
            if depth > 3 {
                return Err("its indexes are nested too deep".to_owned());
            }
            let index: Index = parse(&at.path, value)?;
            for inner in index.manifests {
                if let Some(found) = self.manifest(inner, depth + 1)? {
                    return Ok(Some(found));
                }
            }
            return Ok(None);
        }
        parse(&at.path, value).map(Some)
    }

    fn docker(&mut self) -> Result<Vec<Described>, String> {
        let manifests: Vec<DockerManifest> = self.document("manifest.json", None)?;
        Ok(manifests
            .into_iter()
            .map(|m| Described {
                names: m.repo_tags.unwrap_or_default(),
                config: Blob { digest: named_digest(&m.config), path: m.config },
                layers: m.layers.into_iter().map(|path| Blob { digest: None, path }).collect(),
            })
            .collect())
    }

    /// What `manifest.json` of an archive of both formats calls an image, by its configuration.
    fn docker_tags(&mut self) -> HashMap<String, Vec<String>> {
        let manifests: Vec<DockerManifest> =
            self.document("manifest.json", None).unwrap_or_default();
        manifests.into_iter().map(|m| (m.config, m.repo_tags.unwrap_or_default())).collect()
    }

    fn unpack(&mut self, described: Described, state: &Path) -> Result<Image, String> {
        let mut names: Vec<String> = described.names.iter().map(|n| normalise(n)).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(
                "it holds an image without a name; save it by name, `docker save kubeapp:1.0`"
                    .to_owned(),
            );
        }
        let raw = self.bytes(&described.config.path, described.config.digest.as_deref())?;
        let id = format!("sha256:{}", hex(&Sha256::digest(&raw)));
        let config: Configuration = serde_json::from_slice(&raw)
            .map_err(|e| format!("its configuration {} is broken: {e}", described.config.path))?;
        if !config.architecture.is_empty() && config.architecture != architecture()
            || !matches!(&*config.os, "" | "linux")
        {
            return Err(format!(
                "{} is built for {}/{}, and this machine is linux/{}",
                names.join(", "),
                config.os,
                config.architecture,
                architecture()
            ));
        }
        if config.rootfs.diff_ids.len() != described.layers.len() {
            return Err(format!(
                "its configuration lists {} layers, its manifest {}",
                config.rootfs.diff_ids.len(),
                described.layers.len()
            ));
        }
        let mut size = 0;
        for layer in &described.layers {
            size += self.entry(&layer.path)?.1;
        }
        let home = state.join(id.trim_start_matches("sha256:"));
        if !home.exists() {
            // Unpacked beside and moved into place: a folder of that name is always complete.
            let work = Temporary::new(state);
            fs::create_dir_all(&work.0)
                .map_err(|e| format!("cannot make {}: {e}", work.0.display()))?;
            for (layer, diff_id) in described.layers.iter().zip(&config.rootfs.diff_ids) {
                self.layer(layer, diff_id, &work.0)?;
            }
            match fs::rename(&work.0, &home) {
                Err(e) if !home.exists() => {
                    return Err(format!("cannot make {}: {e}", home.display()));
                }
                _ => {}
            }
        }
        Ok(Image { names, id, rootfs: home, config: config.config.unwrap_or_default(), size })
    }

    fn layer(&mut self, blob: &Blob, diff_id: &str, rootfs: &Path) -> Result<(), String> {
        if let Some(digest) = &blob.digest {
            let mut hash = Sha256::new();
            io::copy(&mut self.reader(&blob.path)?, &mut Hashing(&mut hash))
                .map_err(|e| e.to_string())?;
            check(&blob.path, digest, hash)?;
        }
        let named = |e: String| format!("layer {}: {e}", blob.path);
        let mut magic = [0; 4];
        let read = self.reader(&blob.path)?.read(&mut magic).map_err(|e| named(e.to_string()))?;
        if magic == ZSTD {
            return Err(named(
                "is compressed with zstd, which is not supported; save it with gzip or plain"
                    .to_owned(),
            ));
        }
        let mut hash = Sha256::new();
        let raw = BufReader::with_capacity(64 << 10, self.reader(&blob.path)?);
        let stream: Box<dyn Read> = if read >= 2 && magic.starts_with(&GZIP) {
            Box::new(flate2::read::MultiGzDecoder::new(raw))
        } else {
            Box::new(raw)
        };
        let mut tee = Tee { from: stream, hash: &mut hash };
        layer::apply(&mut tee, rootfs).map_err(named)?;
        // A tar ends before its stream does: the padding belongs to the digest as well.
        io::copy(&mut tee, &mut io::sink()).map_err(|e| named(e.to_string()))?;
        drop(tee);
        check(&blob.path, diff_id, hash)
    }

    fn document<T: serde::de::DeserializeOwned>(
        &mut self,
        path: &str,
        digest: Option<&str>,
    ) -> Result<T, String> {
        let raw = self.bytes(path, digest)?;
        serde_json::from_slice(&raw).map_err(|e| format!("{path} in it is broken: {e}"))
    }

    fn bytes(&mut self, path: &str, digest: Option<&str>) -> Result<Vec<u8>, String> {
        let size = self.entry(path)?.1;
        if size > DOCUMENT {
            return Err(format!(
                "{path} in it has {size} bytes, which is no manifest or configuration"
            ));
        }
        let mut raw = Vec::new();
        self.reader(path)?.read_to_end(&mut raw).map_err(|e| e.to_string())?;
        if let Some(digest) = digest {
            check(path, digest, Sha256::new_with_prefix(&raw))?;
        }
        Ok(raw)
    }

    fn entry(&self, path: &str) -> Result<(u64, u64), String> {
        self.entries
            .get(path)
            .copied()
            .ok_or_else(|| format!("{path} is missing in it, though it is referred to"))
    }

    fn reader(&mut self, path: &str) -> Result<io::Take<&File>, String> {
        let (at, size) = self.entry(path)?;
        self.file.seek(SeekFrom::Start(at)).map_err(|e| e.to_string())?;
        Ok((&self.file).take(size))
    }
}

/// Kubernetes' and Go's name of the processor.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob(of: &Descriptor) -> Result<Blob, String> {
    match of.digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(Blob { path: format!("blobs/sha256/{hex}"), digest: Some(of.digest.clone()) })
        }
        _ => Err(format!("{:?} in it is no sha256 digest", of.digest)),
    }
}

/// `docker save` names a configuration after its digest.
fn named_digest(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| format!("sha256:{name}"))
}

fn check(path: &str, wanted: &str, hash: Sha256) -> Result<(), String> {
    let got = format!("sha256:{}", hex(&hash.finalize()));
    if got == wanted {
        return Ok(());
    }
    Err(format!("{path} in it is damaged: its digest is {got}, and should be {wanted}"))
}

fn parse<T: serde::de::DeserializeOwned>(
    path: &str,
    value: serde_json::Value,
) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("{path} in it is broken: {e}"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Tee<'a> {
    from: Box<dyn Read + 'a>,
    hash: &'a mut Sha256,
}

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// A file or folder that is gone when this is.
struct Temporary(PathBuf);

impl Temporary {
    fn new(state: &Path) -> Self {
        let n = UNIQUE.fetch_add(1, Ordering::Relaxed);
        Self(state.join(format!(".unpacking-{}-{n}", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.0.is_dir() {
            let _ = fs::remove_dir_all(&self.0);
        } else {
            let _ = fs::remove_file(&self.0);
        }
    }
}
