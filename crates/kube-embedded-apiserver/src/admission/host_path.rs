//! The policy of hostPath volumes: a pod mounts only what is below a directory that the cluster was started with, since
//! its programs run as the user who started the cluster. The check is of the path alone; the kubelet opens it without
//! following links that leave the directory.

use crate::{
    fields::{list, text},
    resources::resource_type::Attributes,
};
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// Refuses a pod with a hostPath volume that is not allowed.
pub(crate) fn review_pod(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    // What a stored pod mounts cannot change.
    let refused = refusals(&review.new["spec"], "spec", review.host_paths);
    match refused.into_iter().next().filter(|_| review.old.is_none()) {
        Some(why) => Err(why),
        None => Ok(Vec::new()),
    }
}

/// Warns of a workload whose pods would be refused.
pub(crate) fn review_workload(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let spec = &review.new["spec"]["template"]["spec"];
    let refused = refusals(spec, "spec.template.spec", review.host_paths).into_iter();
    Ok(refused.map(|why| format!("pods will be refused: {why}")).collect())
}

/// Returns the reason for each volume that is not allowed.
fn refusals(spec: &Value, field: &str, allowed: &[PathBuf]) -> Vec<String> {
    let volumes = list(spec, &["volumes"]).iter().enumerate();
    let mounted = volumes.filter_map(|(at, volume)| {
        let path = volume["hostPath"].is_object().then(|| text(volume, &["hostPath", "path"]))?;
        (!is_allowed(path, allowed)).then_some((at, path))
    });
    mounted
        .map(|(at, path)| format!("{field}.volumes[{at}].hostPath: {}", why(path, allowed)))
        .collect()
}

fn why(path: &str, allowed: &[PathBuf]) -> String {
    let directories: Vec<String> = allowed.iter().map(|path| path.display().to_string()).collect();
    let which = match directories.as_slice() {
        [] => "none is allowed".to_owned(),
        some => format!("allowed is what is below {}", some.join(", ")),
    };
    format!(
        "{path:?} is a directory of the host, of which {which}; use an emptyDir volume, or start the cluster with \
         --allow-host-path (Config::allow_host_path)"
    )
}

/// Returns true if a path is one of the directories, or below it.
fn is_allowed(path: &str, allowed: &[PathBuf]) -> bool {
    let path = Path::new(path);
    let is_normal =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    path.is_absolute() && is_normal && allowed.iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn path_is_allowed_at_and_below_a_directory_only() {
        let allowed = ["/srv/data".into(), "/tmp/x".into()];
        for (path, expected) in [
            ("/srv/data", true),
            ("/srv/data/", true),
            ("/srv//data/./a", true),
            ("/srv/data/a/b", true),
            ("/tmp/x/y", true),
            ("/srv/database", false),
            ("/srv", false),
            ("/", false),
            ("", false),
            ("srv/data", false),
            ("/srv/data/..", false),
            ("/srv/data/../../etc", false),
            ("/srv/data/a/../b", false),
            ("/etc", false),
        ] {
            assert_eq!(is_allowed(path, &allowed), expected, "{path}");
            assert!(!is_allowed(path, &[]), "{path}");
        }
        assert!(is_allowed("/etc", &["/".into()]));
    }

    #[test]
    fn refusal_names_the_volume_and_the_remedy() {
        let spec = json!({ "volumes": [
            { "name": "a", "emptyDir": {} },
            { "name": "b", "hostPath": { "path": "/etc" } },
            { "name": "c", "hostPath": { "path": "/srv/c" } },
        ] });
        let found = refusals(&spec, "spec", &["/srv".into()]);
        assert_eq!(
            found,
            [
                "spec.volumes[1].hostPath: \"/etc\" is a directory of the host, of which allowed is what is below \
              /srv; use an emptyDir volume, or start the cluster with --allow-host-path \
              (Config::allow_host_path)"
            ]
        );
        assert_eq!(refusals(&spec, "spec", &[]).len(), 2);
    }
}
