//! The lifecycle of a cluster, the same for every provider: look up, resume or remove, create, hand over
//! to a run, delete.

use super::{
    edge::EdgeFiles,
    flags::ClusterFlags,
    guard::ClusterGuard,
    provider::{self, ProviderContext},
    record::{Record, State},
    spec::Spec,
    store::ClusterStore,
};
use crate::{
    doctor::report,
    exec::{daemon::Daemon, process::Signals, runner::CommandRunner},
    images::{self, Image, pull_secret},
    lock::Lock,
    output::{errln, outln},
    project::Project,
};
use anyhow::{Result, bail, ensure};
use std::{
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

/// A run and the cluster that it needs.
#[derive(Clone, Copy)]
pub(crate) struct ClusterRequest<'a> {
    pub(crate) flags: &'a ClusterFlags,
    pub(crate) project: &'a Project,
    pub(crate) images: &'a [Image],
    pub(crate) signals: &'a Signals,
    pub(crate) purpose: Purpose<'a>,
}

/// The purpose of the cluster.
#[derive(Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// To stay, for kubectl and labs (`up`).
    Persistent,
    /// To run labs on it. `keep` makes it persistent.
    Lab { run_dir: &'a Path, keep: bool },
}

impl Purpose<'_> {
    fn is_persistent(self) -> bool {
        matches!(self, Self::Persistent | Self::Lab { keep: true, .. })
    }
}

/// The state of a cluster before a run uses it.
enum Found {
    Up(Record),
    /// With the record of its earlier creation, if there is one.
    Absent(Option<Record>),
}

/// Returns a cluster that responds and has the images: the one that exists, or a new one.
pub(crate) fn acquire(store: ClusterStore, request: &ClusterRequest) -> Result<ClusterGuard> {
    let lock = store.lock()?;
    let Purpose::Lab { run_dir, keep } = request.purpose else {
        return acquire_locked(store, lock, request);
    };
    if !store.provider.side_by_side() {
        return acquire_locked(store, lock, request);
    }
    let reason = match reuse(&store, request)? {
        Reuse::Possible => match store.lock_for_lab()? {
            Some(in_use) => {
                // Only labs are kept out for the whole run: `up`, `status` and `down` need not wait.
                let guard = acquire_locked(store, in_use, request)?;
                drop(lock);
                return Ok(guard);
            }
            None => Some("is in use by another run".to_owned()),
        },
        Reuse::Refused(reason) => Some(reason),
        Reuse::NotRunning => None,
    };
    drop(lock);
    if let Some(reason) = reason {
        ensure!(!keep, "the running cluster {reason}");
        errln!("not reusing the running cluster: it {reason}");
    }
    let store = ClusterStore::at(run_dir.join("cluster"), store.provider)?;
    let lock = store.lock()?;
    acquire_locked(store, lock, request)
}

/// The result of looking for a persistent cluster that a lab may use instead of one of its own.
enum Reuse {
    Possible,
    NotRunning,
    /// With the reason.
    Refused(String),
}

fn reuse(store: &ClusterStore, request: &ClusterRequest) -> Result<Reuse> {
    let Some(record) = store.running()? else {
        // A persistent one is created where all labs find it.
        let persistent = request.purpose.is_persistent();
        return Ok(if persistent { Reuse::Possible } else { Reuse::NotRunning });
    };
    let runner = store.runner(request.signals);
    let context = store.context(&record.spec, request.project, &runner, true);
    let on = provider::on_flag(store.provider);
    let reason = match store.provider.mismatch(&context, request.flags)? {
        Some(mismatch) => format!("is up with {mismatch}"),
        None => match store.provider.outdated(&context)? {
            Some(outdated) => format!("is {outdated}"),
            None => return Ok(Reuse::Possible),
        },
    };
    Ok(Reuse::Refused(format!("{reason} (`cargo xtask down{on}` removes it)")))
}

fn acquire_locked(
    store: ClusterStore,
    lock: Lock,
    request: &ClusterRequest,
) -> Result<ClusterGuard> {
    let ClusterRequest { flags, project, images, signals, purpose } = *request;
    let (provider, persistent) = (store.provider, purpose.is_persistent());
    let recorded = store.record()?;
    let spec = resolve_spec(&store, flags, recorded.as_ref())?;
    let image = spec.image.as_deref();
    report::preflight(provider.name(), provider.preflight_checks(), image, flags.force)?;
    let runner = store.runner(signals);
    let context = store.context(&spec, project, &runner, persistent);
    // Fail on missing credentials before creating the cluster or recording it.
    let pull_secret = pull_secret(&context, &store)?;
    let (record, created) = match find(&store, recorded, &context, request)? {
        Found::Up(previous) => {
            let record = Record::update(Some(previous), &spec, persistent);
            store.save(&record)?;
            (record, None)
        }
        Found::Absent(previous) => {
            let record = Record::update(previous, &spec, persistent).reset();
            let (record, created) = create(&store, record, &context, request)?;
            (record, Some(created))
        }
    };
    let (started_in, daemon) = match created {
        Some(Created { took, daemon }) => (Some(took.as_secs_f64()), daemon),
        None => (None, None),
    };
    let guard = ClusterGuard {
        for_labs: matches!(purpose, Purpose::Lab { .. }),
        ephemeral: !record.persistent,
        spec,
        started_in,
        daemon,
        edge: None,
        registry: None,
        pull_secret,
        _lock: lock,
        store,
    };
    guard.provision(record, flags.yes, project, images, signals)
}

/// Resolves the spec: flags of an existing cluster need not be repeated.
fn resolve_spec(
    store: &ClusterStore,
    flags: &ClusterFlags,
    recorded: Option<&Record>,
) -> Result<Spec> {
    let (requested, name) = (store.provider.spec(flags), store.provider.name());
    let spec = match recorded {
        Some(record) if requested.is_err() && flags.only_overrides() => record.spec.clone(),
        Some(record) => check_compatible(record, requested?, flags, store)?,
        None => requested?,
    };
    let spec = spec.with_overrides(flags)?;
    if let Some(warning) = spec.overrides.warning() {
        errln!("{name}: {warning}");
    }
    Ok(spec)
}

/// Returns the recorded spec if it is what the flags request.
fn check_compatible(
    record: &Record,
    requested: Spec,
    flags: &ClusterFlags,
    store: &ClusterStore,
) -> Result<Spec> {
    let recorded = &record.spec;
    let create = &flags.create;
    let differ = |what: &str, set: bool, recorded: &dyn Debug, requested: &dyn Debug| {
        let (recorded, requested) = (format!("{recorded:?}"), format!("{requested:?}"));
        (set && recorded != requested).then(|| format!("{what} {recorded}, not {requested}"))
    };
    let differences = [
        differ("name", create.name.is_some(), &recorded.name, &requested.name),
        differ("image", flags.image.is_some(), &recorded.image, &requested.image),
        differ("context", flags.context.is_some(), &recorded.context, &requested.context),
        differ("project", create.project.is_some(), &recorded.project, &requested.project),
        differ("location", create.location.is_some(), &recorded.location, &requested.location),
    ];
    if let Some(difference) = differences.into_iter().flatten().next() {
        let (name, on) = (store.provider.name(), provider::on_flag(store.provider));
        bail!("the {name} cluster is up with {difference}; `cargo xtask down{on}` removes it");
    }
    // Flags that a provider compares with the running cluster itself, or that may change.
    let registry = requested.registry.or_else(|| recorded.registry.clone());
    let sandbox = requested.sandbox.or_else(|| recorded.sandbox.clone());
    Ok(Spec { registry, sandbox, ..recorded.clone() })
}

/// Looks up the existing cluster and removes one that can be neither used nor resumed.
fn find(
    store: &ClusterStore,
    recorded: Option<Record>,
    context: &ProviderContext,
    request: &ClusterRequest,
) -> Result<Found> {
    let provider = store.provider;
    let (name, spec) = (provider.name(), &context.spec.name);
    // A context of the user's cannot be looked up; the record decides.
    let exists = match provider.is_managed() {
        true => provider.exists(context)?,
        false => recorded.is_some(),
    };
    match recorded {
        None if exists => bail!(
            "a {name} cluster `{spec}` already exists and was not created by this checkout; create \
             another with `--name <name>`, or delete it yourself"
        ),
        Some(record) if exists && record.state == State::Up => {
            if is_up(store, context, request)? {
                Ok(Found::Up(record))
            } else {
                Ok(Found::Absent(Some(record)))
            }
        }
        Some(record) if exists => {
            if provider.can_resume() {
                errln!("{name}: `{spec}` is incomplete; resuming creation");
            } else {
                errln!("{name}: `{spec}` is incomplete; removing it first");
                provider.delete(context)?;
            }
            Ok(Found::Absent(Some(record)))
        }
        _ => Ok(Found::Absent(None)),
    }
}

/// Returns true if the cluster responds; else prepares to create it again, where that is allowed.
fn is_up(
    store: &ClusterStore,
    context: &ProviderContext,
    request: &ClusterRequest,
) -> Result<bool> {
    let provider = store.provider;
    let (name, spec, on) = (provider.name(), &context.spec.name, provider::on_flag(provider));
    let ready = provider.write_kubeconfig(context).and_then(|()| provider.check_ready(context));
    let Err(error) = ready else {
        if let Some(mismatch) = provider.mismatch(context, request.flags)? {
            bail!("the {name} cluster is up with {mismatch}; `cargo xtask down{on}` removes it");
        }
        let outdated = match provider.outdated(context)? {
            Some(outdated) => format!(", {outdated}: `cargo xtask down{on}` removes it"),
            None => String::new(),
        };
        errln!("{name}: `{spec}` is up{}{outdated}", store.summary());
        return Ok(true);
    };
    if !provider.is_managed() {
        return Err(error);
    }
    ensure!(
        provider.allow_ephemeral(),
        "the {name} cluster `{spec}` does not respond; inspect it, or delete it with `cargo xtask \
         down{on}`"
    );
    if provider.can_resume() {
        errln!("{name}: `{spec}` exists but does not respond; starting it");
    } else {
        errln!("{name}: `{spec}` exists but does not respond; recreating it");
        provider.delete(context)?;
    }
    Ok(false)
}

/// The result of a creation.
struct Created {
    took: Duration,
    daemon: Option<Daemon>,
}

/// Creates the cluster, and removes it again if that fails.
fn create(
    store: &ClusterStore,
    mut record: Record,
    context: &ProviderContext,
    request: &ClusterRequest,
) -> Result<(Record, Created)> {
    let provider = store.provider;
    let (name, on) = (provider.name(), provider::on_flag(provider));
    // Stop an edge left over from a previous cluster.
    EdgeFiles::of(&store.folder).stop()?;
    ensure!(
        context.persistent || provider.allow_ephemeral(),
        "labs do not create {name} clusters because they cost money; run `cargo xtask up{on}` first"
    );
    if let Some(cost) = provider.cost(context.spec) {
        errln!("{name}: {cost}");
        context.runner.confirm(request.flags.yes, "create it")?;
    }
    store.save(&record)?;
    let began = Instant::now();
    let created = provider.create(context).and_then(|daemon| {
        provider.write_kubeconfig(context)?;
        provider.wait_ready(context)?;
        Ok(daemon)
    });
    let took = began.elapsed();
    let daemon = match created {
        Ok(daemon) => daemon,
        Err(error) => {
            undo(store, context);
            return Err(error);
        }
    };
    record.state = State::Up;
    if provider.reads_images_at_start() {
        record.images = images::digests(request.images);
    }
    store.save(&record)?;
    Ok((record, Created { took, daemon }))
}

/// Removes what a failed creation left behind, and reports it if that fails.
fn undo(store: &ClusterStore, context: &ProviderContext) {
    let (name, on) = (store.provider.name(), provider::on_flag(store.provider));
    let removed = context.runner.ignoring_signals(|| match store.provider.exists(context) {
        Ok(false) => Ok(()),
        _ => {
            errln!("{name}: removing the incomplete cluster");
            store.provider.delete(context)
        }
    });
    match removed {
        Ok(()) => store.forget(),
        Err(error) => errln!(
            "{name}: `{}` is partially created and could not be removed ({error:#}); `cargo xtask \
             down{on}` removes it",
            context.spec.name
        ),
    }
}

fn pull_secret(context: &ProviderContext, store: &ClusterStore) -> Result<Option<String>> {
    let Some(source) = &context.spec.overrides.pull_secret else { return Ok(None) };
    let registry = store.provider.registry(context)?;
    registry.map(|registry| pull_secret::load(source, &registry, context.runner)).transpose()
}

/// Prints every command of `up` and runs none.
pub(crate) fn dry_run_up(
    store: &ClusterStore,
    flags: &ClusterFlags,
    project: &Project,
    images: &[String],
    signals: &Signals,
) -> Result<()> {
    let provider = store.provider;
    let spec = provider.spec(flags)?.with_overrides(flags)?;
    if let Some(cost) = provider.cost(&spec) {
        outln!("# {cost}")?;
    }
    let runner = CommandRunner::dry_run(signals);
    let context = store.context(&spec, project, &runner, true);
    provider.create(&context)?;
    provider.write_kubeconfig(&context)?;
    provider.wait_ready(&context)?;
    match provider.registry(&context)? {
        Some(registry) => {
            for image in images {
                outln!("# push {image} to {}/{image}", registry.name)?;
            }
        }
        None if provider.reads_images_at_start() => {}
        None => outln!("# load {}", images.join(" and "))?,
    }
    Ok(())
}

/// Deletes the cluster that `up` created, or prints the commands for it. Returns false if there is
/// none.
pub(crate) fn down(
    store: &ClusterStore,
    project: &Project,
    signals: &Signals,
    dry_run: bool,
    yes: bool,
) -> Result<bool> {
    let _lock = store.lock()?;
    let running = store.provider.is_running(&store.folder)?;
    let runner = match dry_run {
        true => CommandRunner::dry_run(signals),
        false => store.runner(signals),
    };
    let recorded = store.record();
    let Some(mut record) = recorded.or_else(|error| presumed(store, error, &runner, yes))? else {
        return Ok(false);
    };
    if !dry_run && running && store.provider.side_by_side() && store.lock_for_lab()?.is_none() {
        runner.confirm(yes, "delete the cluster under a running lab")?;
    }
    let spec = record.spec.clone();
    let context = store.context(&spec, project, &runner, true);
    let edge = EdgeFiles::of(&store.folder);
    if dry_run {
        if let Some(edge) = edge.status()? {
            outln!("# stop the edge at {edge}")?;
        }
        if running {
            store.provider.delete(&context)?;
        }
        return Ok(running);
    }
    record.state = State::Incomplete;
    store.save(&record)?;
    edge.stop()?;
    if store.provider.exists(&context)? {
        store.provider.delete(&context)?;
    }
    store.forget();
    Ok(running)
}

/// Returns the record of a cluster whose own one is damaged: that of the default name, if the user agrees.
fn presumed(
    store: &ClusterStore,
    error: anyhow::Error,
    runner: &CommandRunner,
    yes: bool,
) -> Result<Option<Record>> {
    let provider = store.provider;
    if !provider.is_managed() {
        // Nothing is deleted but our own files.
        return Ok(Some(Record::update(None, &Spec::default(), true)));
    }
    let Ok(spec) = provider.spec(&ClusterFlags::default()) else { return Err(error) };
    errln!("{}: {error:#}", provider.name());
    runner.confirm(yes, &format!("delete `{}`, the cluster of the default name", spec.name))?;
    Ok(Some(Record::update(None, &spec, true)))
}
