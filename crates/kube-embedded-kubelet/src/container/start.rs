//! The start of a container: its environment, its root file system, its first process.

use super::{context::Context, mounts::mounts, network_files, security, target::Target};
use crate::{
    env,
    image_store::Image,
    resources,
    runtime::{
        Container, IdMapping, Launch, LaunchError, LaunchTarget, Mount, Process, RootFs, Security,
        Stdio,
    },
};
use jiff::Timestamp;
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use tokio::time::Instant;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most processes and threads of a pod in the namespaced sandbox.
const MAX_PROCESSES: u64 = 16_384;

/// A container whose program runs.
pub(super) struct Started {
    pub(super) process: Arc<Process>,
    pub(super) target: Arc<Target>,
    pub(super) id: String,
    pub(super) at: Timestamp,
}

/// The reason why a container does not start.
pub(super) enum StartFailure {
    /// An object that it refers to has to change (`CreateContainerConfigError`); retried until then.
    Config(String),
    /// The program does not run. Counts as a failed run.
    Launch(LaunchError),
}

/// Starts the container once.
pub(super) async fn start(cx: Context<'_>, image: &Image) -> Result<Started, StartFailure> {
    use StartFailure::Config;
    let (pod, container) = (cx.pod, cx.container);
    let (maps, secrets) = env::references(container);
    let referenced = pod.fetch(maps, secrets, true).await.map_err(Config)?;
    let location = cx.sandbox.location;
    let variables =
        env::variables(&pod.object(), container, location, &referenced).map_err(Config)?;
    let argv = env::arguments(container, &image.config, &variables).map_err(Config)?;
    let security = Arc::new(security(cx, image)?);
    let env = environment(cx, image, &variables);
    let cwd = container
        .working_dir
        .clone()
        .filter(|d| !d.is_empty())
        .unwrap_or_else(|| image.config.working_dir.clone());
    let mounts = match cx.sandbox.pause {
        Some(_) => mounts(cx, &variables).map_err(Config)?,
        None => Vec::new(),
    };
    cx.log.begin(cx.restarts()).map_err(|e| Config(format!("failed to create its log: {e}")))?;
    cx.normal("Created", &format!("Created container: {}", container.name));
    let program = Program { argv, env, cwd, mounts, security };
    let process = Arc::new(launch(cx, image, &program).await?);
    let target = Target {
        pod: format!("{}/{}", pod.namespace, pod.name),
        ip: location.pod_ip,
        network: pod.runtime.network.clone(),
        spawner: pod.runtime.spawner.clone(),
        process: process.clone(),
        container: container.clone(),
        env: program.env,
        cwd: program.cwd,
        security: program.security,
        rootfs: cx.sandbox.pause.is_none().then(|| image.rootfs.clone()),
        started: Instant::now(),
    };
    Ok(Started { process, target: Arc::new(target), id: new_id(), at: Timestamp::now() })
}

struct Program {
    argv: Vec<String>,
    env: Vec<String>,
    cwd: String,
    mounts: Vec<Mount>,
    security: Arc<Security>,
}

/// Starts the program in the sandbox of the pod. Where overlays do not work, it runs in a copy of the
/// image.
async fn launch(
    cx: Context<'_>,
    image: &Image,
    program: &Program,
) -> Result<Process, StartFailure> {
    let runtime = &cx.pod.runtime;
    let launch = |target| Launch {
        argv: program.argv.clone(),
        env: program.env.clone(),
        cwd: program.cwd.clone(),
        target,
        stdio: match (cx.container.tty, cx.container.stdin) {
            (Some(true), _) => Stdio::Terminal,
            (_, Some(true)) => Stdio::Piped,
            _ => Stdio::Output,
        },
        security: program.security.clone(),
        rlimits: rlimits(program.security.ids),
    };
    let Some(pause) = &cx.sandbox.pause else {
        let target = LaunchTarget::Host { rootfs: image.rootfs.clone() };
        return runtime.spawner.launch(launch(target)).await.map_err(StartFailure::Launch);
    };
    let pause = pause.process.pidfd();
    if !runtime.no_overlay.load(Ordering::Relaxed) {
        let target = target(cx, program, pause.clone(), RootFs::Overlay(image.rootfs.clone()))?;
        match runtime.spawner.launch(launch(target)).await {
            Err(error) if error.is_overlay() => {
                tracing::warn!(%error, "overlays do not work here; containers get copies of images");
                runtime.no_overlay.store(true, Ordering::Relaxed);
            }
            other => return other.map_err(StartFailure::Launch),
        }
    }
    let target = target(cx, program, pause, RootFs::Directory(copy_image(cx, image)?))?;
    runtime.spawner.launch(launch(target)).await.map_err(StartFailure::Launch)
}

/// Returns the resource limits of a program. The kernel counts processes by user and user namespace (since Linux 5.14;
/// before, those of an ordinary user's pods together), so in the plain sandbox the user's own would count.
fn rlimits(ids: IdMapping) -> Vec<(u32, u64, u64)> {
    match ids {
        IdMapping::Host => Vec::new(),
        _ => vec![(libc::RLIMIT_NPROC, MAX_PROCESSES, MAX_PROCESSES)],
    }
}

fn security(cx: Context<'_>, image: &Image) -> Result<Security, StartFailure> {
    let (pod, container) = (cx.pod, cx.container);
    let ids = cx.sandbox.pause.as_ref().map_or(IdMapping::Host, |pause| pause.ids);
    let profiles = pod.runtime.state.join("seccomp");
    security::resolve(&pod.pod, container, image, ids, &profiles).map_err(|error| {
        StartFailure::Config(format!(
            "{error} (pod: \"{}_{}({})\", container: {})",
            pod.name, pod.namespace, pod.uid, container.name
        ))
    })
}

/// Returns the environment: of the image, then what every container gets, then the container's own.
/// Later variables replace earlier ones.
fn environment(cx: Context<'_>, image: &Image, variables: &[(String, String)]) -> Vec<String> {
    let mut all: Vec<String> = vec![PATH.to_owned(), format!("HOSTNAME={}", cx.pod.hostname())];
    all.extend(image.config.env.iter().cloned());
    let api = cx.pod.runtime.api;
    all.push(format!("KUBERNETES_SERVICE_HOST={}", api.ip()));
    all.push(format!("KUBERNETES_SERVICE_PORT={}", api.port()));
    all.push(format!("KUBERNETES_SERVICE_PORT_HTTPS={}", api.port()));
    if cx.sandbox.pause.is_none() {
        // In the plain sandbox a program has to bind this address instead of 0.0.0.0.
        all.push(format!("POD_IP={}", cx.sandbox.location.pod_ip));
    }
    all.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    let mut unique: Vec<String> = Vec::with_capacity(all.len());
    for entry in all {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        unique.retain(|e| e.split('=').next() != Some(&name));
        unique.push(entry);
    }
    unique
}

/// Describes the container to create in the namespaces of the pod.
fn target(
    cx: Context<'_>,
    program: &Program,
    pause: Arc<OwnedFd>,
    root: RootFs,
) -> Result<LaunchTarget, StartFailure> {
    let (files, omitted) =
        network_files::all(&cx.pod.pod, cx.sandbox.location.pod_ip, cx.pod.runtime.dns);
    omitted.iter().for_each(|message| cx.pod.warning("DNSConfigForming", message));
    let scratch = cx.pod.runtime.state.join("scratch");
    fs::create_dir_all(&scratch).map_err(|e| {
        StartFailure::Config(format!("failed to create {}: {e}", scratch.display()))
    })?;
    let read_only = cx.container.security_context.as_ref();
    let read_only = read_only.and_then(|c| c.read_only_root_filesystem) == Some(true);
    let shares_processes_of = cx.shares_processes_of.map(|name| {
        let running = cx.pod.running().get(name).map(|running| running.pidfd());
        running.ok_or_else(|| {
            StartFailure::Config(format!("unable to find target container {name:?}"))
        })
    });
    Ok(LaunchTarget::Container(Box::new(Container {
        pause,
        shares_processes_of: shares_processes_of.transpose()?,
        root,
        read_only,
        storage: resources::storage(cx.container, resources::max_storage()),
        scratch,
        files,
        mounts: program.mounts.clone(),
    })))
}

/// Copies the image to a root file system of the container's own.
fn copy_image(cx: Context<'_>, image: &Image) -> Result<PathBuf, StartFailure> {
    let to = cx.pod.directory().join("root").join(&cx.container.name);
    let _ = fs::remove_dir_all(&to);
    copy(&image.rootfs, &to)
        .map_err(|e| StartFailure::Config(format!("failed to copy the root file system: {e}")))?;
    Ok(to)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, source, target) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, target)?;
        } else {
            fs::copy(&source, target)?;
        }
    }
    Ok(())
}

/// Returns a new container ID. 256 random bits, as containerd's.
pub(super) fn new_id() -> String {
    format!("kube-embedded://{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
