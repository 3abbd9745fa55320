//! `cargo xtask lab`: a cluster, the images, and the labs on them; afterwards nothing is left.
//!
//! Whatever ends the run (the labs, Ctrl-C, a cluster that dies), the labs go first, as they clean
//! up on the cluster, and the cluster goes last.

use crate::{
    cargo::{self, Docker},
    cluster::{
        self, Cluster, Provider, Request,
        choices::{self, Choices},
        embedded,
        outside::{self, Asked, House},
    },
    docker, doctor,
    failure::Failure,
    flags, images, labs,
    lock::Lock,
    process::{Place, Signals, Wake, signal, supervise},
    project::Project,
    running::Running,
    scratch::Scratch,
    up,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// For the labs to clean up after being told to stop.
const CLEAN_UP: Duration = Duration::from_secs(30);

pub(crate) fn run(flags: &flags::Lab) -> Result<()> {
    let provider = cluster::provider(flags.on.as_deref())?;
    cluster::check_flags(
        flags.on.as_deref(),
        &[
            ("--sandbox", flags.sandbox.is_some()),
            ("--image", flags.image.is_some()),
            ("--context", flags.context.is_some()),
            ("--registry", flags.registry.is_some()),
            ("--pull-secret", flags.pull_secret.is_some()),
            ("--ingress-class", flags.ingress_class.is_some()),
            ("--edge", flags.edge),
        ],
    )?;
    up::check_sandbox(flags.sandbox.as_deref())?;
    if let Provider::Outside(provider) = provider {
        // The quick reasons not to begin, before anything is compiled.
        doctor::preflight(provider.name(), None)?;
    }
    let project = Project::find()?;
    let docker = docker(&flags.phase);
    let images = cargo::everything(&project, docker)?;
    labs::check(&project, &flags.phase)?;
    let home = project.home()?;
    let signals = Signals::block()?;
    let run =
        Run { flags, project: &project, home: &home, images: &images, docker, signals: &signals };
    match provider {
        Provider::Embedded => run.embedded(),
        Provider::Outside(provider) => run.outside(provider),
    }
}

/// One run of the labs.
struct Run<'a> {
    flags: &'a flags::Lab,
    project: &'a Project,
    home: &'a Path,
    images: &'a [images::Image],
    docker: Docker,
    signals: &'a Signals,
}

impl Run<'_> {
    /// On a cluster of our own, or on the one of `up`.
    fn embedded(&self) -> Result<()> {
        let Self { flags, project, home, images, signals, .. } = *self;
        let (scratch, sandbox) = (Scratch::new(home)?, flags.sandbox.as_deref());
        if flags.keep {
            up::start(project, home, sandbox, images, signals)?;
        }
        let borrowed = borrow(flags, project, home, images)?;
        let (mut cluster, _in_use) = match borrowed {
            Some((cluster, in_use)) => (cluster, Some(in_use)),
            None => {
                let request = Request { project, signals, folder: scratch.path(), sandbox };
                (embedded::start(&request)?, None)
            }
        };
        let mut process = cluster.process.take();
        let goes = process.is_some();
        let mut lost = || {
            let process = process.as_mut()?;
            let ended = process.ended();
            ended.then(|| format!("the cluster ended under the labs{}", process.last_words()))
        };
        let needs = Needs { lost: &mut lost, told_by: None };
        let status = self.labs(&cluster, &scratch, goes, needs);
        if let Some(process) = &mut process {
            process.stop(signals);
        }
        self.end(exit_code(status?)?, &cluster.kubeconfig)
    }

    /// On a cluster of other people's programs: the one of `up`, or one for this run alone.
    fn outside(&self, provider: &'static dyn outside::Provider) -> Result<()> {
        let Self { flags, project, home, images, signals, .. } = *self;
        let scratch = Scratch::new(home)?;
        let asked = Asked {
            image: flags.image.clone(),
            context: flags.context.clone(),
            registry: flags.registry.clone(),
            choices: Choices {
                pull_secret: choices::pull_secret(flags.pull_secret.as_deref()),
                ingress_class: flags.ingress_class.clone(),
                edge: flags.edge,
            },
            yes: flags.yes,
            ..Asked::default()
        };
        let mut held =
            House::of(home, provider)?.hold(&asked, project, images, flags.keep, signals)?;
        let cluster = held.cluster();
        let told_by = held.edge_told_by()?;
        let needs = Needs { lost: &mut || held.edge_ended(), told_by };
        let status = self.labs(&cluster, &scratch, false, needs);
        let code = status.and_then(exit_code);
        // Labs that had no verdict: was it the cluster?
        let blame = matches!(code, Ok(3)).then(|| held.blame(signals)).flatten();
        if flags.keep {
            held.keep()?;
        }
        held.release(signals);
        if let Some(blame) = blame {
            bail!(blame);
        }
        self.end(code?, &cluster.kubeconfig)
    }

    /// Runs the labs to their end, on a cluster that `goes` with this run or not.
    fn labs(
        &self,
        cluster: &Cluster,
        scratch: &Scratch,
        goes: bool,
        needs: Needs,
    ) -> Result<ExitStatus> {
        let Self { flags, project, images, docker, signals, .. } = *self;
        let docker = docker == Docker::With;
        let environment = cluster.environment(project, images, docker, scratch.path())?;
        let file = scratch.path().join("environment.json");
        fs::write(&file, serde_json::to_vec_pretty(&environment)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(project.binaries.join("labs"));
        command.arg("run").args(&flags.phase).arg("--environment").arg(&file);
        command.arg("--failures").arg(project.failures()?);
        command.args(flags.json.then_some("--json")).args(flags.keep.then_some("--keep"));
        // On a cluster that stays, labs that lose us clean up; with a cluster that goes there is
        // nothing to clean, and they go at once.
        if !goes {
            command.arg("--exit-with-stdin").stdin(Stdio::piped());
            supervise(&mut command, Place::Group, None);
        } else {
            command.stdin(Stdio::null());
            supervise(&mut command, Place::Group, Some(libc::SIGKILL));
        }
        let mut child = command.spawn().context("cannot run labs")?;
        attend(&mut child, needs, signals)
    }

    fn end(&self, code: u8, kubeconfig: &Path) -> Result<()> {
        if self.flags.keep {
            eprintln!("kept: {}", up::how_to_use(kubeconfig));
        }
        match code {
            0 => Ok(()),
            code => bail!(Failure::Child(code)),
        }
    }
}

/// Only phase 2 runs images by an engine.
fn docker(phases: &[String]) -> Docker {
    let asks = phases.iter().any(|phase| phase == "phase2" || phase == "all");
    if asks && docker::answers() { Docker::With } else { Docker::Without }
}

/// The cluster of `up`, if it runs, is what was asked for, and no other run is using it.
fn borrow(
    flags: &flags::Lab,
    project: &Project,
    home: &Path,
    images: &[images::Image],
) -> Result<Option<(Cluster, Lock)>> {
    let Some(running) = Running::find(home)? else { return Ok(None) };
    let wanted = flags.sandbox.as_deref().filter(|wanted| *wanted != "auto");
    let because = if wanted.is_some_and(|wanted| wanted != running.about.sandbox) {
        "has another sandbox"
    } else if !running.about.is_current(project, images) {
        "has older images or is an older build (`cargo xtask down` ends it)"
    } else if let Some(lock) = Lock::attempt(&home.join("in-use"))? {
        return Ok(Some((embedded::cluster(running.about.kubeconfig, None, None), lock)));
    } else {
        "is in use by another run"
    };
    eprintln!("the running cluster {because}: this run brings up its own");
    Ok(None)
}

/// What labs cannot do without.
struct Needs<'a> {
    /// Tells what of it has ended.
    lost: &'a mut dyn FnMut() -> Option<String>,
    /// Readable when that may be so; a child of ours is told by a signal.
    told_by: Option<OwnedFd>,
}

/// Waits for the labs, passing signals on. When what they need is lost, they end.
fn attend(labs: &mut Child, needs: Needs, signals: &Signals) -> Result<ExitStatus> {
    let far = Duration::from_secs(600);
    let (mut until, mut told, mut loss) = (Instant::now() + far, false, None);
    loop {
        let ended = labs.try_wait().context("cannot wait for labs")?;
        // Looked at before each wait: it may have been lost before we came here.
        if loss.is_none() {
            loss = (needs.lost)();
            if loss.is_some() && ended.is_none() {
                (told, until) = (true, Instant::now() + CLEAN_UP);
                signal(labs, libc::SIGTERM);
            }
        }
        match (ended, loss.take()) {
            // Without it they said nothing that counts, unless they were content.
            (Some(status), Some(loss)) if !status.success() => bail!(loss),
            (Some(status), _) => return Ok(status),
            (None, kept) => loss = kept,
        }
        let told_by = needs.told_by.as_ref().filter(|_| loss.is_none()).map(OwnedFd::as_fd);
        match signals.wait(told_by, until)? {
            Wake::Late if told => {
                eprintln!("the labs do not end within {CLEAN_UP:?}: killing them");
                let _ = labs.kill();
                until = Instant::now() + far;
            }
            Wake::Late => until = Instant::now() + far,
            Wake::Readable | Wake::Signal(libc::SIGCHLD) => {}
            Wake::Signal(number) => {
                (told, until) = (true, Instant::now() + CLEAN_UP);
                signal(labs, number);
            }
        }
    }
}

/// The labs' own code. Killed by a signal they could not say anything.
fn exit_code(status: ExitStatus) -> Result<u8> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(3)),
        (None, Some(libc::SIGINT | libc::SIGTERM | libc::SIGHUP)) => bail!(Failure::Interrupted),
        (None, signal) => bail!("the labs were killed by signal {}", signal.unwrap_or_default()),
    }
}
