//! The volumes of a pod as directories of the host, to be mounted into its containers (the kubelet's
//! volume manager).

use crate::{
    env::{self, ReferencedObjects},
    host_path,
    safe_dir::SafeDir,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The default mode of files in a volume, as in Kubernetes.
const DEFAULT_MODE: i32 = 0o644;
/// The period at which volumes that may change are refreshed.
const SYNC_PERIOD: Duration = Duration::from_secs(10);
/// The period at which volumes are refreshed that hold only tokens, which are valid for an hour.
const TOKEN_SYNC_PERIOD: Duration = Duration::from_secs(60);

/// Returns the names of the ConfigMaps and Secrets that the volumes are created from.
pub(crate) fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        maps.extend(volume.config_map.as_ref().map(|m| m.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|m| m.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// Returns how often the volumes of a pod are refreshed; `None` if nothing in them can change.
pub(crate) fn sync_period(pod: &Pod) -> Option<Duration> {
    let volumes = || pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    // The volume that admission adds holds a certificate, which stays the same, and a token.
    let (maps, secrets) = references(pod);
    let referenced = !secrets.is_empty() || maps.iter().any(|name| name != "kube-root-ca.crt");
    if referenced || volumes().any(|volume| volume.downward_api.is_some()) {
        return Some(SYNC_PERIOD);
    }
    volumes().any(|volume| volume.projected.is_some()).then_some(TOKEN_SYNC_PERIOD)
}

/// Returns the service account tokens in the volumes, each with the name of its volume.
pub(crate) fn tokens(pod: &Pod) -> impl Iterator<Item = (&str, &ServiceAccountTokenProjection)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.flat_map(|volume| {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        tokens.map(|token| (volume.name.as_str(), token))
    })
}

/// The mode of an `emptyDir`, as the kubelet's: containers may run as any user.
const EMPTY_DIR_MODE: u32 = 0o777;

/// A volume that exists on the host.
#[derive(Debug)]
pub(crate) struct PreparedVolume {
    /// A folder that no container can replace by a link.
    pub(crate) root: PathBuf,
    /// The path of the volume below it, which a container may be changing: never to be followed out of
    /// `root`.
    pub(crate) below: PathBuf,
    /// Set if containers may write to it. Volumes that the kubelet itself writes to never are.
    pub(crate) writable: bool,
}

/// Where volumes are, and to whom they belong.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// The directory of the pod's volumes in memory, if there can be any.
    pub(crate) memory: Option<&'a Path>,
    /// The folders that `hostPath` volumes may be in.
    pub(crate) host_paths: &'a [PathBuf],
    /// `fsGroup`: the group that files belong to.
    pub(crate) group: Option<u32>,
}

/// Creates or refreshes the volumes below `directory`. A volume of an unsupported kind is left out,
/// and reported by the container that mounts it. A volume that fails does not hold up the others.
///
///
/// # Errors
/// The message of Kubernetes' `FailedMount`, of the first volume that failed.
pub(crate) fn prepare(
    pod: &Pod,
    directory: &Path,
    referenced: &ReferencedObjects,
    place: Place<'_>,
) -> Result<BTreeMap<String, PreparedVolume>, String> {
    let (mut prepared, mut first) = (BTreeMap::new(), None);
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let in_memory =
            volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
        let directory = place.memory.filter(|_| in_memory).unwrap_or(directory);
        let path = directory.join(&volume.name);
        let one = match &volume.host_path {
            Some(source) => {
                let path = host_path::prepare(source, place.host_paths);
                path.map(|(root, below)| Some(PreparedVolume { root, below, writable: true }))
            }
            None => prepare_one(pod, volume, path, referenced, place.group),
        };
        match one {
            Ok(Some(one)) => {
                prepared.insert(volume.name.clone(), one);
            }
            Ok(None) => {}
            Err(error) => {
                first.get_or_insert_with(|| {
                    format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name)
                });
            }
        }
    }
    first.map_or(Ok(prepared), Err)
}

fn prepare_one(
    pod: &Pod,
    volume: &Volume,
    root: PathBuf,
    referenced: &ReferencedObjects,
    group: Option<u32>,
) -> Result<Option<PreparedVolume>, String> {
    let failed = |e: io::Error| e.to_string();
    let writable = volume.empty_dir.is_some();
    if writable {
        if !root.exists() {
            fs::create_dir_all(&root).map_err(failed)?;
            // Set explicitly, because the process may have a umask.
            let mode = fs::Permissions::from_mode(EMPTY_DIR_MODE);
            fs::set_permissions(&root, mode).map_err(failed)?;
            if let Some(group) = group {
                SafeDir::open(&root).and_then(|root| root.give_to(group)).map_err(failed)?;
            }
        }
    } else if let Some(content) = content(pod, volume, referenced)? {
        fill(&root, &content, group).map_err(failed)?;
    } else {
        return Ok(None);
    }
    Ok(Some(PreparedVolume { root, below: PathBuf::new(), writable }))
}

/// Returns the size of an `emptyDir`, in bytes.
pub(crate) fn usage(volume: &Path) -> io::Result<u64> {
    SafeDir::open(volume)?.usage()
}

/// Makes a directory contain exactly these files. Neither keys nor the paths of items, which may have
/// directories, lead out of it.
fn fill(directory: &Path, content: &Content, group: Option<u32>) -> io::Result<()> {
    let root = SafeDir::create(directory)?;
    if let Some(group) = group {
        root.give_to(group)?;
    }
    let mut kept = BTreeSet::new();
    for (path, bytes, mode) in content {
        let path = Path::new(path);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let folder = root.create_below(path.parent().unwrap_or(Path::new("")))?;
        if let Some(group) = group {
            folder.give_to(group)?;
        }
        folder.write(name, bytes, *mode, group)?;
        kept.insert(path.to_owned());
    }
    root.remove_others(&kept)
}

/// The files of a volume: path, content and mode.
type Content = Vec<(String, Vec<u8>, u32)>;

fn content(
    pod: &Pod,
    volume: &Volume,
    referenced: &ReferencedObjects,
) -> Result<Option<Content>, String> {
    if let Some(source) = &volume.config_map {
        let all = config_map(&source.name, referenced);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return items(all, source.items.as_deref(), source.optional, mode).map(Some);
    }
    if let Some(source) = &volume.secret {
        let all = secret(source.secret_name.as_deref().unwrap_or_default(), referenced);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return items(all, source.items.as_deref(), source.optional, mode).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return downward(pod, source.items.as_deref(), mode).map(Some);
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
    let mut content = Content::new();
    for source in projected.sources.iter().flatten() {
        if let Some(source) = &source.config_map {
            let all = config_map(&source.name, referenced);
            content.extend(items(all, source.items.as_deref(), source.optional, mode)?);
        }
        if let Some(source) = &source.secret {
            let all = secret(&source.name, referenced);
            content.extend(items(all, source.items.as_deref(), source.optional, mode)?);
        }
        if let Some(source) = &source.downward_api {
            content.extend(downward(pod, source.items.as_deref(), mode)?);
        }
        if let Some(source) = &source.service_account_token {
            let key = (volume.name.clone(), source.path.clone());
            let token = referenced.tokens.get(&key).ok_or("its token was not fetched")?;
            content.push((source.path.clone(), token.clone().into_bytes(), mode as u32 & 0o777));
        }
    }
    Ok(Some(content))
}

type Keys = BTreeMap<String, Vec<u8>>;

fn config_map(name: &str, referenced: &ReferencedObjects) -> Result<Keys, String> {
    let found = referenced.config_maps.get(name).and_then(Option::as_ref);
    let map: &ConfigMap = found.ok_or_else(|| format!("configmap {name:?} not found"))?;
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    Ok(text.chain(binary).collect())
}

fn secret(name: &str, referenced: &ReferencedObjects) -> Result<Keys, String> {
    let found = referenced.secrets.get(name).and_then(Option::as_ref);
    let secret: &Secret = found.ok_or_else(|| format!("secret {name:?} not found"))?;
    Ok(secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect())
}

fn items(
    all: Result<Keys, String>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
) -> Result<Content, String> {
    let all = match all {
        Err(_) if optional == Some(true) => return Ok(Content::new()),
        all => all?,
    };
    let bits = |own: Option<i32>| own.unwrap_or(mode) as u32 & 0o777;
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all.into_iter().map(|(path, bytes)| (path, bytes, bits(None))).collect());
    };
    let mut chosen = Vec::new();
    for item in items {
        match all.get(&item.key) {
            Some(bytes) => chosen.push((item.path.clone(), bytes.clone(), bits(item.mode))),
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(chosen)
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
) -> Result<Content, String> {
    let files = items.unwrap_or_default().iter().map(|item| {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => env::field_of_object(pod, &field.field_path)?,
            (None, Some(wanted)) => env::resource(pod, None, wanted)?,
            (None, None) => {
                return Err(format!(
                    "item {:?} has neither fieldRef nor resourceFieldRef",
                    item.path
                ));
            }
        };
        Ok((item.path.clone(), text.into_bytes(), item.mode.unwrap_or(mode) as u32 & 0o777))
    });
    files.collect()
}

#[cfg(test)]
mod tests;
