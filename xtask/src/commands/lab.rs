//! `cargo xtask lab`: a cluster, the images, and the labs on them; afterwards nothing is left.
//!
//! Whatever ends the run (the labs, Ctrl-C, a cluster that exits), the labs end first, as they clean up
//! on the cluster, and the cluster last.

use super::{labs, provider_flag::ProviderFlag};
use crate::{
    build,
    cargo::DockerClient,
    cluster::{
        flags::ClusterFlags,
        guard::ClusterGuard,
        lifecycle::{self, ClusterRequest, Purpose},
        store::ClusterStore,
    },
    docker,
    doctor::report,
    exec::process::{Isolation, Signal, Signals, Wake, signal, supervise},
    failure::Failure,
    images::Image,
    output::errln,
    project::Project,
    providers,
    run_dir::RunDir,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Time for the labs to clean up after SIGTERM.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// Run phases and judge every claim, e.g. `lab 4`, `lab all`
///
/// Uses the cluster of `up` if it is running and free, else one of its own.
#[derive(Args, Default)]
pub(super) struct Lab {
    /// The phases, by name or number, or `all`; `phase4/<claim>` is one claim and those it needs
    phase: Vec<String>,
    #[command(flatten)]
    provider: ProviderFlag,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Keep the cluster and everything that the phases created
    #[arg(long)]
    keep: bool,
    /// Explain the steps of the phases, and run nothing
    #[arg(long)]
    explain: bool,
    /// Show each step with its commands, and wait for Enter before it
    #[arg(long, conflicts_with = "json")]
    step: bool,
    /// Print events as JSON, one per line; the last is the summary
    #[arg(long)]
    json: bool,
    /// Print events of progress as well
    #[arg(long, requires = "json")]
    progress: bool,
    /// Write a JUnit report: a test suite per phase, a test case per claim
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    reports: Reports,
    /// Apply the manifests of this folder, with `lb/`, `ingress/` and `gateway/` in it
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
}

/// Reports for people, besides the terminal's.
#[derive(Args, Default)]
struct Reports {
    /// Show the run on a live page in a browser on this machine, at this port if one is given
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true)]
    ui: Option<Option<u16>>,
    /// Write a page with plots of everything that was measured
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a job summary and annotations for GitHub Actions; the default there
    #[arg(long)]
    github: bool,
    /// Write plan, counts and verdicts to a file to hand in, for `verify`
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Sign the run file with this key of `keygen`
    #[arg(long, value_name = "FILE", requires = "run_file")]
    key: Option<PathBuf>,
    /// The participant's name in the run file and in the room
    #[arg(long = "participant", value_name = "NAME")]
    participant: Option<String>,
    /// Report the progress to a teacher's room: the address that `room` printed
    #[arg(long, value_name = "URL", requires = "participant")]
    room: Option<String>,
}

impl Reports {
    /// Adds them to the command line of the labs.
    fn add_to(&self, command: &mut Command) {
        match self.ui {
            Some(Some(port)) => _ = command.arg(format!("--ui={port}")),
            Some(None) => _ = command.arg("--ui"),
            None => {}
        }
        command.args(self.github.then_some("--github"));
        let files = [("--html", &self.html), ("--run-file", &self.run_file), ("--key", &self.key)];
        for (flag, path) in files {
            path.iter().for_each(|path| _ = command.arg(flag).arg(path));
        }
        self.participant.iter().for_each(|name| _ = command.arg("--participant").arg(name));
        self.room.iter().for_each(|url| _ = command.arg("--room").arg(url));
    }
}

impl Lab {
    /// Returns the arguments of `lab all`.
    pub(super) fn all() -> Self {
        Self { phase: vec!["all".into()], ..Self::default() }
    }
}

pub(super) fn run(args: &Lab) -> Result<()> {
    let (provider, flags) = (args.provider.provider(), &args.cluster);
    providers::check_flags(provider, flags)?;
    let phases = &labs::expand_phases(&args.phase)?;
    if args.explain {
        return labs::explain(phases);
    }
    // Before anything is compiled.
    report::preflight(provider.name(), provider.preflight_checks(), None, flags.force)?;
    let project = &Project::find()?;
    let docker = docker_client(phases);
    let images = &build::everything(project, docker)?;
    labs::check_claims(project, phases)?;
    let signals = &Signals::install()?;
    let run_dir = RunDir::create(&project.home()?)?;
    let purpose = Purpose::Lab { run_dir: run_dir.path(), keep: args.keep };
    let store = ClusterStore::open(project, provider)?;
    let request = ClusterRequest { flags, project, images, signals, purpose };
    let mut guard = lifecycle::acquire(store, &request)?;
    let run = Run { args, phases, project, images, docker, run_dir: &run_dir, signals };
    let code = run.labs(&mut guard).and_then(exit_code);
    // Labs without a verdict: was it the cluster?
    let diagnosis = matches!(code, Ok(3)).then(|| guard.diagnose(project, signals)).flatten();
    if args.keep {
        guard.keep()?;
    }
    let export = guard.export_command();
    guard.release(project, signals);
    if let Some(diagnosis) = diagnosis {
        bail!(diagnosis);
    }
    let code = code?;
    if args.keep {
        errln!("kept: {export}");
    }
    match code {
        0 => Ok(()),
        code => bail!(Failure::Child(code)),
    }
}

/// One run of the labs.
struct Run<'a> {
    args: &'a Lab,
    phases: &'a [String],
    project: &'a Project,
    images: &'a [Image],
    docker: DockerClient,
    run_dir: &'a RunDir,
    signals: &'a Signals,
}

impl Run<'_> {
    /// Runs the labs to their end.
    fn labs(&self, guard: &mut ClusterGuard) -> Result<ExitStatus> {
        let Self { args, project, images, signals, .. } = *self;
        let docker = self.docker == DockerClient::Included;
        let folder = self.run_dir.path();
        let environment = guard.environment(project, images, docker, folder)?;
        let file = folder.join("environment.json");
        fs::write(&file, serde_json::to_vec_pretty(&environment)?)
            .with_context(|| format!("failed to write {}", file.display()))?;
        let mut command = Command::new(project.program("labs"));
        command.arg("run").args(self.phases).arg("--environment").arg(&file);
        command.arg("--failures").arg(project.failures()?);
        let keep = args.keep || guard.is_deleted_after_run();
        command.args(args.json.then_some("--json")).args(keep.then_some("--keep"));
        command.args(args.progress.then_some("--progress"));
        for (flag, path) in [("--junit", &args.junit), ("--manifests", &args.manifests)] {
            path.iter().for_each(|path| _ = command.arg(flag).arg(path));
        }
        args.reports.add_to(&mut command);
        command.args(args.step.then_some("--step"));
        // Labs that lose this process clean up on a cluster that stays. On one that ends with this
        // process there is nothing to clean up, so they end at once.
        if args.step {
            // The labs are in a process group of their own, which may not read the terminal.
            command.stdin(Stdio::piped());
            supervise(&mut command, Isolation::Group, None);
        } else if guard.ends_with_run() {
            command.stdin(Stdio::null());
            supervise(&mut command, Isolation::Group, Some(Signal::KILL));
        } else {
            command.arg("--exit-with-stdin").stdin(Stdio::piped());
            supervise(&mut command, Isolation::Group, None);
        }
        let mut child = command.spawn().context("failed to run labs")?;
        if args.step
            && let Some(mut to) = child.stdin.take()
        {
            std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut to));
        }
        let pidfd = guard.edge_pidfd()?;
        let dependencies = Dependencies { exited: &mut || guard.exited(), pidfd };
        wait(&mut child, dependencies, signals)
    }
}

/// Only phase 2 runs images in an engine.
fn docker_client(phases: &[String]) -> DockerClient {
    let used = phases.iter().any(|phase| phase.starts_with("phase2") || phase == "all");
    match used && docker::responds() {
        true => DockerClient::Included,
        false => DockerClient::Omitted,
    }
}

/// The processes without which the labs cannot go on.
struct Dependencies<'a> {
    /// Returns the error once one of them has exited.
    exited: &'a mut dyn FnMut() -> Option<String>,
    /// Becomes readable when that may be so; a child of ours raises SIGCHLD instead.
    pidfd: Option<OwnedFd>,
}

/// Waits for the labs and forwards signals to them. They are stopped when a dependency exits.
fn wait(labs: &mut Child, dependencies: Dependencies, signals: &Signals) -> Result<ExitStatus> {
    let far = Duration::from_secs(600);
    let (mut deadline, mut stopping, mut lost) = (Instant::now() + far, false, None);
    loop {
        let ended = labs.try_wait().context("failed to wait for labs")?;
        // Checked before each wait: it may have exited before this function was called.
        if lost.is_none() {
            lost = (dependencies.exited)();
            if lost.is_some() && ended.is_none() {
                (stopping, deadline) = (true, Instant::now() + CLEAN_UP);
                signal(labs, Signal::TERM);
            }
        }
        match (ended, lost.take()) {
            // Without the dependency their failure means nothing.
            (Some(status), Some(error)) if !status.success() => bail!(error),
            (Some(status), _) => return Ok(status),
            (None, error) => lost = error,
        }
        let pidfd = dependencies.pidfd.as_ref().filter(|_| lost.is_none()).map(OwnedFd::as_fd);
        match signals.wait(pidfd, deadline)? {
            Wake::Timeout if stopping => {
                errln!("labs did not exit within {CLEAN_UP:?}; killing them");
                let _ = labs.kill();
                deadline = Instant::now() + far;
            }
            Wake::Timeout => deadline = Instant::now() + far,
            Wake::Readable | Wake::Signal(Signal::CHILD) => {}
            Wake::Signal(_) => {
                (stopping, deadline) = (true, Instant::now() + CLEAN_UP);
                // SIGTERM, whatever the signal was: labs may have to ignore the others.
                signal(labs, Signal::TERM);
            }
        }
    }
}

/// Returns the exit code of the labs. Labs that a signal killed reported nothing themselves.
fn exit_code(status: ExitStatus) -> Result<u8> {
    let interrupted = [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw);
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(3)),
        (None, Some(signal)) if interrupted.contains(&signal) => bail!(Failure::Interrupted),
        (None, signal) => bail!("the labs were killed by signal {}", signal.unwrap_or_default()),
    }
}
