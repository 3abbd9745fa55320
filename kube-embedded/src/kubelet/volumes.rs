//! Volumes of a pod as folders of the host, to be mounted into its containers.

use super::{env::Referred, sandbox::Mount};
use crate::images::resolve_in_root;
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, Volume};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Names of the config maps and secrets that the volumes are made of.
pub(crate) fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        maps.extend(volume.config_map.as_ref().map(|m| m.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
    }
    (maps, secrets)
}

/// Makes the volumes below `folder` and returns where each is. One of a kind that is not supported
/// is left out: the container that mounts it will be told.
///
/// # Errors
/// As Kubernetes words a `FailedMount`.
pub(crate) fn make(
    pod: &Pod,
    folder: &Path,
    referred: &Referred,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut made = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let at = folder.join(&volume.name);
        let failed = |what: String| {
            format!("MountVolume.SetUp failed for volume {:?} : {what}", volume.name)
        };
        if let Some(content) = content(volume, referred).map_err(failed)? {
            fs::create_dir_all(&at).map_err(|e| failed(e.to_string()))?;
            for (path, bytes) in content {
                // Keys are checked by the API, item paths may have folders; neither leaves the volume.
                let file = resolve_in_root(&at, Path::new(&path), true)
                    .map_err(|e| failed(e.to_string()))?;
                let parent = file.parent().unwrap_or(&at);
                fs::create_dir_all(parent).map_err(|e| failed(e.to_string()))?;
                fs::write(&file, bytes).map_err(|e| failed(e.to_string()))?;
            }
            made.insert(volume.name.clone(), at);
        } else if let Some(host) = &volume.host_path {
            made.insert(volume.name.clone(), PathBuf::from(&host.path));
        }
    }
    Ok(made)
}

type Content = Vec<(String, Vec<u8>)>;

fn content(volume: &Volume, referred: &Referred) -> Result<Option<Content>, String> {
    if volume.empty_dir.is_some() {
        return Ok(Some(Vec::new()));
    }
    if let Some(source) = &volume.config_map {
        let Some(map) = referred.config_maps.get(&source.name).and_then(Option::as_ref) else {
            return missing(source.optional, format!("configmap {:?} not found", source.name));
        };
        let mut all: BTreeMap<String, Vec<u8>> =
            map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
        all.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())));
        return items(all, source.items.as_deref(), source.optional).map(Some);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let Some(secret) = referred.secrets.get(name).and_then(Option::as_ref) else {
            return missing(source.optional, format!("secret {name:?} not found"));
        };
        let all = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
        return items(all, source.items.as_deref(), source.optional).map(Some);
    }
    Ok(None)
}

fn missing(optional: Option<bool>, what: String) -> Result<Option<Content>, String> {
    if optional == Some(true) { Ok(Some(Vec::new())) } else { Err(what) }
}

fn items(
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Content, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else { return Ok(all.into_iter().collect()) };
    let mut chosen = Vec::new();
    for item in items {
        match all.get(&item.key) {
            Some(bytes) => chosen.push((item.path.clone(), bytes.clone())),
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(chosen)
}

/// What to mount into a container.
///
/// # Errors
/// Names the volume that cannot be mounted.
pub(crate) fn mounts(
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.get(&wanted.name) else {
            // Admission puts a token into every pod. There is none here, and few programs need it.
            if wanted.mount_path.starts_with("/var/run/secrets/kubernetes.io/") {
                continue;
            }
            return Err(format!(
                "volume {:?} is of a kind that is not supported here (emptyDir, configMap, secret and hostPath are)",
                wanted.name
            ));
        };
        let source = match wanted.sub_path.as_deref().filter(|p| !p.is_empty()) {
            None => volume.clone(),
            Some(path) => {
                let source =
                    resolve_in_root(volume, Path::new(path), true).map_err(|e| e.to_string())?;
                if !source.exists() {
                    fs::create_dir_all(&source)
                        .map_err(|e| format!("failed to create subPath directory {path:?}: {e}"))?;
                }
                source
            }
        };
        let target = format!("/{}", wanted.mount_path.trim_matches('/'));
        mounts.push(Mount { source, target, read_only: wanted.read_only == Some(true) });
    }
    // Outer folders first, or they would hide the inner ones.
    mounts.sort_by_key(|m| m.target.matches('/').count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::Folder;
    use serde_json::json;

    #[test]
    fn volumes_hold_what_they_refer_to() {
        let folder = Folder::new();
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [], "volumes": [
            { "name": "tmp", "emptyDir": {} },
            { "name": "conf", "configMap": { "name": "cm", "items": [{ "key": "a", "path": "deep/a.txt" }] } },
            { "name": "token", "projected": {} },
        ] } }))
        .unwrap();
        assert_eq!(references(&pod), (vec!["cm".to_owned()], vec![]));
        let mut referred = Referred::default();
        let error = make(&pod, &folder.0, &referred).unwrap_err();
        assert_eq!(
            error,
            "MountVolume.SetUp failed for volume \"conf\" : configmap \"cm\" not found"
        );
        let map = serde_json::from_value(json!({ "metadata": {}, "data": { "a": "1", "b": "2" } }))
            .unwrap();
        referred.config_maps.insert("cm".to_owned(), Some(map));
        let volumes = make(&pod, &folder.0, &referred).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("conf/deep/a.txt")).unwrap(), "1");
        assert!(!folder.0.join("conf/b").exists());
        let container = |mounts| {
            serde_json::from_value::<Container>(json!({ "name": "c", "volumeMounts": mounts }))
                .unwrap()
        };
        let made = mounts(
            &container(json!([
                { "name": "tmp", "mountPath": "/data/inner/" },
                { "name": "conf", "mountPath": "/data", "readOnly": true },
                { "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" },
            ])),
            &volumes,
        )
        .unwrap();
        let told: Vec<_> = made.iter().map(|m| (m.target.as_str(), m.read_only)).collect();
        assert_eq!(told, [("/data", true), ("/data/inner", false)]);
        assert!(
            mounts(&container(json!([{ "name": "token", "mountPath": "/x" }])), &volumes).is_err()
        );
    }
}
