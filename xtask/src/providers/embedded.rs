//! The embedded cluster: `kube-embedded serve` as a process. It starts in milliseconds, so each lab gets
//! one of its own unless the persistent one of `up` is free and current.
//!
//! A persistent one holds the lock on the file `pid` as its standard input (see
//! [`crate::exec::daemon`]) and is described by `process.json`. It touches `status.json` while it lives, and
//! removes it when it is stopped: one that remains shows that it died, and when.

use crate::{
    cluster::{
        flags::{ClusterFlags, Sandbox},
        profile::ClusterProfile,
        provider::{self, Provider, ProviderContext},
        record::{Record, State, unix_now},
        spec::Spec,
    },
    doctor::{
        check::{Check, Finding},
        engine, machine, tools,
    },
    exec::{
        command_line::CommandLine,
        daemon::{self, Daemon},
        process::{PidFd, Signal},
        runner::KnownError,
    },
    files,
    images::Image,
    lock::Lock,
    output::errln,
};
use anyhow::{Context, Result, bail, ensure};
use lab_environment::{Alternative, Timeouts};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The provider.
pub(crate) struct Embedded;

/// Time for the API to respond: it takes milliseconds, unless the machine is very busy.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for pods to terminate.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Time to read images again.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

const CHECKS: &[Check] = &[
    Check::new("cores", machine::cores),
    Check::new("loopback", machine::loopback),
    Check::new("namespaces", machine::namespaces),
    Check::new("port 80", machine::port_80),
    Check::new("files", machine::open_files),
    Check::new("folder", machine::home),
    // The labs use no kubectl.
    Check::new("kubectl", |context| tools::kubectl(context).optional()),
    Check::new("docker", engine::optional),
    Check::new("cluster", |context| {
        match context.project.home().and_then(|home| server(&home.join("clusters/embedded"))) {
            Ok(Some(server)) => Finding::ok(format!("running at {server}")),
            Ok(None) => Finding::ok("none is running; `cargo xtask up` starts one"),
            Err(error) => Finding::note(format!("{error:#}")),
        }
    }),
];

impl Provider for Embedded {
    fn name(&self) -> &'static str {
        provider::DEFAULT
    }

    fn flags(&self) -> &'static [&'static str] {
        &["--sandbox"]
    }

    fn checks(&self) -> &'static [Check] {
        CHECKS
    }

    /// Checks only what would make claims fail: a start takes less time than the other checks, and reports
    /// what is missing.
    fn preflight_checks(&self) -> &'static [Check] {
        const { &[Check::new("files", machine::open_files)] }
    }

    fn known_errors(&self) -> &'static [KnownError] {
        &[]
    }

    fn spec(&self, flags: &ClusterFlags) -> Result<Spec> {
        let sandbox = flags.sandbox.map(|sandbox| sandbox.name().into());
        Ok(Spec { sandbox, ..Spec::named(flags) })
    }

    fn profile(&self, _: &Spec) -> ClusterProfile {
        ClusterProfile {
            // Rollouts take tenths of a second; the rest is for machines under load.
            timeouts: Timeouts { rollout: 60, address: 30, request: 10, propagation: 0 },
            precision: Alternative::NearestReplica,
            unsupported: Vec::new(),
        }
    }

    fn gateway_class(&self) -> Option<&'static str> {
        Some("kube-embedded")
    }

    fn exists(&self, context: &ProviderContext) -> Result<bool> {
        self.is_running(context.folder)
    }

    fn is_running(&self, folder: &Path) -> Result<bool> {
        Lock::is_held(&pid_file(folder))
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        let line = serve(context);
        if context.runner.is_dry_run() {
            context.run(&line, START_TIMEOUT)?;
            return Ok(None);
        }
        let (folder, signals) = (context.folder, context.runner.signals());
        // A cluster that was killed leaves its state, and a log that shows why.
        let _ = fs::remove_dir_all(state_dir(folder));
        let log = folder.join("cluster.log");
        if self.death(folder).is_some() {
            let previous = folder.join("cluster.previous.log");
            if fs::rename(&log, &previous).is_ok() {
                errln!("the previous cluster died; its log is {}", previous.display());
            }
        }
        let _ = fs::remove_file(status_file(folder));
        let build = files::build_id(&context.project.program("kube-embedded"))?;
        let mut command = line.to_command()?;
        command.current_dir("/");
        if context.persistent {
            let lock = Lock::attempt(&pid_file(folder))?;
            let lock = lock.context("a cluster is still shutting down; try again")?;
            // Standard input: no other descriptor is certain to be closed in the children of the
            // cluster, which would then hold the lock, too.
            command.stdin(lock.into_file());
        } else {
            command.stdin(Stdio::piped());
        }
        let began = Instant::now();
        let mut daemon = Daemon::start("cluster", command, &log)?;
        let pid = daemon.id()?;
        let mut process = ProcessRecord { pid, build, since: unix_now(), ready: None };
        process.save(folder)?;
        let ready: Ready = daemon.wait_ready(START_TIMEOUT, signals)?;
        let sandbox = &ready.sandbox;
        if sandbox == "plain" && context.spec.sandbox.as_deref() != Some("plain") {
            errln!("pods run as plain processes: {}", ready.sandbox_reason);
        }
        if !context.persistent {
            return Ok(Some(daemon));
        }
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        errln!("up in {milliseconds:.0} ms at {}, sandbox {sandbox}", ready.server);
        process.ready = Some(ready);
        process.save(folder)?;
        daemon.detach();
        Ok(None)
    }

    /// Does nothing: the process writes its kubeconfig itself.
    fn write_kubeconfig(&self, _: &ProviderContext) -> Result<()> {
        Ok(())
    }

    /// Does nothing: the process has reported that it is ready.
    fn wait_ready(&self, _: &ProviderContext) -> Result<()> {
        Ok(())
    }

    fn check_ready(&self, context: &ProviderContext) -> Result<()> {
        let log_tail = || daemon::log_tail(&context.folder.join("cluster.log"));
        ensure!(self.is_running(context.folder)?, "its process has exited{}", log_tail());
        Ok(())
    }

    fn mismatch(&self, context: &ProviderContext, flags: &ClusterFlags) -> Result<Option<String>> {
        let requested = flags.sandbox.filter(|sandbox| *sandbox != Sandbox::Auto);
        let Some(requested) = requested.map(Sandbox::name) else { return Ok(None) };
        // A damaged record is reported as the reason to start it again.
        let ready = ProcessRecord::load(context.folder).ok().and_then(|process| process.ready);
        let actual = ready.map(|ready| ready.sandbox).unwrap_or_else(|| requested.into());
        Ok((actual != requested).then(|| format!("sandbox {actual}, not {requested}")))
    }

    fn outdated(&self, context: &ProviderContext) -> Result<Option<String>> {
        let build = files::build_id(&context.project.program("kube-embedded"));
        Ok(match ProcessRecord::load(context.folder) {
            Err(error) => Some(format!("of unknown build ({error:#})")),
            Ok(process) if build.is_ok_and(|build| build != process.build) => {
                Some("of an older build".into())
            }
            Ok(_) => None,
        })
    }

    fn death(&self, folder: &Path) -> Option<String> {
        let last_seen = status_file(folder).metadata().and_then(|file| file.modified()).ok()?;
        if self.is_running(folder).ok()? {
            return None;
        }
        let ago = format_age(last_seen.elapsed().unwrap_or_default().as_secs());
        let lived = ProcessRecord::load(folder).ok().map(|process| {
            let lived = last_seen.duration_since(process.started()).unwrap_or_default();
            format!(", after {}", format_age(lived.as_secs()))
        });
        let log = daemon::log_tail(&folder.join("cluster.log"));
        let log = if log.is_empty() { "; its log is empty" } else { &log };
        Some(format!("the last one died {ago} ago{}{log}", lived.unwrap_or_default()))
    }

    fn summary(&self, folder: &Path) -> Option<String> {
        let process = ProcessRecord::load(folder).ok()?;
        let server = process.ready.as_ref()?.server.as_str();
        Some(format!("already running for {} s at {server}", process.age().as_secs()))
    }

    fn details(&self, context: &ProviderContext, record: &Record) -> Result<String> {
        let process = ProcessRecord::load(context.folder)
            .context("the cluster is running, `cargo xtask down` ends it")?;
        let ready = process.ready.as_ref().context("the cluster is still starting; try again")?;
        let query = |words: &str| {
            let output = context.query(&context.kubectl(words));
            output.unwrap_or_else(|error| format!("{error:#}"))
        };
        let api = query("get --raw /readyz --request-timeout=5s");
        let nodes = query("get nodes --request-timeout=5s");
        let mut lines = vec![
            format!("API      {}, {}", ready.server, api.trim()),
            format!("process  {}, up for {}", process.pid, format_age(process.age().as_secs())),
            format!("sandbox  {}", ready.sandbox),
        ];
        lines.extend(
            record.images.iter().map(|(name, digest)| format!("image    {name}  {digest}")),
        );
        lines.push(format!("config   {}", context.kubeconfig.display()));
        lines.push(format!("log      {}", context.folder.join("cluster.log").display()));
        Ok(format!("{}\n\n{}", lines.join("\n"), nodes.trim_end()))
    }

    fn reads_images_at_start(&self) -> bool {
        true
    }

    /// Lets the process read the archives again.
    fn load_images(&self, context: &ProviderContext, _: &[Image]) -> Result<()> {
        let folder = context.folder;
        let before = Status::load(folder)?;
        let process = process(folder)?.context("the cluster has exited")?;
        process.send(Signal::USR1)?;
        let deadline = Instant::now() + LOAD_TIMEOUT;
        loop {
            let status = Status::load(folder)?;
            match status.error {
                _ if status.loads == before.loads => {}
                Some(error) => bail!("the cluster could not load the images: {error}"),
                None => return Ok(()),
            }
            ensure!(!process.has_exited(), "the cluster exited while it loaded the images");
            ensure!(
                Instant::now() < deadline,
                "the images were not loaded within {LOAD_TIMEOUT:?}"
            );
            context.runner.sleep(Duration::from_millis(10))?;
        }
    }

    fn delete(&self, context: &ProviderContext) -> Result<()> {
        let (folder, state) = (context.folder, state_dir(context.folder));
        if context.runner.is_dry_run() {
            let pid =
                ProcessRecord::load(folder).map_or("…".into(), |process| process.pid.to_string());
            context.run(&CommandLine::new("kill -TERM").args([pid]), STOP_TIMEOUT)?;
            let state = CommandLine::new("rm -r").args([state.to_string_lossy()]);
            return context.run(&state, STOP_TIMEOUT);
        }
        if let Some(process) = process(folder)? {
            process.terminate("cluster", STOP_TIMEOUT)?;
        }
        let _ = fs::remove_dir_all(state);
        for file in [process_file(folder), status_file(folder)] {
            let _ = fs::remove_file(file);
        }
        Ok(())
    }

    fn side_by_side(&self) -> bool {
        true
    }

    fn recover(&self, folder: &Path) -> Result<Option<Record>> {
        if !self.is_running(folder)? {
            return Ok(None);
        }
        let since =
            ProcessRecord::load(folder).map_or_else(|_| unix_now(), |process| process.since);
        Ok(Some(up_record(since, BTreeMap::new())))
    }

    /// Takes over the cluster of a version that kept its files in the home directory itself. The lock
    /// that its process holds moves along with the file.
    fn migrate(&self, home: &Path, folder: &Path) -> Result<()> {
        let [pid, about, state] = ["pid", "cluster.json", "cluster"].map(|name| home.join(name));
        if ![&pid, &about, &state].iter().any(|path| path.exists()) {
            return Ok(());
        }
        let _lock = Lock::wait(&home.join("lock"))?;
        if pid.exists() && Lock::is_held(&pid)? {
            let text =
                fs::read(&about).with_context(|| format!("failed to read {}", about.display()))?;
            let old: OldRecord = serde_json::from_slice(&text).with_context(|| {
                format!(
                    "a cluster is running, but {} is corrupt; stop it with `kill {}`",
                    about.display(),
                    fs::read_to_string(&pid).unwrap_or_default().trim()
                )
            })?;
            let kubeconfig = folder.join("kubeconfig");
            fs::copy(&old.kubeconfig, &kubeconfig)
                .with_context(|| format!("failed to copy {}", old.kubeconfig.display()))?;
            let (server, sandbox) = (old.server, old.sandbox);
            let ready = Some(Ready { server, sandbox, sandbox_reason: String::new() });
            ProcessRecord { pid: old.pid, build: old.build, since: old.since, ready }
                .save(folder)?;
            let record = up_record(old.since, old.images);
            files::write_json(&folder.join("cluster.json"), &record)?;
            fs::rename(&pid, pid_file(folder)).context("failed to move the lock of the cluster")?;
        }
        if !Lock::is_held(&pid_file(folder))? {
            let _ = fs::remove_dir_all(state);
        }
        let _ = (fs::remove_file(pid), fs::remove_file(about));
        Ok(())
    }
}

/// Returns the record of a persistent cluster that is up.
fn up_record(since: u64, images: BTreeMap<String, String>) -> Record {
    let spec = Spec::named(&ClusterFlags::default());
    Record { spec, state: State::Up, since, persistent: true, images }
}

/// The command of a cluster that keeps its files in the context's directory.
fn serve(context: &ProviderContext) -> CommandLine {
    let program = context.project.program("kube-embedded");
    let line = CommandLine::default()
        .args([program.to_string_lossy(), "serve".into()])
        .path("--kubeconfig", &context.kubeconfig)
        .path("--state", &state_dir(context.folder))
        .path("--images", &context.project.images())
        .path("--status-file", &status_file(context.folder))
        .args(["--gateway-api"])
        .opt_flag("--sandbox", context.spec.sandbox.clone());
    match context.persistent {
        true => line,
        false => line.args(["--exit-with-stdin"]),
    }
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("pid")
}

fn process_file(folder: &Path) -> PathBuf {
    folder.join("process.json")
}

fn state_dir(folder: &Path) -> PathBuf {
    folder.join("state")
}

fn status_file(folder: &Path) -> PathBuf {
    folder.join("status.json")
}

/// Returns the process of the persistent cluster, if it is running.
fn process(folder: &Path) -> Result<Option<PidFd>> {
    daemon::lock_holder(&pid_file(folder))
}

/// What a running cluster reports in `status.json`.
#[derive(Deserialize)]
struct Status {
    /// The number of times that images were loaded after its start.
    loads: u64,
    /// Why the last time failed.
    error: Option<String>,
}

impl Status {
    fn load(folder: &Path) -> Result<Self> {
        let file = status_file(folder);
        let text = fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))
    }
}

/// Returns the URL of the persistent cluster, if it is running.
fn server(folder: &Path) -> Result<Option<String>> {
    if !folder.is_dir() || !Embedded.is_running(folder)? {
        return Ok(None);
    }
    Ok(ProcessRecord::load(folder)?.ready.map(|ready| ready.server))
}

/// The readiness line of `kube-embedded serve`.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    /// `https://127.1.0.1:6443`.
    server: String,
    /// `namespaced` or `plain`.
    sandbox: String,
    /// Why that one.
    #[serde(default, rename = "sandboxReason")]
    sandbox_reason: String,
}

/// The content of `process.json`, written as soon as there is a process.
#[derive(Serialize, Deserialize)]
struct ProcessRecord {
    pid: u32,
    /// The build of the program that runs.
    build: String,
    /// Seconds since 1970.
    since: u64,
    /// Set once it serves.
    ready: Option<Ready>,
}

impl ProcessRecord {
    fn load(folder: &Path) -> Result<Self> {
        let file = process_file(folder);
        let text = fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged or was written by another version", file.display())
        })
    }

    fn save(&self, folder: &Path) -> Result<()> {
        files::write_json(&process_file(folder), self)
    }

    fn started(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.since)
    }

    fn age(&self) -> Duration {
        self.started().elapsed().unwrap_or_default()
    }
}

/// The record of versions before `clusters/embedded`.
#[derive(Deserialize)]
struct OldRecord {
    pid: u32,
    server: String,
    kubeconfig: PathBuf,
    sandbox: String,
    since: u64,
    images: BTreeMap<String, String>,
    build: String,
}

fn format_age(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_readable() {
        let ages = [59, 61, 3600, 7325].map(format_age);
        assert_eq!(ages, ["59 s", "1 min 1 s", "1 h 0 min", "2 h 2 min"]);
    }
}
