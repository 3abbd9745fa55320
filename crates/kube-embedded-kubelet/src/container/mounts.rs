//! The mounts of a container: its volumes, and the file for its termination message.

use super::{context::Context, termination_message};
use crate::{
    env, host_path::open_below, runtime::Mount, safe_dir::SafeDir, volumes::PreparedVolume,
};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use rustix::fs::{FileType, fstat};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    path::{Component, Path},
};

/// Returns the mounts of a container with these variables.
///
/// # Errors
/// When a volume cannot be mounted; the message names it.
pub(super) fn mounts(
    cx: Context<'_>,
    variables: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let mut all = of_volumes(cx.container, &cx.sandbox.volumes, variables)?;
    let message = termination_message::mount(cx);
    all.extend(message.map_err(|e| format!("failed to create its termination log: {e}"))?);
    // Outer mounts first, or they would hide the inner ones.
    all.sort_by_key(|m| m.target.matches('/').count());
    Ok(all)
}

fn of_volumes(
    container: &Container,
    volumes: &BTreeMap<String, PreparedVolume>,
    variables: &[(String, String)],
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
        let sub_path = sub_path(wanted, variables)?;
        let below = volume.below.join(&*sub_path);
        if !sub_path.is_empty() {
            let failed = |what: &str, e: io::Error| {
                let (mount, name) = (&wanted.name, &container.name);
                format!("failed to {what} for volumeMount {mount:?} of container {name:?}: {e}")
            };
            match open_below(&volume.root, &below) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    create_below(volume, &below)
                        .map_err(|e| failed("create subPath directory", e))?;
                }
                opened => drop(opened.map_err(|e| failed("prepare subPath", e))?),
            }
        }
        let target = format!("/{}", wanted.mount_path.trim_matches('/'));
        if !volume.writable && is_directory(volume, &below) {
            read_only_volumes.push((volume, below.clone(), target.clone()));
        }
        // Where all of the host is allowed, nothing leads out of it.
        let (source, below) = if volume.root == Path::new("/") || below.as_os_str().is_empty() {
            (volume.root.join(below), None)
        } else {
            (volume.root.clone(), Some(below))
        };
        mounts.push(Mount {
            source,
            below,
            target,
            read_only: wanted.read_only == Some(true) || !volume.writable,
        });
    }
    // A mount point inside a volume that the container cannot write to has to be created beforehand.
    for (volume, below, outer) in read_only_volumes {
        let outer = format!("{}/", outer.trim_end_matches('/'));
        for inner in mounts.iter().filter_map(|m| m.target.strip_prefix(&*outer)) {
            let mount_point = below.join(inner);
            if open_below(&volume.root, &mount_point).is_err() {
                create_below(volume, &mount_point).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(mounts)
}

/// Creates a folder in a volume. Links that are in it are not followed.
fn create_below(volume: &PreparedVolume, below: &Path) -> io::Result<()> {
    SafeDir::open(&volume.root)?.create_below(below).map(drop)
}

fn is_directory(volume: &PreparedVolume, below: &Path) -> bool {
    let status = open_below(&volume.root, below).and_then(|fd| Ok(fstat(&fd)?));
    status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

/// Returns the path in the volume, which may refer to variables of the container.
///
/// # Errors
/// The kubelet's message for a variable that is not set, or for a path out of the volume.
fn sub_path<'a>(
    wanted: &'a VolumeMount,
    variables: &[(String, String)],
) -> Result<Cow<'a, str>, String> {
    let path = match wanted.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        None => Cow::Borrowed(wanted.sub_path.as_deref().unwrap_or_default()),
        Some(expression) => Cow::Owned(env::expand_all(expression, variables)?),
    };
    let mut parts = Path::new(&*path).components();
    if Path::new(&*path).is_absolute() {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if parts.any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::ReferencedObjects,
        testing::Folder,
        volumes::{Place, PreparedVolume, prepare},
    };
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};
    use std::{fs, os::unix::fs::symlink};

    fn container(mounts: Value) -> Container {
        serde_json::from_value(json!({ "name": "c", "volumeMounts": mounts })).unwrap()
    }

    fn prepared(folder: &Folder) -> BTreeMap<String, PreparedVolume> {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "containers": [{ "name": "c" }], "volumes": [
            { "name": "tmp", "emptyDir": {} },
            { "name": "conf", "configMap": { "name": "cm" } },
        ] } }))
        .unwrap();
        let mut referenced = ReferencedObjects::default();
        let map = json!({ "metadata": {}, "data": { "a": "1" } });
        referenced.config_maps.insert("cm".into(), Some(serde_json::from_value(map).unwrap()));
        prepare(&pod, &folder.0, &referenced, Place::default()).unwrap()
    }

    #[test]
    fn inner_mount_points_are_created_in_read_only_volumes() {
        let folder = Folder::new();
        let volumes = prepared(&folder);
        let wanted = json!([
            { "name": "tmp", "mountPath": "/data/inner/" },
            { "name": "conf", "mountPath": "/data" },
        ]);
        let made = of_volumes(&container(wanted), &volumes, &[]).unwrap();
        let targets: Vec<_> = made.iter().map(|m| (m.target.as_str(), m.read_only)).collect();
        assert_eq!(targets, [("/data/inner", false), ("/data", true)]);
        assert!(folder.0.join("conf/inner").is_dir());
        let unknown = container(json!([{ "name": "none", "mountPath": "/x" }]));
        assert!(of_volumes(&unknown, &volumes, &[]).is_err());
    }

    #[test]
    fn sub_path_stays_in_its_volume_and_expands_variables() {
        let folder = Folder::new();
        let volumes = prepared(&folder);
        let tmp = folder.0.join("tmp");
        fs::create_dir(tmp.join("real")).unwrap();
        symlink("real", tmp.join("inside")).unwrap();
        symlink("/etc", tmp.join("outside")).unwrap();
        symlink("../../../etc", tmp.join("above")).unwrap();
        let variables = [("POD".to_owned(), "p-1".to_owned()), ("UP".into(), "..".into())];
        for (field, path, expected) in [
            ("subPath", "new/dir", Ok("new/dir")),
            ("subPath", "inside", Ok("inside")),
            ("subPath", "outside", Err("failed to prepare subPath for volumeMount \"tmp\"")),
            ("subPath", "outside/new", Err("failed to prepare subPath")),
            ("subPath", "above/passwd", Err("failed to prepare subPath")),
            ("subPathExpr", "logs/$(POD)", Ok("logs/p-1")),
            ("subPathExpr", "$(NONE)", Err("missing value for \"NONE\"")),
            ("subPathExpr", "$(UP)/x", Err("unable to provision SubPath `../x`")),
        ] {
            let wanted = json!([{ "name": "tmp", "mountPath": "/x", field: path }]);
            let made = of_volumes(&container(wanted), &volumes, &variables);
            match (made, expected) {
                (Ok(made), Ok(below)) => {
                    assert_eq!(made[0].below.as_deref(), Some(Path::new(below)), "{path}");
                    assert!(tmp.join(below).is_dir(), "{path}");
                }
                (Err(error), Err(begin)) => assert!(error.starts_with(begin), "{path}: {error}"),
                (made, _) => panic!("{path}: {:?}", made.map(|m| m.len())),
            }
        }
        assert!(!Path::new("/etc/new").exists());
    }
}
