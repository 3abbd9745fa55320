//! The volumes of a pod as directories of the host, to be mounted into its containers (the kubelet's
//! volume manager).

use crate::{
    env::{self, ReferencedObjects},
    root_path::resolve_in_root,
    runtime::Mount,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret,
    ServiceAccountTokenProjection, Volume,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
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

/// A volume that exists on the host.
#[derive(Debug)]
pub(crate) struct PreparedVolume {
    path: PathBuf,
    /// Set if containers may write to it. Volumes that the kubelet itself writes to never are: it
    /// would follow the links that a container puts there.
    writable: bool,
}

/// Creates or refreshes the volumes below `directory`. A volume of an unsupported kind is left out,
/// and reported by the container that mounts it. A volume that fails does not hold up the others.
///
/// # Errors
/// The message of Kubernetes' `FailedMount`, of the first volume that failed.
pub(crate) fn prepare(
    pod: &Pod,
    directory: &Path,
    referenced: &ReferencedObjects,
) -> Result<BTreeMap<String, PreparedVolume>, String> {
    let (mut prepared, mut first) = (BTreeMap::new(), None);
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        match prepare_one(pod, volume, directory.join(&volume.name), referenced) {
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
    path: PathBuf,
    referenced: &ReferencedObjects,
) -> Result<Option<PreparedVolume>, String> {
    if volume.empty_dir.is_some() {
        fs::create_dir_all(&path).map_err(|e| e.to_string())?;
        return Ok(Some(PreparedVolume { path, writable: true }));
    }
    if let Some(content) = content(pod, volume, referenced)? {
        fill(&path, &content).map_err(|e| e.to_string())?;
        return Ok(Some(PreparedVolume { path, writable: false }));
    }
    let host = volume.host_path.as_ref();
    Ok(host.map(|host| PreparedVolume { path: PathBuf::from(&host.path), writable: true }))
}

/// Makes a directory contain exactly these files.
fn fill(directory: &Path, content: &Content) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut kept = BTreeSet::new();
    for (path, bytes, mode) in content {
        // Keys are validated by the API; the paths of items may have directories. Neither leads out
        // of the volume.
        let file = resolve_in_root(directory, Path::new(path), true)?;
        fs::create_dir_all(file.parent().unwrap_or(directory))?;
        write(&file, bytes, *mode)?;
        kept.insert(file);
    }
    remove_others(directory, &kept)
}

/// Removes files that are not among `kept`. Directories stay, because something may be mounted there.
fn remove_others(directory: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes a file atomically, because a container may be reading it. An unchanged file stays.
fn write(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let is_file = fs::symlink_metadata(file).is_ok_and(|m| m.is_file());
    if is_file && fs::read(file).is_ok_and(|current| current == bytes) {
        return Ok(());
    }
    let mut draft = file.as_os_str().to_owned();
    draft.push("..new");
    // A leftover of a failed attempt, or a link that a process of the host has put there: removed,
    // never written through.
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut new = fs::OpenOptions::new().write(true).create_new(true).open(&draft)?;
    new.write_all(bytes)?;
    new.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&draft, file)
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

/// Returns the mounts of a container.
///
/// # Errors
/// When a volume cannot be mounted; the message names it.
pub(crate) fn mounts(
    container: &Container,
    volumes: &BTreeMap<String, PreparedVolume>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    let mut read_only_volumes = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.get(&wanted.name) else {
            return Err(format!(
                "volume {:?} is of an unsupported kind; allowed are emptyDir, configMap, secret, downwardAPI, projected and hostPath",
                wanted.name
            ));
        };
        let source = match wanted.sub_path.as_deref().filter(|p| !p.is_empty()) {
            None => volume.path.clone(),
            Some(path) => {
                let source = resolve_in_root(&volume.path, Path::new(path), true)
                    .map_err(|e| e.to_string())?;
                if !source.exists() {
                    fs::create_dir_all(&source)
                        .map_err(|e| format!("failed to create subPath directory {path:?}: {e}"))?;
                }
                source
            }
        };
        let target = format!("/{}", wanted.mount_path.trim_matches('/'));
        if !volume.writable && source.is_dir() {
            read_only_volumes.push((source.clone(), format!("{}/", target.trim_end_matches('/'))));
        }
        let read_only = wanted.read_only == Some(true) || !volume.writable;
        mounts.push(Mount { source, below: None, target, read_only });
    }
    // A mount point inside a volume that the container cannot write to has to be created beforehand.
    for (source, outer) in &read_only_volumes {
        for inner in mounts.iter().filter_map(|m| m.target.strip_prefix(outer.as_str())) {
            let mount_point =
                resolve_in_root(source, Path::new(inner), true).map_err(|e| e.to_string())?;
            if !mount_point.exists() {
                fs::create_dir_all(&mount_point).map_err(|e| e.to_string())?;
            }
        }
    }
    // Outer mounts first, or they would hide the inner ones.
    mounts.sort_by_key(|m| m.target.matches('/').count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use serde_json::json;

    #[test]
    fn volumes_hold_the_objects_they_refer_to() {
        let folder = Folder::new();
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "labels": { "a": "x\ny" } }, "spec": {
            "containers": [{ "name": "c", "resources": { "limits": { "memory": "1Mi" } } }], "volumes": [
            { "name": "tmp", "emptyDir": {} },
            { "name": "conf", "configMap": { "name": "cm", "items": [{ "key": "a", "path": "deep/a.txt" }] } },
            { "name": "all", "projected": { "defaultMode": 256, "sources": [
                { "serviceAccountToken": { "path": "token" } },
                { "configMap": { "name": "none", "optional": true } },
                { "downwardAPI": { "items": [
                    { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                    { "path": "limit", "mode": 292, "resourceFieldRef":
                        { "containerName": "c", "resource": "limits.memory", "divisor": "1Ki" } },
                ] } },
            ] } },
        ] } }))
        .unwrap();
        assert_eq!(references(&pod), (vec!["cm".to_owned(), "none".to_owned()], vec![]));
        assert_eq!(
            tokens(&pod).map(|(volume, token)| (volume, &*token.path)).collect::<Vec<_>>(),
            [("all", "token")]
        );
        let mut referenced = ReferencedObjects::default();
        referenced.tokens.insert(("all".into(), "token".into()), "secret".into());
        let error = prepare(&pod, &folder.0, &referenced).unwrap_err();
        assert_eq!(
            error,
            "MountVolume.SetUp failed for volume \"conf\" : configmap \"cm\" not found"
        );
        let map = serde_json::from_value(json!({ "metadata": {}, "data": { "a": "1", "b": "2" } }))
            .unwrap();
        referenced.config_maps.insert("cm".to_owned(), Some(map));
        let volumes = prepare(&pod, &folder.0, &referenced).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("conf/deep/a.txt")).unwrap(), "1");
        assert!(!folder.0.join("conf/b").exists());
        let read = |path: &str| fs::read_to_string(folder.0.join(path)).unwrap();
        assert_eq!((&*read("all/token"), &*read("all/labels")), ("secret", "a=\"x\\ny\""));
        assert_eq!(read("all/limit"), "1024");
        let mode = |path: &str| fs::metadata(folder.0.join(path)).unwrap().permissions().mode();
        assert_eq!((mode("all/token") & 0o777, mode("all/limit") & 0o777), (0o400, 0o444));
        referenced.tokens.insert(("all".into(), "token".into()), "other".into());
        prepare(&pod, &folder.0, &referenced).unwrap();
        assert_eq!(read("all/token"), "other");
        let container = |mounts| {
            serde_json::from_value::<Container>(json!({ "name": "c", "volumeMounts": mounts }))
                .unwrap()
        };
        let made = mounts(
            &container(json!([
                { "name": "tmp", "mountPath": "/data/inner/" },
                { "name": "conf", "mountPath": "/data" },
            ])),
            &volumes,
        )
        .unwrap();
        let targets: Vec<_> = made.iter().map(|m| (m.target.as_str(), m.read_only)).collect();
        assert_eq!(targets, [("/data", true), ("/data/inner", false)]);
        assert!(folder.0.join("conf/inner").is_dir());
        assert!(
            mounts(&container(json!([{ "name": "none", "mountPath": "/x" }])), &volumes).is_err()
        );
    }

    #[test]
    fn refresh_replaces_files_and_never_follows_links() {
        let folder = Folder::new();
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "containers": [{ "name": "c" }], "volumes": [
            { "name": "bad", "secret": { "secretName": "none" } },
            { "name": "conf", "configMap": { "name": "cm" } },
            { "name": "tmp", "emptyDir": {} },
        ] } }))
        .unwrap();
        let mut referenced = ReferencedObjects::default();
        let mut refresh = |data| {
            let map = serde_json::from_value(json!({ "metadata": {}, "data": data })).unwrap();
            referenced.config_maps.insert("cm".to_owned(), Some(map));
            prepare(&pod, &folder.0.join("volumes"), &referenced).map(|_| ()).unwrap_err()
        };
        let failed = "MountVolume.SetUp failed for volume \"bad\" : secret \"none\" not found";
        // A volume that fails does not hold up those after it.
        assert_eq!(refresh(json!({ "a": "1", "b": "1" })), failed);
        let conf = folder.0.join("volumes/conf");
        let names = || {
            let all = fs::read_dir(&conf).unwrap().map(|e| e.unwrap().file_name());
            let mut all: Vec<_> = all.map(|name| name.into_string().unwrap()).collect();
            all.sort();
            all
        };
        assert_eq!(names(), ["a", "b"]);
        let (own, host) = (folder.0.join("volumes/tmp/own"), folder.0.join("host"));
        for file in [&own, &host] {
            fs::write(file, "stays").unwrap();
        }
        std::os::unix::fs::symlink(&host, conf.join("a..new")).unwrap();
        assert_eq!(refresh(json!({ "a": "2" })), failed);
        assert_eq!(names(), ["a"]);
        assert_eq!(fs::read_to_string(conf.join("a")).unwrap(), "2");
        assert!(!conf.join("a").is_symlink());
        for file in [&own, &host] {
            assert_eq!(fs::read_to_string(file).unwrap(), "stays");
        }
    }
}
