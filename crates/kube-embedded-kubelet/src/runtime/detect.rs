//! The container runtime of a cluster: the sandbox of its pods, found by trying where it is not given, and what was
//! started to find out.

use super::{
    capabilities::Capabilities,
    launch::{Container, Launch, LaunchError, LaunchTarget, RootFs, Security},
    pause::{Pause, PauseConfig, StartingPause},
    seccomp::Filters,
    spawner::{Spawner, thread_ended},
    stdio::Stdio,
};
use crate::{error::KubeletError, rlimit};
use kube_embedded_core::network::{Addresses, BLOCKS, Sandbox};
use std::{
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

const WORKS: &str = "user, mount, pid, uts, ipc and network namespaces work here";

// What worked once in this process is not tried again. What failed may have lacked memory or processes only then.
static SANDBOX_WORKS: AtomicBool = AtomicBool::new(false);
static NETWORK_WORKS: AtomicBool = AtomicBool::new(false);

/// Returns the stronger sandbox that works, and the reason.
pub(crate) fn detect() -> (Sandbox, String) {
    if NETWORK_WORKS.load(Ordering::Relaxed) {
        return (Sandbox::Namespaced, WORKS.to_owned());
    }
    match ContainerRuntime::start(None, true) {
        Ok(mut runtime) => {
            drop(runtime.take_network());
            (runtime.sandbox, runtime.reason)
        }
        Err(error) => (Sandbox::Plain, error.0),
    }
}

/// What starts the pods of a cluster: a thread with a zygote, and the network between the pods. What an attempt made
/// is kept: namespaces that end delay those that begin, by some 30 ms.
pub struct ContainerRuntime {
    pub(crate) sandbox: Sandbox,
    pub(crate) reason: String,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) network: Option<RequestedNetwork>,
    /// The namespaces that were tried.
    pub(crate) attempt: Option<Pause>,
}

impl ContainerRuntime {
    /// Starts the runtime for a sandbox; without one, for the strongest that works on this machine, found by trying.
    /// With a network, that is being made when this returns. Blocks, unless the sandbox is known.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sandbox: Option<Sandbox>, has_network: bool) -> Result<Self, KubeletError> {
        let spawner = Spawner::new(rlimit::open_files()).map_err(|error| {
            KubeletError(format!("failed to start the thread that starts processes: {error}"))
        })?;
        // Before the attempt, which need not wait for it.
        let network = has_network && sandbox != Some(Sandbox::Plain);
        let network = network.then(|| RequestedNetwork::request(&spawner));
        let (sandbox, reason, attempt) = match sandbox {
            Some(sandbox) => (sandbox, "requested by configuration".to_owned(), None),
            None if SANDBOX_WORKS.load(Ordering::Relaxed) => {
                (Sandbox::Namespaced, WORKS.to_owned(), None)
            }
            None => match attempt(&spawner) {
                Ok(pause) => {
                    SANDBOX_WORKS.store(true, Ordering::Relaxed);
                    (Sandbox::Namespaced, WORKS.to_owned(), Some(pause))
                }
                Err(error) => {
                    // Waited for, so that nothing is left of it.
                    drop(network.map(RequestedNetwork::wait));
                    let hint = hint(&|path| fs::read_to_string(path).ok());
                    let reason = format!("namespaces do not work here: {error}{hint}");
                    return Ok(Self { reason, ..Self::start(Some(Sandbox::Plain), false)? });
                }
            },
        };
        Ok(Self { sandbox, reason, spawner, network, attempt })
    }

    /// Waits for the network between the pods, and takes it. Where there can be none, the reason says so. Blocks.
    pub(crate) fn take_network(&mut self) -> Option<Pause> {
        match self.network.take()?.wait() {
            Ok(network) => {
                NETWORK_WORKS.store(true, Ordering::Relaxed);
                Some(network)
            }
            Err(error) => {
                let limits = "pods reach Services, but not the addresses of each other";
                tracing::warn!(%error, "{limits}");
                self.reason += &format!("; {limits}: {error}");
                None
            }
        }
    }

    /// Returns the isolation of the pods.
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox
    }
}

/// A network between pods that is being made.
pub(crate) struct RequestedNetwork(mpsc::Receiver<Result<StartingPause, LaunchError>>);

impl RequestedNetwork {
    fn request(spawner: &Spawner) -> Self {
        let guard = spawner.guard();
        // Its ranges are those of any block.
        let addresses = Addresses { block: *BLOCKS.start(), sandbox: Sandbox::Namespaced };
        // While the network of another cluster ends, this would wait for it.
        let tries_link = !NETWORK_WORKS.load(Ordering::Relaxed);
        Self(spawner.request(move |thread| thread.router(&addresses, tries_link, guard)))
    }

    fn wait(self) -> Result<Pause, LaunchError> {
        self.0.recv().map_err(|_| thread_ended())??.wait()
    }
}

/// Creates a pod's namespaces and a container in them, and returns the former.
fn attempt(spawner: &Spawner) -> Result<Pause, LaunchError> {
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
    Ok(pause)
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
