//! Detection of the sandbox that works on this machine, by creating a pod's namespaces and a
//! container in them.

use super::{
    capabilities::Capabilities,
    launch::{Container, Launch, LaunchError, LaunchTarget, RootFs, Security},
    pause::{Pause, PauseConfig},
    seccomp::Filters,
    spawner::Spawner,
    stdio::Stdio,
};
use crate::rlimit;
use kube_embedded_core::network::{Addresses, BLOCKS, Sandbox};
use std::{
    fs, io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const WORKS: &str = "user, mount, pid, uts, ipc and network namespaces work here";

/// Returns the stronger sandbox that works, and the reason.
pub(crate) fn detect() -> (Sandbox, String) {
    // What all worked once in this process is not tried again: namespaces that end delay those that begin,
    // by some 30 ms. What failed may have lacked memory or processes only then.
    static ALL_WORKS: AtomicBool = AtomicBool::new(false);
    if ALL_WORKS.load(Ordering::Relaxed) {
        return (Sandbox::Namespaced, WORKS.to_owned());
    }
    match attempt() {
        Ok(Ok(())) => {
            ALL_WORKS.store(true, Ordering::Relaxed);
            (Sandbox::Namespaced, WORKS.to_owned())
        }
        Ok(Err(error)) => {
            let limits = "pods reach Services, but not the addresses of each other";
            (Sandbox::Namespaced, format!("{WORKS}; {limits}: {error}"))
        }
        Err(error) => {
            let hint = hint(&|path| fs::read_to_string(path).ok());
            (Sandbox::Plain, format!("namespaces do not work here: {error}{hint}"))
        }
    }
}

/// On success, returns whether the network between pods works too.
fn attempt() -> Result<Result<(), LaunchError>, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("start a thread", e);
    let spawner = Spawner::new(rlimit::open_files()).map_err(failed)?;
    let guard = spawner.guard();
    let config = PauseConfig {
        hostname: "detect".to_owned(),
        address: Ipv4Addr::new(10, 244, 0, 1),
        link: None,
        user: 0,
        group: 0,
        sysctls: Vec::new(),
    };
    let starting = spawner.blocking(move |thread| thread.pause(&config, guard))?;
    let pause: Pause = starting.wait()?;
    let container = Container {
        shares_processes_of: None,
        pause: pause.process.pidfd(),
        root: RootFs::Empty,
        read_only: false,
        storage: 1 << 20,
        scratch: std::env::temp_dir(),
        files: Vec::new(),
        mounts: Vec::new(),
    };
    // Without a program, the child exits where it would execute it.
    let launch = Launch {
        argv: Vec::new(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        target: LaunchTarget::Container(Box::new(container)),
        stdio: Stdio::Output,
        security: Arc::new(Security {
            ids: pause.ids,
            user: 0,
            group: 0,
            groups: Vec::new(),
            capabilities: Capabilities::default(),
            no_new_privileges: true,
            seccomp: Filters::default(),
            oom_score_adj: 1000,
        }),
        rlimits: Vec::new(),
    };
    let (guard, launch) = (spawner.guard(), Arc::new(launch));
    let sent = launch.clone();
    let starting = spawner.blocking(move |thread| thread.launch(&sent, guard))?;
    starting.wait(&launch)?;
    let guard = spawner.guard();
    // Any block will do.
    let addresses = Addresses { block: *BLOCKS.start(), sandbox: Sandbox::Namespaced };
    let starting = spawner.blocking(move |thread| thread.router(&addresses, guard));
    Ok(starting.and_then(|starting| starting.wait()).map(drop))
}

/// Names the kernel setting that forbids namespaces, if one does.
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
    fn hint_names_the_restricting_sysctl() {
        assert_eq!(hint(&|_| None), "");
        let ubuntu = |path: &str| path.contains("apparmor").then(|| "1\n".to_owned());
        assert!(hint(&ubuntu).contains("apparmor_restrict_unprivileged_userns=0"));
        let none = |path: &str| path.contains("max_user").then(|| "0\n".to_owned());
        assert!(hint(&none).contains("max_user_namespaces"));
    }
}
