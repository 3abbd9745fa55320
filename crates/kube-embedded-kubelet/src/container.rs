//! One container of a pod: its image, its runs, and the waits between them.

use super::{
    backoff::Backoff,
    env,
    live::Live,
    pod::{PodSandbox, PodWorker},
    probe::{self, Purpose, Target},
    sandbox::{self, Exit, Launch, LaunchError, Place, Process, Root, Stdio},
    status::{self, State, Terminated, View},
    volumes,
};
use crate::images::{Image, normalise};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

/// An image that is missing is looked for this often: an archive may be put into a folder any time.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long output may still come after a program's end, when others hold its pipes.
const DRAIN: Duration = Duration::from_millis(500);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct Runner<'a> {
    pub(crate) pod: &'a PodWorker,
    pub(crate) sandbox: &'a PodSandbox,
    pub(crate) container: &'a Container,
    pub(crate) index: usize,
    pub(crate) init: bool,
}

/// What makes a run end.
enum End {
    Exited(io::Result<Exit>),
    Unhealthy(Purpose),
    Stopped(Instant),
}

struct Running {
    process: Arc<Process>,
    target: Arc<Target>,
    id: String,
    at: Timestamp,
}

impl Runner<'_> {
    /// Runs the container until it is not to be started again. Returns whether it succeeded.
    pub(crate) async fn run(&self) -> bool {
        let policy = match status::policy(&self.pod.pod) {
            "Always" if self.init => "OnFailure",
            policy => policy,
        };
        let mut stopping = self.pod.stopping();
        let mut backoff = Backoff::default();
        loop {
            let begin = Instant::now();
            let prepared = tokio::select! {
                prepared = self.prepare() => prepared,
                _ = stopping.wait_for(Option::is_some) => return false,
            };
            let ended = match prepared {
                Ok(running) => self.attend(running).await,
                Err(failed) => failed,
            };
            let code = ended.exit_code;
            let id = ended.container_id.clone();
            self.change(|v| {
                v.state = State::Terminated(ended.clone());
                v.ready = false;
                v.started = false;
                v.container_id = id;
            });
            if self.pod.stopping().borrow().is_some() || !status::restarts(policy, code) {
                return code == 0;
            }
            let wait = backoff.after(begin.elapsed());
            if !wait.is_zero() {
                let until = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(wait),
                    self.container.name,
                    self.pod.name,
                    self.pod.namespace,
                    self.pod.uid
                );
                self.change(|v| {
                    v.last = Some(ended.clone());
                    v.state = State::Waiting {
                        reason: "CrashLoopBackOff".to_owned(),
                        message: Some(until),
                    };
                });
                self.warn(
                    "BackOff",
                    &format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        self.container.name, self.pod.name, self.pod.namespace, self.pod.uid
                    ),
                );
                tokio::select! {
                    _ = sleep(wait) => {}
                    _ = stopping.wait_for(Option::is_some) => {
                        self.change(|v| v.state = State::Terminated(ended));
                        return false;
                    }
                }
            } else {
                self.change(|v| v.last = Some(ended));
            }
            self.change(|v| v.restarts += 1);
        }
    }

    /// Gets the image and starts the program. Waits as long as either needs.
    async fn prepare(&self) -> Result<Running, Terminated> {
        let image = self.image().await;
        let mut wait = Duration::from_millis(500);
        loop {
            match self.start(&image).await {
                Ok(running) => return Ok(running),
                Err(Failure::Config(message)) => {
                    self.change(|v| {
                        v.state = waiting("CreateContainerConfigError", Some(message.clone()))
                    });
                    self.warn("Failed", &format!("Error: {message}"));
                }
                Err(Failure::Start(e)) => {
                    let message = format!("failed to create containerd task: {e}");
                    self.warn("Failed", &format!("Error: {message}"));
                    let at = Timestamp::now();
                    return Err(Terminated {
                        exit_code: 128,
                        reason: "StartError".to_owned(),
                        message: Some(message),
                        started_at: Timestamp::UNIX_EPOCH,
                        finished_at: at,
                        container_id: new_id(),
                    });
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    /// Waits for the image as long as it takes.
    async fn image(&self) -> Arc<Image> {
        let name = self.container.image.clone().unwrap_or_default();
        let never = self.container.image_pull_policy.as_deref() == Some("Never");
        let mut told = 0;
        loop {
            let (images, wanted) = (self.pod.host.images.clone(), name.clone());
            // Reading an archive takes a while.
            if let Ok(Some(image)) =
                tokio::task::spawn_blocking(move || images.resolve(&wanted)).await
            {
                self.change(|v| {
                    v.image = normalise(&name);
                    v.image_id.clone_from(&image.id);
                });
                self.pod.host.report_images().await;
                self.note(
                    "Pulled",
                    &format!("Container image {name:?} already present on machine"),
                );
                return image;
            }
            let explained = self.pod.host.images.explain_missing(&name);
            let (first, then) = if never {
                ("ErrImageNeverPull", "ErrImageNeverPull")
            } else {
                ("ErrImagePull", "ImagePullBackOff")
            };
            let message = match (told, never) {
                (_, true) => format!(
                    "Container image {name:?} is not present with pull policy of Never: {explained}"
                ),
                (0, _) => explained,
                _ => format!("Back-off pulling image {name:?}: {explained}"),
            };
            let reason = if told == 0 { first } else { then };
            self.change(|v| v.state = waiting(reason, Some(message.clone())));
            match told {
                0 if never => self.warn("ErrImageNeverPull", &message),
                0 => {
                    self.note("Pulling", &format!("Pulling image {name:?}"));
                    self.warn("Failed", &format!("Failed to pull image {name:?}: {message}"));
                    self.warn("Failed", &format!("Error: {first}"));
                }
                1 if !never => {
                    self.note("BackOff", &format!("Back-off pulling image {name:?}"));
                    self.warn("Failed", &format!("Error: {then}"));
                }
                _ => {}
            }
            told += 1;
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn start(&self, image: &Arc<Image>) -> Result<Running, Failure> {
        let container = self.container;
        let (maps, secrets) = env::references(container);
        let referred = self.pod.fetch(maps, secrets, true).await.map_err(Failure::Config)?;
        let variables = env::variables(&self.pod.pod, container, self.sandbox.location, &referred)
            .map_err(Failure::Config)?;
        let argv = env::arguments(container, &image.config, &variables).map_err(Failure::Config)?;
        self.check_user()?;
        let environment = self.environment(image, &variables);
        let cwd = container
            .working_dir
            .clone()
            .filter(|d| !d.is_empty())
            .unwrap_or_else(|| image.config.working_dir.clone());
        let (id, number) = (new_id(), self.view(|v| v.restarts));
        let log = self.log();
        log.begin(number).map_err(|e| Failure::Config(format!("cannot write its log: {e}")))?;
        self.note("Created", &format!("Created container: {}", container.name));
        let launch = |place| Launch {
            argv: argv.clone(),
            env: environment.clone(),
            cwd: cwd.clone(),
            place,
            stdio: match (container.tty, container.stdin) {
                (Some(true), _) => Stdio::Terminal,
                (_, Some(true)) => Stdio::Piped,
                _ => Stdio::Output,
            },
        };
        let spawner = &self.pod.host.spawner;
        let mut rootfs = None;
        let started = match &self.sandbox.pause {
            None => {
                rootfs = Some(image.rootfs.clone());
                spawner.launch(launch(Place::Host { rootfs: image.rootfs.clone() })).await
            }
            Some(pause) => {
                let mut overlay = !self.pod.host.no_overlay.load(Ordering::Relaxed);
                loop {
                    let root = if overlay {
                        Root::Overlay(image.rootfs.clone())
                    } else {
                        Root::Folder(self.copy_of(image)?)
                    };
                    let place = self.place(pause.process.pidfd(), root)?;
                    match spawner.launch(launch(place)).await {
                        Err(LaunchError::Step(step, _)) if overlay && sandbox::is_overlay(step) => {
                            self.pod.host.no_overlay.store(true, Ordering::Relaxed);
                            overlay = false;
                        }
                        other => break other,
                    }
                }
            }
        };
        let process = Arc::new(started.map_err(Failure::Start)?);
        let target = Arc::new(Target {
            ip: self.sandbox.location.pod_ip,
            network: self.pod.host.network.clone(),
            spawner: spawner.clone(),
            process: process.clone(),
            container: container.clone(),
            env: environment,
            cwd,
            rootfs,
            started: Instant::now(),
        });
        Ok(Running { process, target, id, at: Timestamp::now() })
    }

    /// From the start of the program to its end.
    async fn attend(&self, running: Running) -> Terminated {
        let Running { process, target, id, at } = running;
        let log = self.log();
        let (over, ended) = watch::channel(());
        let (live, mut output) = Live::begin(target.clone(), process.streams().ok(), log, ended);
        self.pod.running().insert(self.container.name.clone(), live);
        self.change(|v| {
            v.state = State::Running { at };
            v.container_id.clone_from(&id);
            v.started = self.container.startup_probe.is_none();
            v.ready = v.started && (self.init || self.container.readiness_probe.is_none());
        });
        self.note("Started", &format!("Started container {}", self.container.name));
        let mut stopping = self.pod.stopping();
        let tell = |purpose: Purpose, holds: bool| {
            self.change(|v| match purpose {
                Purpose::Startup => v.started = holds,
                _ => v.ready = holds,
            });
        };
        let fail = |purpose: Purpose, why: &str| {
            self.warn("Unhealthy", &format!("{} probe failed: {why}", purpose.name()));
        };
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
            && let Err(why) = self.hook(&target, hook).await
        {
            self.warn("FailedPostStartHook", &format!("PostStartHook failed: {why}"));
            process.signal(libc::SIGKILL);
        }
        let end = tokio::select! {
            exit = process.wait() => End::Exited(exit),
            purpose = probe::watch(&target, tell, fail), if !self.init => End::Unhealthy(purpose),
            at = stopping.wait_for(Option::is_some) => {
                End::Stopped(at.ok().and_then(|at| *at).unwrap_or_else(Instant::now))
            }
        };
        let exit = match end {
            End::Exited(exit) => exit,
            End::Unhealthy(purpose) => {
                let kind = purpose.name().to_lowercase();
                self.note(
                    "Killing",
                    &format!(
                        "Container {} failed {kind} probe, will be restarted",
                        self.container.name
                    ),
                );
                self.end(&target, Instant::now() + self.grace(purpose)).await
            }
            End::Stopped(deadline) => {
                self.note("Killing", &format!("Stopping container {}", self.container.name));
                self.end(&target, deadline).await
            }
        };
        let drained = async { while output.join_next().await.is_some() {} };
        let _ = timeout(DRAIN, drained).await;
        output.shutdown().await;
        log.end();
        self.pod.running().remove(&self.container.name);
        drop(over);
        let exit = exit.unwrap_or(Exit { code: 137, signal: Some(libc::SIGKILL) });
        Terminated {
            exit_code: exit.code,
            reason: if exit.code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
            started_at: at,
            finished_at: Timestamp::now(),
            container_id: id,
        }
    }

    /// Hook, SIGTERM, patience, SIGKILL. The patience may become shorter on the way.
    async fn end(&self, target: &Target, mut deadline: Instant) -> io::Result<Exit> {
        let process = &target.process;
        let mut stopping = self.pod.stopping();
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
            tokio::select! {
                exit = process.wait() => return exit,
                done = probe::until(deadline, self.hook(target, hook)) => {
                    if let Some(Err(why)) = done {
                        self.warn("FailedPreStopHook", &format!("PreStopHook failed: {why}"));
                    }
                }
                _ = stopping.wait_for(|at| at.is_some_and(|at| at < deadline)) => {}
            }
        }
        process.signal(libc::SIGTERM);
        loop {
            if let Some(sooner) = *stopping.borrow_and_update() {
                deadline = deadline.min(sooner);
            }
            tokio::select! {
                exit = process.wait() => return exit,
                _ = sleep_until(deadline) => break,
                changed = stopping.changed() => if changed.is_err() { break },
            }
        }
        process.signal(libc::SIGKILL);
        process.wait().await
    }

    async fn hook(&self, target: &Target, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(nap) = &hook.sleep {
            sleep(Duration::from_secs(nap.seconds.max(0) as u64)).await;
        }
        if let Some(exec) = &hook.exec {
            let (code, output) =
                probe::execute(target, exec.command.clone().unwrap_or_default()).await?;
            if code != 0 {
                return Err(format!("command exited with {code}: {}", output.trim_end()));
            }
        }
        if let Some(get) = &hook.http_get {
            let to = probe::address(target, get.host.as_deref(), &get.port)?;
            let path = get.path.as_deref().unwrap_or("/");
            probe::http_get(&target.network, to, path, &[]).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn grace(&self, purpose: Purpose) -> Duration {
        let probe = match purpose {
            Purpose::Startup => self.container.startup_probe.as_ref(),
            _ => self.container.liveness_probe.as_ref(),
        };
        let own = probe.and_then(|p| p.termination_grace_period_seconds);
        let pods = self.pod.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        Duration::from_secs(own.or(pods).unwrap_or(30).max(0) as u64)
    }

    fn check_user(&self) -> Result<(), Failure> {
        let pods = self
            .pod
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.security_context.as_ref())
            .and_then(|c| c.run_as_non_root);
        let own = self.container.security_context.as_ref().and_then(|c| c.run_as_non_root);
        if own.or(pods) == Some(true) && self.pod.user().0 == 0 {
            return Err(Failure::Config(format!(
                "container has runAsNonRoot and image will run as root (pod: \"{}_{}({})\", container: {})",
                self.pod.name, self.pod.namespace, self.pod.uid, self.container.name
            )));
        }
        Ok(())
    }

    /// Image, then what every container gets, then its own, the later winning.
    fn environment(&self, image: &Image, variables: &[(String, String)]) -> Vec<String> {
        let host = &self.pod.host;
        let mut all: Vec<String> =
            vec![PATH.to_owned(), format!("HOSTNAME={}", self.pod.hostname())];
        all.extend(image.config.env.iter().cloned());
        let api = host.api;
        all.push(format!("KUBERNETES_SERVICE_HOST={}", api.ip()));
        all.push(format!("KUBERNETES_SERVICE_PORT={}", api.port()));
        all.push(format!("KUBERNETES_SERVICE_PORT_HTTPS={}", api.port()));
        if self.sandbox.pause.is_none() {
            all.push(format!("POD_IP={}", self.sandbox.location.pod_ip));
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

    fn place(&self, pause: Arc<std::os::fd::OwnedFd>, root: Root) -> Result<Place, Failure> {
        let ip = self.sandbox.location.pod_ip;
        let (name, namespace) = (self.pod.hostname(), &self.pod.namespace);
        let scratch = self.pod.host.state.join("scratch");
        fs::create_dir_all(&scratch)
            .map_err(|e| Failure::Config(format!("cannot make {}: {e}", scratch.display())))?;
        let hosts = format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{name}\n"
        );
        let search = format!(
            "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let read_only =
            self.container.security_context.as_ref().and_then(|c| c.read_only_root_filesystem);
        Ok(Place::Container(Box::new(sandbox::Container {
            pause,
            root,
            read_only: read_only == Some(true),
            scratch,
            files: vec![
                ("/etc/hosts".to_owned(), hosts),
                ("/etc/hostname".to_owned(), format!("{name}\n")),
                ("/etc/resolv.conf".to_owned(), search),
            ],
            mounts: volumes::mounts(self.container, &self.sandbox.volumes)
                .map_err(Failure::Config)?,
        })))
    }

    /// A root file system of the container's own, where overlays do not work.
    fn copy_of(&self, image: &Image) -> Result<PathBuf, Failure> {
        let to = self.pod.folder().join("root").join(&self.container.name);
        let _ = fs::remove_dir_all(&to);
        copy(&image.rootfs, &to)
            .map_err(|e| Failure::Config(format!("cannot copy the root file system: {e}")))?;
        Ok(to)
    }

    fn log(&self) -> &Arc<super::logs::Log> {
        let logs = if self.init { &self.pod.init_logs } else { &self.pod.logs };
        #[expect(clippy::indexing_slicing, reason = "made from the same list as the containers")]
        &logs[self.index]
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        self.pod.change(|view| {
            let views = if self.init { &mut view.init } else { &mut view.containers };
            if let Some(view) = views.get_mut(self.index) {
                change(view);
            }
        });
    }

    fn view<T: Default>(&self, read: impl FnOnce(&View) -> T) -> T {
        let view = self.pod.view();
        let views = if self.init { &view.init } else { &view.containers };
        views.get(self.index).map(read).unwrap_or_default()
    }

    fn field(&self) -> Option<String> {
        let list = if self.init { "initContainers" } else { "containers" };
        Some(format!("spec.{list}{{{}}}", self.container.name))
    }

    fn note(&self, reason: &str, message: &str) {
        self.pod.node.normal(&self.pod.reference(self.field()), reason, message);
    }

    fn warn(&self, reason: &str, message: &str) {
        self.pod.node.warning(&self.pod.reference(self.field()), reason, message);
    }
}

/// Why a container does not run.
enum Failure {
    /// The objects it refers to have to change; tried again until they do.
    Config(String),
    /// Counts as a run that failed.
    Start(LaunchError),
}

fn waiting(reason: &str, message: Option<String>) -> State {
    State::Waiting { reason: reason.to_owned(), message }
}

fn new_id() -> String {
    format!("kube-embedded://{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

/// As Go prints it: `10s`, `1m20s`.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_gos() {
        let all = [10, 80, 300].map(|s| go_duration(Duration::from_secs(s)));
        assert_eq!(all, ["10s", "1m20s", "5m0s"]);
    }
}
