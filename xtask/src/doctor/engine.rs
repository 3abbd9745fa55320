//! What clusters in containers stand on: the Docker engine, and the kernel's settings for many of them.

use super::{About, Finding, bad, good, machine, note};
use crate::docker::Engine;
use serde_json::Value;
use std::{fs, path::Path};

/// Nodes, their system pods and the app.
const DISK: f64 = 6e9;
const MEMORY: f64 = 3e9;

/// For the embedded cluster an engine is one place more to run the images in.
pub(super) fn optional(about: &About) -> Finding {
    match about.engine() {
        Engine::Answers(_) => good("an engine answers: phase 2 runs the images there, too"),
        _ => note("no engine answers: phase 2 runs the images on the cluster"),
    }
}

pub(super) fn answers(about: &About) -> Finding {
    match about.engine() {
        Engine::Answers(info) => {
            let rootless = if is_rootless(info) { ", rootless" } else { "" };
            good(format!("Docker {}{rootless}", text(info, "ServerVersion")))
        }
        Engine::Absent(socket) => bad(format!("no Docker engine listens at {socket}"))
            .mended("`sudo systemctl start docker`, or see https://docs.docker.com/engine/install"),
        Engine::Denied(socket) => bad(format!("no rights to use the Docker engine at {socket}"))
            .mended("`sudo usermod --append --groups docker $USER` and a new login"),
        Engine::Mute(socket) => bad(format!("the Docker engine at {socket} does not answer"))
            .mended("sudo systemctl restart docker"),
        Engine::Elsewhere(host) => bad(format!("DOCKER_HOST={host} is another machine's engine"))
            .mended("unset DOCKER_HOST: clusters there publish nothing here"),
    }
}

pub(super) fn storage(about: &About) -> Finding {
    let Engine::Answers(info) = about.engine() else { return note("not known without an engine") };
    let (driver, root) = (text(info, "Driver"), text(info, "DockerRootDir"));
    let status = info.get("DriverStatus").map(Value::to_string).unwrap_or_default();
    let store = match status.contains("io.containerd.snapshotter") {
        true => ", containerd's image store (images are loaded as archives for its sake)",
        false => "",
    };
    let free = machine::free(Path::new(root));
    let space = free.map(|free| format!(", {:.0} GB free", free / 1e9)).unwrap_or_default();
    let what = format!("{driver}{store}{space}");
    match (driver, free) {
        (_, Some(free)) if free < DISK => {
            bad(format!("{what} in {root}; a cluster takes {:.0} GB", DISK / 1e9))
                .mended("docker system prune")
        }
        ("vfs", _) => {
            note(format!("{what}: vfs copies every layer, which takes long and much disk"))
        }
        _ => good(what),
    }
}

pub(super) fn cgroups(about: &About) -> Finding {
    let Engine::Answers(info) = about.engine() else { return note("not known without an engine") };
    if text(info, "CgroupVersion") == "2" {
        return if is_rootless(info) { delegation() } else { good("version 2") };
    }
    let oldest = |image: &str| image.contains(":v1.34.") || image == "oldest";
    match about.image.as_deref() {
        Some(image) if oldest(image) => {
            good("version 1, which Kubernetes 1.34 is the last to take")
        }
        Some(image) if image.contains(":v1.3") => bad(format!(
            "version 1, which {} does not run on",
            image.split('@').next().unwrap_or(image)
        ))
        .mended("`--image oldest`, or boot with systemd.unified_cgroup_hierarchy=1"),
        _ => note("version 1: Kubernetes from 1.35 on does not run here")
            .mended("`--image oldest`, or boot with systemd.unified_cgroup_hierarchy=1"),
    }
}

/// Without root, the nodes get the controllers that systemd hands down to the user.
fn delegation() -> Finding {
    // SAFETY: a system call without memory that cannot fail.
    let user = unsafe { libc::getuid() };
    let file = format!(
        "/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    );
    let have = fs::read_to_string(&file).unwrap_or_default();
    let lack: Vec<_> = ["cpu", "cpuset", "io", "memory", "pids"]
        .into_iter()
        .filter(|name| !have.split_whitespace().any(|have| have == *name))
        .collect();
    match lack.as_slice() {
        [] => good("version 2, delegated to this user"),
        lack => bad(format!(
            "version 2, of which {} are not delegated to this user",
            lack.join(", ")
        ))
        .mended("see https://kind.sigs.k8s.io/docs/user/rootless: Delegate=yes for user@.service"),
    }
}

pub(super) fn memory(about: &About) -> Finding {
    let Engine::Answers(info) = about.engine() else { return note("not known without an engine") };
    match info.get("MemTotal").and_then(Value::as_f64) {
        Some(memory) if memory < MEMORY => {
            note(format!("{:.1} GB for the engine: little for four nodes", memory / 1e9))
        }
        Some(memory) => good(format!("{:.0} GB", memory / 1e9)),
        None => note("not known"),
    }
}

pub(super) fn inotify() -> Finding {
    // What kind's documentation asks for: several nodes of a real cluster share the host's limits.
    let (watches, instances) = (
        machine::setting("fs/inotify/max_user_watches"),
        machine::setting("fs/inotify/max_user_instances"),
    );
    match (watches, instances) {
        (Some(w), Some(i)) if w < 524_288 || i < 512 => note(format!(
            "{w} watches, {i} instances: pods may find too many open files"
        ))
        .mended("sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"),
        (Some(w), Some(i)) => good(format!("{w} watches, {i} instances")),
        _ => note("its limits are not known"),
    }
}

/// A real cluster's traffic is tracked, each connection for two minutes after its end; what finds no room
/// is dropped, and requests fail that no cluster is to blame for.
pub(super) fn connections() -> Finding {
    tracked(
        machine::setting("net/netfilter/nf_conntrack_count"),
        machine::setting("net/netfilter/nf_conntrack_max"),
    )
}

fn tracked(count: Option<u64>, max: Option<u64>) -> Finding {
    let (Some(count), Some(max)) = (count, max) else { return good("none are tracked") };
    let what = format!("{count} of {max} tracked");
    match count.saturating_mul(10) >= max.saturating_mul(8) {
        true => note(format!("{what}: more are dropped, so a lab may see requests fail"))
            .mended("wait two minutes, or: sudo sysctl net.netfilter.nf_conntrack_max=1048576"),
        false => good(what),
    }
}

fn text<'a>(info: &'a Value, name: &str) -> &'a str {
    info.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_rootless(info: &Value) -> bool {
    let options = info.get("SecurityOptions").and_then(Value::as_array).into_iter().flatten();
    options.filter_map(Value::as_str).any(|option| option.contains("rootless"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Depth, State},
        *,
    };
    use crate::project::Project;
    use serde_json::json;
    use std::cell::OnceCell;

    #[test]
    fn a_full_table_of_connections_is_told() {
        for (count, max, state) in [
            (None, None, State::Ok),
            (Some(79), Some(100), State::Ok),
            (Some(80), Some(100), State::Note),
            (Some(262_144), Some(262_144), State::Note),
        ] {
            assert_eq!(tracked(count, max).state, state, "{count:?}");
        }
    }

    fn about(engine: Engine, image: Option<&str>) -> About {
        About {
            project: Project { root: "/".into(), binaries: "/".into(), target: "/".into() },
            image: image.map(Into::into),
            depth: Depth::Quick,
            engine: OnceCell::from(engine),
        }
    }

    #[test]
    fn old_cgroups_are_refused_where_the_kubelet_would_refuse_them() {
        for (version, image, expected) in [
            ("2", Some("kindest/node:v1.37.0@sha256:a"), State::Ok),
            ("1", Some("kindest/node:v1.37.0@sha256:a"), State::Bad),
            ("1", Some("kindest/node:v1.34.11@sha256:a"), State::Ok),
            ("1", Some("my/own:image"), State::Note),
            ("1", None, State::Note),
        ] {
            let about = about(Engine::Answers(json!({"CgroupVersion": version})), image);
            let found = cgroups(&about);
            assert_eq!(found.state, expected, "{version} {image:?}: {}", found.text);
            assert_eq!(found.mend.is_some(), expected != State::Ok);
        }
    }

    #[test]
    fn an_engine_that_cannot_be_used_is_told_with_what_to_do() {
        for engine in [
            Engine::Absent("/s".into()),
            Engine::Denied("/s".into()),
            Engine::Mute("/s".into()),
            Engine::Elsewhere("tcp://h".into()),
        ] {
            let (about, name) = (about(engine.clone(), None), format!("{engine:?}"));
            let found = answers(&about);
            assert_eq!((found.state, found.mend.is_some()), (State::Bad, true), "{name}");
            assert_eq!(optional(&about).state, State::Note, "{name}");
        }
    }

    #[test]
    fn the_storage_is_named() {
        let info = json!({"Driver": "overlayfs", "DockerRootDir": "/nonexistent",
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]});
        let found = storage(&about(Engine::Answers(info), None));
        assert!(found.text.contains("containerd's image store"), "{}", found.text);
        let info = json!({"Driver": "vfs", "DockerRootDir": "/nonexistent"});
        assert_eq!(storage(&about(Engine::Answers(info), None)).state, State::Note);
    }
}
