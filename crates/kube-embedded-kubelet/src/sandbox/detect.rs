//! Which sandbox works here, found by doing what a pod would do.

use super::{
    Container, Launch, LaunchError, PauseConfig, Place, Root, Stdio,
    pause::{self, Pause},
    spawner::Spawner,
};
use kube_embedded_core::network::Sandbox;
use std::{fs, io, net::Ipv4Addr, sync::Arc};

/// The better sandbox that works, and why.
pub(crate) fn detect() -> (Sandbox, String) {
    match attempt() {
        Ok(()) => (
            Sandbox::Namespaced,
            "user, mount, pid, uts, ipc and network namespaces work here".to_owned(),
        ),
        Err(error) => {
            let hint = hint(&|path| fs::read_to_string(path).ok());
            (Sandbox::Plain, format!("namespaces do not work here: {error}{hint}"))
        }
    }
}

fn attempt() -> Result<(), LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("start a thread", e);
    let spawner = Spawner::new(super::super::limits::open_files()).map_err(failed)?;
    let keep = spawner.clone();
    let config = PauseConfig {
        hostname: "try".to_owned(),
        address: Ipv4Addr::new(10, 244, 0, 1),
        user: 0,
        group: 0,
    };
    let pause: Pause = spawner.blocking(move |thread| pause::start(thread, &config, keep))?;
    let container = Container {
        pause: pause.process.pidfd(),
        root: Root::Empty,
        read_only: false,
        scratch: std::env::temp_dir(),
        files: Vec::new(),
        mounts: Vec::new(),
    };
    let launch = Launch {
        argv: Vec::new(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        place: Place::Container(Box::new(container)),
        stdio: Stdio::Output,
    };
    let keep: Arc<Spawner> = spawner.clone();
    spawner.blocking(move |thread| thread.launch(&launch, keep)).map(drop)
}

/// What to change, where the kernel tells why it refuses.
fn hint(read: &dyn Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    let setting = if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "kernel.apparmor_restrict_unprivileged_userns=0"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone=1"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "user.max_user_namespaces=10000"
    } else {
        return String::new();
    };
    format!(" (`sudo sysctl {setting}` would allow them)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_setting() {
        assert_eq!(hint(&|_| None), "");
        let ubuntu = |path: &str| path.contains("apparmor").then(|| "1\n".to_owned());
        assert!(hint(&ubuntu).contains("apparmor_restrict_unprivileged_userns=0"));
        let none = |path: &str| path.contains("max_user").then(|| "0\n".to_owned());
        assert!(hint(&none).contains("max_user_namespaces"));
    }
}
