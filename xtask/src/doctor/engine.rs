//! Checks for clusters in containers: the Docker engine, and the kernel's limits for many nodes.

use super::{
    check::{CheckContext, Finding},
    machine,
};
use crate::docker::{self, Engine};
use serde_json::Value;
use std::{fs, path::Path};

/// Disk and memory for the nodes, their system pods and the app.
const DISK: f64 = 6e9;
const MEMORY: f64 = 3e9;

/// Checks for an engine where it is optional: phase 2 then also runs the images in it.
pub(crate) fn optional(context: &CheckContext) -> Finding {
    match context.engine() {
        Engine::Ready(_) => Finding::ok("an engine responds: phase 2 runs the images there, too"),
        _ => Finding::note("no engine responds: phase 2 runs the images on the cluster"),
    }
}

/// Checks that the engine responds.
pub(crate) fn responds(context: &CheckContext) -> Finding {
    match context.engine() {
        Engine::Ready(info) => {
            let rootless = if is_rootless(info) { ", rootless" } else { "" };
            Finding::ok(format!("Docker {}{rootless}", text(info, "ServerVersion")))
        }
        Engine::Absent(socket) => Finding::bad(format!("no Docker engine listens at {socket}"))
            .with_fix(
                "`sudo systemctl start docker`, or see https://docs.docker.com/engine/install",
            ),
        Engine::Denied(socket) => {
            Finding::bad(format!("permission denied on the Docker socket {socket}"))
                .with_fix("`sudo usermod --append --groups docker $USER` and a new login")
        }
        Engine::Unresponsive(socket) => {
            Finding::bad(format!("the Docker engine at {socket} does not respond"))
                .with_fix("sudo systemctl restart docker")
        }
        Engine::Remote(host) => {
            Finding::bad(format!("DOCKER_HOST={host} is the engine of another machine"))
                .with_fix("unset DOCKER_HOST: clusters there publish no ports here")
        }
    }
}

/// Checks the storage driver and the disk of the engine.
pub(crate) fn storage(context: &CheckContext) -> Finding {
    let Engine::Ready(info) = context.engine() else { return unknown() };
    let (driver, root) = (text(info, "Driver"), text(info, "DockerRootDir"));
    let status = info.get("DriverStatus").map(Value::to_string).unwrap_or_default();
    let store = match status.contains("io.containerd.snapshotter") {
        true => ", containerd's image store (so images are loaded as archives)",
        false => "",
    };
    let free = machine::free_bytes(Path::new(root));
    let space = free.map(|free| format!(", {:.0} GB free", free / 1e9)).unwrap_or_default();
    let what = format!("{driver}{store}{space}");
    match (driver, free) {
        (_, Some(free)) if free < DISK => {
            Finding::bad(format!("{what} in {root}; a cluster takes {:.0} GB", DISK / 1e9))
                .with_fix("docker system prune")
        }
        ("vfs", _) => {
            Finding::note(format!("{what}: vfs copies every layer, which takes long and much disk"))
        }
        _ => Finding::ok(what),
    }
}

/// Checks the version of cgroups. With version 1 the kubelet decides, by its configuration, which is not in
/// the image's name; so it is asked to tolerate that, and reports itself if it does not.
pub(crate) fn cgroups(context: &CheckContext) -> Finding {
    let Engine::Ready(info) = context.engine() else { return unknown() };
    match has_cgroups_v1(info) {
        true => Finding::note(
            "version 1, which Kubernetes gives up: nodes are started with failCgroupV1 = false, \
             which versions from 1.31 on know",
        )
        .with_fix("boot with systemd.unified_cgroup_hierarchy=1"),
        false if is_rootless(info) => delegation(),
        false => Finding::ok("version 2"),
    }
}

/// Returns true if the engine's containers have cgroups of version 1.
pub(crate) fn has_cgroups_v1(info: &Value) -> bool {
    text(info, "CgroupVersion") == "1"
}

/// Checks whether the engine has the node image, or has to pull it.
pub(crate) fn node_image(context: &CheckContext, default: &str) -> Finding {
    let Engine::Ready(_) = context.engine() else { return unknown() };
    let image = context.image.as_deref().unwrap_or(default);
    let name = image.split('@').next().unwrap_or(image);
    match docker::has_image(image) {
        Some(true) => Finding::ok(format!("{name} is on this machine")),
        Some(false) => Finding::note(format!("{name} is not on this machine and will be pulled"))
            .with_fix(format!("for a machine without network: `docker pull {image}`")),
        None => Finding::note(format!("the engine does not tell whether it has {name}")),
    }
}

/// Checks the controllers that systemd delegates to the user: a rootless engine's nodes get no others.
fn delegation() -> Finding {
    let user = rustix::process::getuid().as_raw();
    let file = format!(
        "/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    );
    let delegated = fs::read_to_string(&file).unwrap_or_default();
    let missing: Vec<_> = ["cpu", "cpuset", "io", "memory", "pids"]
        .into_iter()
        .filter(|name| !delegated.split_whitespace().any(|delegated| delegated == *name))
        .collect();
    match missing.as_slice() {
        [] => Finding::ok("version 2, delegated to this user"),
        missing => Finding::bad(format!(
            "version 2, of which {} are not delegated to this user",
            missing.join(", ")
        ))
        .with_fix(
            "see https://kind.sigs.k8s.io/docs/user/rootless: Delegate=yes for user@.service",
        ),
    }
}

/// Checks the memory of the engine.
pub(crate) fn memory(context: &CheckContext) -> Finding {
    let Engine::Ready(info) = context.engine() else { return unknown() };
    match info.get("MemTotal").and_then(Value::as_f64) {
        Some(memory) if memory < MEMORY => {
            Finding::note(format!("{:.1} GB for the engine: little for four nodes", memory / 1e9))
        }
        Some(memory) => Finding::ok(format!("{:.0} GB", memory / 1e9)),
        None => Finding::note("unknown"),
    }
}

/// Checks the limits that kind's documentation asks for: all nodes share those of the host.
pub(crate) fn inotify(_: &CheckContext) -> Finding {
    let (watches, instances) = (
        machine::sysctl("fs/inotify/max_user_watches"),
        machine::sysctl("fs/inotify/max_user_instances"),
    );
    match (watches, instances) {
        (Some(w), Some(i)) if w < 524_288 || i < 512 => Finding::note(format!(
            "{w} watches, {i} instances: pods may fail with \"too many open files\""
        ))
        .with_fix(
            "`sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
        ),
        (Some(w), Some(i)) => Finding::ok(format!("{w} watches, {i} instances")),
        _ => Finding::note("its limits are unknown"),
    }
}

/// Checks the connection tracking table. Each connection of a real cluster stays in it for two minutes
/// after its end; packets that find it full are dropped, and requests fail through no fault of the
/// cluster.
pub(crate) fn connections(_: &CheckContext) -> Finding {
    conntrack(
        machine::sysctl("net/netfilter/nf_conntrack_count"),
        machine::sysctl("net/netfilter/nf_conntrack_max"),
    )
}

fn conntrack(count: Option<u64>, max: Option<u64>) -> Finding {
    let (Some(count), Some(max)) = (count, max) else { return Finding::ok("none are tracked") };
    let what = format!("{count} of {max} tracked");
    match count.saturating_mul(10) >= max.saturating_mul(8) {
        true => Finding::note(format!("{what}: more are dropped, so requests of a lab may fail"))
            .with_fix("wait two minutes, or `sudo sysctl net.netfilter.nf_conntrack_max=1048576`"),
        false => Finding::ok(what),
    }
}

fn unknown() -> Finding {
    Finding::note("unknown without an engine")
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
    use super::*;
    use crate::doctor::check::State;
    use serde_json::json;

    fn context(engine: Engine, image: Option<&str>) -> CheckContext {
        CheckContext::with_engine(engine, image)
    }

    #[test]
    fn nearly_full_conntrack_table_is_reported() {
        for (count, max, state) in [
            (None, None, State::Ok),
            (Some(79), Some(100), State::Ok),
            (Some(80), Some(100), State::Note),
            (Some(262_144), Some(262_144), State::Note),
        ] {
            assert_eq!(conntrack(count, max).state, state, "{count:?}");
        }
    }

    #[test]
    fn cgroups_v1_is_reported_and_left_to_the_kubelet() {
        for (version, expected) in [("2", State::Ok), ("1", State::Note)] {
            let context = context(Engine::Ready(json!({"CgroupVersion": version})), None);
            let found = cgroups(&context);
            assert_eq!(found.state, expected, "{version}: {}", found.text);
            assert_eq!(found.fix.is_some(), expected != State::Ok);
        }
    }

    #[test]
    fn unusable_engine_is_reported_with_a_fix() {
        for engine in [
            Engine::Absent("/s".into()),
            Engine::Denied("/s".into()),
            Engine::Unresponsive("/s".into()),
            Engine::Remote("tcp://h".into()),
        ] {
            let (context, name) = (context(engine.clone(), None), format!("{engine:?}"));
            let found = responds(&context);
            assert_eq!((found.state, found.fix.is_some()), (State::Bad, true), "{name}");
            assert_eq!(optional(&context).state, State::Note, "{name}");
        }
    }

    #[test]
    fn storage_driver_is_reported() {
        let info = json!({"Driver": "overlayfs", "DockerRootDir": "/nonexistent",
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]});
        let found = storage(&context(Engine::Ready(info), None));
        assert!(found.text.contains("containerd's image store"), "{}", found.text);
        let info = json!({"Driver": "vfs", "DockerRootDir": "/nonexistent"});
        assert_eq!(storage(&context(Engine::Ready(info), None)).state, State::Note);
    }
}
