//! The security context of a container: its user, groups, capabilities and seccomp profile.

use crate::{
    image_store::Image,
    resources,
    root_path::resolve_in_root,
    runtime::{Capabilities, Filters, IdMapping, Security, localhost, runtime_default},
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use std::{fs, path::Path};

/// The ids that a pod can have, if it has more than one.
const IDS: u32 = 65_536;

/// Resolves the security context: the container's own fields, else those of the pod, else the image's.
/// Localhost profiles are read from `profiles`.
///
/// # Errors
/// When something that is asked for cannot be had; the message says what, and what is possible.
pub(super) fn resolve(
    pod: &Pod,
    container: &Container,
    image: &Image,
    ids: IdMapping,
    profiles: &Path,
) -> Result<Security, String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    refuse_unsupported(&own)?;
    let wanted = Wanted::new(&of_pod, &own, image);
    check_non_root(&of_pod, &own, &wanted)?;
    let (user, group) = wanted.within(ids)?;
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let [add, drop] = [capabilities.add, capabilities.drop].map(Option::unwrap_or_default);
    let capabilities = Capabilities::new(&add, &drop)?;
    let ranged = matches!(ids, IdMapping::Range { .. });
    Ok(Security {
        ids,
        user,
        group,
        groups: if ranged { groups(&of_pod, image, &wanted)? } else { Vec::new() },
        capabilities,
        // With one user id, no program could become another user anyway.
        no_new_privileges: own.allow_privilege_escalation == Some(false) || !ranged,
        seccomp: seccomp(&of_pod, &own, capabilities, ids, profiles)?,
        oom_score_adj: resources::oom_score_adj(pod, container),
    })
}

fn refuse_unsupported(own: &SecurityContext) -> Result<(), String> {
    if own.privileged == Some(true) {
        return Err(
            "securityContext.privileged is not supported: containers have no access to the \
                    host; remove it, or add the capabilities that the program needs"
                .to_owned(),
        );
    }
    match own.proc_mount.as_deref() {
        None | Some("" | "Default") => Ok(()),
        Some(other) => {
            Err(format!("securityContext.procMount {other:?} is not supported; allowed is Default"))
        }
    }
}

/// The user and group that are asked for.
struct Wanted {
    user: u32,
    group: u32,
    explicit_user: bool,
    explicit_group: bool,
    /// The user in the image, if it is a name.
    name: Option<String>,
}

impl Wanted {
    fn new(of_pod: &PodSecurityContext, own: &SecurityContext, image: &Image) -> Self {
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        let user = number(own.run_as_user.or(of_pod.run_as_user));
        let group = number(own.run_as_group.or(of_pod.run_as_group));
        let (image_user, image_group) =
            image.config.user.split_once(':').unwrap_or((&image.config.user, ""));
        let name = (user.is_none() && !image_user.is_empty() && image_user.parse::<u32>().is_err())
            .then(|| image_user.to_owned());
        let wanted_user = user.map_or_else(|| image_user.to_owned(), |user| user.to_string());
        let entry = lookup(image, "etc/passwd", &wanted_user);
        let field =
            |n: usize| entry.as_ref().and_then(|e| e.split(':').nth(n)?.parse::<u32>().ok());
        let in_image = |name: &str| {
            name.parse().ok().or_else(|| {
                lookup(image, "etc/group", name)?.split(':').nth(2)?.parse::<u32>().ok()
            })
        };
        let of_image = if user.is_none() { in_image(image_group) } else { None };
        Self {
            user: user.or_else(|| wanted_user.parse().ok()).or_else(|| field(2)).unwrap_or(0),
            group: group.or(of_image).or_else(|| field(3)).unwrap_or(0),
            explicit_user: user.is_some(),
            explicit_group: group.is_some(),
            name,
        }
    }

    /// Returns the user and group if the pod has these ids.
    fn within(&self, ids: IdMapping) -> Result<(u32, u32), String> {
        let Self { user, group, .. } = *self;
        match ids {
            IdMapping::Host => Ok((user, group)),
            IdMapping::Range { .. } => {
                for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
                    if id >= IDS {
                        return Err(format!(
                            "securityContext.{field} {id} is not available: a pod has the ids 0 to {}",
                            IDS - 1
                        ));
                    }
                }
                Ok((user, group))
            }
            IdMapping::One { user: only_user, group: only_group } => {
                for (field, explicit, id, only) in [
                    ("runAsUser", self.explicit_user, user, only_user),
                    ("runAsGroup", self.explicit_group, group, only_group),
                ] {
                    if explicit && id != only {
                        return Err(format!(
                            "securityContext.{field} {id} is not available: this cluster was started \
                             by an ordinary user, and all containers of a pod share one user and one \
                             group id there, those of its first container ({only}); use {only} for \
                             all containers, or start the cluster as root"
                        ));
                    }
                }
                Ok((only_user, only_group))
            }
        }
    }
}

/// `runAsNonRoot`, with the messages of the kubelet.
fn check_non_root(
    of_pod: &PodSecurityContext,
    own: &SecurityContext,
    wanted: &Wanted,
) -> Result<(), String> {
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    if wanted.explicit_user {
        return match wanted.user {
            0 => Err("container's runAsUser breaks non-root policy".to_owned()),
            _ => Ok(()),
        };
    }
    if let Some(name) = &wanted.name {
        return Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ));
    }
    match wanted.user {
        0 => Err("container has runAsNonRoot and image will run as root".to_owned()),
        _ => Ok(()),
    }
}

/// Returns the supplementary groups: those of the pod and, unless its policy is Strict, those that the
/// image has for the user.
fn groups(of_pod: &PodSecurityContext, image: &Image, wanted: &Wanted) -> Result<Vec<u32>, String> {
    let mut all = Vec::new();
    let asked = of_pod.supplemental_groups.iter().flatten().map(|id| ("supplementalGroups", id));
    for (field, id) in asked.chain(of_pod.fs_group.iter().map(|id| ("fsGroup", id))) {
        match u32::try_from(*id) {
            Ok(id) if id < IDS => all.push(id),
            _ => {
                return Err(format!(
                    "securityContext.{field} {id} is not available: a pod has the ids 0 to {}",
                    IDS - 1
                ));
            }
        }
    }
    let passwd = lookup(image, "etc/passwd", &wanted.user.to_string());
    let name = passwd.as_ref().and_then(|entry| entry.split(':').next());
    if let (Some(name), false) =
        (name, of_pod.supplemental_groups_policy.as_deref() == Some("Strict"))
    {
        let text = read(image, "etc/group").unwrap_or_default();
        let of_user = text.lines().filter(|line| {
            line.split(':').nth(3).is_some_and(|members| members.split(',').any(|m| m == name))
        });
        let of_user = of_user.filter_map(|line| line.split(':').nth(2)?.parse::<u32>().ok());
        all.extend(of_user.filter(|id| *id < IDS));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Returns the entry of `etc/passwd` or `etc/group` for a name or an id.
fn lookup(image: &Image, file: &str, key: &str) -> Option<String> {
    let text = read(image, file)?;
    let by_id = key.parse::<u32>().is_ok();
    let field = if by_id { 2 } else { 0 };
    text.lines().find(|line| line.split(':').nth(field) == Some(key)).map(str::to_owned)
}

fn read(image: &Image, file: &str) -> Option<String> {
    let path = resolve_in_root(&image.rootfs, Path::new(file), true).ok()?;
    // Not a device or a FIFO, which the image may have there.
    let is_file = fs::metadata(&path).is_ok_and(|m| m.is_file());
    is_file.then(|| fs::read_to_string(path).ok())?
}

fn seccomp(
    of_pod: &PodSecurityContext,
    own: &SecurityContext,
    capabilities: Capabilities,
    ids: IdMapping,
    profiles: &Path,
) -> Result<Filters, String> {
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    match profile.map_or("RuntimeDefault", |profile| profile.type_.as_str()) {
        "Unconfined" => Ok(Filters::default()),
        "RuntimeDefault" => runtime_default(capabilities, ids != IdMapping::Host),
        "Localhost" => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            localhost(profiles, name)
        }
        other => Err(format!(
            "securityContext.seccompProfile.type {other:?} is unknown; allowed are RuntimeDefault, \
             Unconfined and Localhost"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use serde_json::{Value, json};

    struct Fixture {
        root: Folder,
        user: &'static str,
        ids: IdMapping,
    }

    const RANGE: IdMapping = IdMapping::Range { first: 0x7000_0000 };

    impl Fixture {
        fn new(user: &'static str, ids: IdMapping) -> Self {
            let root = Folder::new();
            fs::create_dir(root.0.join("etc")).unwrap();
            fs::write(root.0.join("etc/passwd"), "root:x:0:0::/:\nweb:x:101:102::/:\n").unwrap();
            fs::write(root.0.join("etc/group"), "web:x:102:\nlogs:x:103:a,web\n").unwrap();
            Self { root, user, ids }
        }

        fn resolve(&self, of_pod: Value, own: Value) -> Result<Security, String> {
            let container = json!({ "name": "c", "securityContext": own });
            let spec = json!({ "containers": [container], "securityContext": of_pod });
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let container = pod.spec.as_ref().unwrap().containers[0].clone();
            let image = Image {
                names: Vec::new(),
                id: String::new(),
                rootfs: self.root.0.clone(),
                config: serde_json::from_value(json!({ "User": self.user })).unwrap(),
                size: 0,
            };
            resolve(&pod, &container, &image, self.ids, &self.root.0)
        }
    }

    #[test]
    fn user_and_groups_come_from_container_pod_or_image() {
        let table = [
            ("", json!({}), json!({}), (0, 0, vec![])),
            ("web", json!({}), json!({}), (101, 102, vec![103])),
            ("101", json!({}), json!({}), (101, 102, vec![103])),
            ("web:logs", json!({}), json!({}), (101, 103, vec![103])),
            ("web:7", json!({}), json!({}), (101, 7, vec![103])),
            ("web", json!({ "runAsUser": 5 }), json!({}), (5, 0, vec![])),
            ("web", json!({ "runAsUser": 5 }), json!({ "runAsUser": 101 }), (101, 102, vec![103])),
            ("", json!({ "runAsGroup": 9 }), json!({ "runAsUser": 8 }), (8, 9, vec![])),
            (
                "web",
                json!({ "supplementalGroups": [4, 103], "fsGroup": 2 }),
                json!({}),
                (101, 102, vec![2, 4, 103]),
            ),
            ("web", json!({ "supplementalGroupsPolicy": "Strict" }), json!({}), (101, 102, vec![])),
        ];
        for (user, of_pod, own, expected) in table {
            let found = Fixture::new(user, RANGE).resolve(of_pod.clone(), own.clone()).unwrap();
            assert_eq!((found.user, found.group, found.groups), expected, "{user} {of_pod} {own}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        let one = IdMapping::One { user: 65_532, group: 0 };
        let table = [
            (RANGE, json!({}), json!({ "privileged": true }), "privileged is not supported"),
            (RANGE, json!({}), json!({ "procMount": "Unmasked" }), "procMount \"Unmasked\""),
            (RANGE, json!({ "runAsUser": 65_536 }), json!({}), "a pod has the ids 0 to 65535"),
            (RANGE, json!({ "fsGroup": 70_000 }), json!({}), "fsGroup 70000"),
            (one, json!({}), json!({ "runAsUser": 1 }), "use 65532 for all containers"),
            (one, json!({}), json!({ "runAsGroup": 1 }), "runAsGroup 1 is not available"),
            (RANGE, json!({ "runAsNonRoot": true }), json!({}), "non-numeric user (web)"),
            (
                RANGE,
                json!({ "runAsNonRoot": true }),
                json!({ "runAsUser": 0 }),
                "runAsUser breaks non-root policy",
            ),
            (RANGE, json!({}), json!({ "capabilities": { "add": ["X"] } }), "capability \"X\""),
            (RANGE, json!({ "seccompProfile": { "type": "X" } }), json!({}), "type \"X\""),
            (
                RANGE,
                json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "x.json" } }),
                json!({}),
                "x.json: No such file",
            ),
        ];
        for (ids, of_pod, own, message) in table {
            let error = Fixture::new("web", ids).resolve(of_pod, own).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn rights_are_those_of_containerd_by_default() {
        let one = IdMapping::One { user: 0, group: 0 };
        let of = |ids, own| Fixture::new("", ids).resolve(json!({}), own).unwrap();
        assert_eq!(of(RANGE, json!({})).capabilities, Capabilities::default());
        assert!(!of(RANGE, json!({})).no_new_privileges);
        assert!(of(RANGE, json!({ "allowPrivilegeEscalation": false })).no_new_privileges);
        assert!(of(one, json!({ "allowPrivilegeEscalation": true })).no_new_privileges);
        assert_eq!(of(RANGE, json!({})).seccomp.len(), 2);
        let unconfined = json!({ "seccompProfile": { "type": "Unconfined" } });
        assert!(of(RANGE, unconfined).seccomp.is_empty());
    }
}
