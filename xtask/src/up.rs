//! `cargo xtask up`: a cluster that stays, for kubectl by hand and for labs that then need not start
//! one. The embedded one is started here; [`outside`](cluster::outside) makes the others.

use crate::{
    cargo::{self, Docker},
    cluster::{
        self, Provider,
        choices::{self, Choices},
        embedded,
        outside::{Asked, House},
    },
    doctor,
    failure::Failure,
    flags,
    images::{Image, VERSIONS},
    lock::Lock,
    process::Signals,
    project::Project,
    running::{self, About, Files, Running},
};
use anyhow::{Context, Result, bail};
use std::{fs, path::Path};

pub(crate) fn run(flags: &flags::Up) -> Result<()> {
    let provider = cluster::provider(flags.on.as_deref())?;
    cluster::check_flags(
        flags.on.as_deref(),
        &[
            ("--sandbox", flags.sandbox.is_some()),
            ("--name", flags.name.is_some()),
            ("--image", flags.image.is_some()),
            ("--context", flags.context.is_some()),
            ("--registry", flags.registry.is_some()),
            ("--pull-secret", flags.pull_secret.is_some()),
            ("--ingress-class", flags.ingress_class.is_some()),
            ("--edge", flags.edge),
            ("--project", flags.project.is_some()),
            ("--location", flags.location.is_some()),
            ("--standard", flags.standard),
            ("--nodes", flags.nodes.is_some()),
            ("--ttl", flags.ttl.is_some()),
        ],
    )?;
    check_sandbox(flags.sandbox.as_deref())?;
    let Provider::Outside(provider) = provider else { return run_embedded(flags) };
    let asked = Asked {
        name: flags.name.clone(),
        image: flags.image.clone(),
        context: flags.context.clone(),
        registry: flags.registry.clone(),
        choices: Choices {
            pull_secret: choices::pull_secret(flags.pull_secret.as_deref()),
            ingress_class: flags.ingress_class.clone(),
            edge: flags.edge,
        },
        project: flags.project.clone(),
        location: flags.location.clone(),
        standard: flags.standard,
        nodes: flags.nodes,
        hours: flags.ttl,
        yes: flags.yes,
    };
    let project = Project::find()?;
    let house = House::of(&project.home()?, provider)?;
    if flags.dry_run {
        return house.rehearse(
            &asked,
            &VERSIONS.map(|v| format!("kubeapp:{v}")),
            &Signals::block()?,
        );
    }
    doctor::preflight(provider.name(), None)?;
    // The labs come next, and an edge may be wanted now.
    let images = cargo::everything(&project, Docker::Without)?;
    let kubeconfig = house.kubeconfig();
    house.hold(&asked, &project, &images, true, &Signals::block()?)?;
    println!("{}", how_to_use(&kubeconfig));
    Ok(())
}

fn run_embedded(flags: &flags::Up) -> Result<()> {
    let project = Project::find()?;
    if flags.dry_run {
        let folder = Files::of(&project.home()?).state;
        let command = embedded::serve(&project, &folder, flags.sandbox.as_deref());
        println!("{command:?}");
        return Ok(());
    }
    let images = cargo::everything(&project, Docker::Without)?;
    let home = project.home()?;
    let signals = Signals::block()?;
    let about = start(&project, &home, flags.sandbox.as_deref(), &images, &signals)?;
    println!("{}", how_to_use(&about.kubeconfig));
    Ok(())
}

/// Starts the cluster unless it runs already.
pub(crate) fn start(
    project: &Project,
    home: &Path,
    sandbox: Option<&str>,
    images: &[Image],
    signals: &Signals,
) -> Result<About> {
    let files = Files::of(home);
    let _lock = Lock::wait(&files.lock)?;
    if let Some(Running { about, .. }) = Running::find_locked(&files)? {
        let wanted = sandbox.filter(|wanted| *wanted != "auto" && *wanted != about.sandbox);
        if let Some(wanted) = wanted {
            bail!(
                "a cluster is running with sandbox {}, not {wanted}; `cargo xtask down` ends it",
                about.sandbox
            );
        }
        let old = if about.is_current(project, images) {
            ""
        } else {
            ", an older build: `cargo xtask down` ends it"
        };
        eprintln!("already running for {} s at {}{old}", about.age().as_secs(), about.server);
        return Ok(about);
    }
    // What a killed one has left.
    let _ = fs::remove_dir_all(&files.state);
    fs::create_dir_all(&files.state)
        .with_context(|| format!("cannot make {}", files.state.display()))?;
    let pid = Lock::attempt(&files.pid)?.context("a cluster is just ending; try again")?;
    let mut command = embedded::serve(project, &files.state, sandbox);
    // The cluster holds the lock, as its standard input: no other descriptor is sure to be closed
    // in whatever it starts.
    command.stdin(pid.share()).current_dir("/");
    let build = running::build(&embedded::program(project))?;
    let (process, ready, started_in) = embedded::launch(command, &files.log, signals)?;
    ready.tell_of_sandbox(sandbox);
    let about = About {
        pid: process.id().context("the cluster has ended")?,
        server: ready.server,
        kubeconfig: files.state.join("kubeconfig"),
        sandbox: ready.sandbox,
        since: running::now(),
        started_in,
        images: running::digests(images),
        build,
    };
    fs::write(&files.pid, about.pid.to_string())
        .and_then(|()| fs::write(&files.about, serde_json::to_vec_pretty(&about)?))
        .with_context(|| format!("cannot write to {}", home.display()))?;
    // From here on it is on its own.
    process.release();
    eprintln!(
        "up in {:.0} ms at {}, sandbox {}",
        about.started_in * 1e3,
        about.server,
        about.sandbox
    );
    Ok(about)
}

/// What to type next.
pub(crate) fn how_to_use(kubeconfig: &Path) -> String {
    format!("export KUBECONFIG={}", kubeconfig.display())
}

/// Wrong usage if there is no such sandbox.
pub(crate) fn check_sandbox(sandbox: Option<&str>) -> Result<()> {
    match sandbox {
        None | Some("auto" | "namespaced" | "plain") => Ok(()),
        Some(other) => bail!(Failure::Usage(format!(
            "there is no sandbox `{other}`; there are auto, namespaced and plain"
        ))),
    }
}
