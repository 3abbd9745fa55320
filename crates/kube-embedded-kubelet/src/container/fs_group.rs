//! `fsGroup`: the group that volumes of a pod belong to, if the pod has more than one group id.

use k8s_openapi::api::core::v1::{Pod, Volume};
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::Path,
};

/// Gives the volumes below `folder` to the group, as Kubernetes does: directories so that new files
/// belong to it too. What containers write to is not searched, since they could exchange files for
/// links meanwhile.
pub(super) fn apply(pod: &Pod, group: u32, folder: &Path) -> io::Result<()> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = folder.join(&volume.name);
        if made_by_kubelet(volume) && path.is_dir() {
            give(&path, group, volume.empty_dir.is_none())?;
        }
    }
    Ok(())
}

fn made_by_kubelet(volume: &Volume) -> bool {
    volume.host_path.is_none()
}

fn give(path: &Path, group: u32, recursive: bool) -> io::Result<()> {
    const DIRECTORY: u32 = 0o2770;
    const FILE: u32 = 0o440;
    let kind = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if kind.is_symlink() {
        return Ok(());
    }
    let more = if kind.is_dir() { DIRECTORY } else { FILE };
    let mode = kind.permissions().mode() | more;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if kind.is_dir() && recursive {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use serde_json::json;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn volumes_belong_to_the_group_and_links_are_not_followed() {
        // SAFETY: getegid takes no arguments and cannot fail. Only root may use another group.
        let group = unsafe { libc::getegid() };
        let group = if group == 0 { 1234 } else { group };
        let folder = Folder::new();
        let outside = Folder::new();
        for (path, mode) in [("empty/file", 0o600), ("secret/key", 0o400)] {
            fs::create_dir_all(folder.0.join(path).parent().unwrap()).unwrap();
            fs::write(folder.0.join(path), "").unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(folder.0.join(path), mode).unwrap();
        }
        symlink(&outside.0, folder.0.join("secret/link")).unwrap();
        let before = fs::metadata(&outside.0).unwrap();
        let volumes = json!([{ "name": "empty", "emptyDir": {} }, { "name": "secret", "secret": {} },
            { "name": "none", "emptyDir": {} }]);
        let pod =
            serde_json::from_value(json!({ "spec": { "containers": [], "volumes": volumes } }));
        apply(&pod.unwrap(), group, &folder.0).unwrap();
        let of = |path: &str| {
            let found = fs::metadata(folder.0.join(path)).unwrap();
            (found.gid() == group, found.mode() & 0o7777)
        };
        assert_eq!(of("empty"), (true, 0o2775));
        assert_eq!(of("empty/file").1, 0o600);
        assert_eq!(of("secret"), (true, 0o2775));
        assert_eq!(of("secret/key"), (true, 0o440));
        let after = fs::metadata(&outside.0).unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }
}
