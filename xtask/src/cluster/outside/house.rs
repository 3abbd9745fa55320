//! The life of a cluster that other programs make: found, finished or removed, made, and taken away
//! again.
//!
//! A record in the home folder says what was begun, so that a run that was killed leaves a cluster
//! that the next one knows for its own, and one that nobody recorded is never touched.

use super::{ANSWER, Asked, Held, NODES, Provider, Spec, Work};
use crate::{
    cluster::{choices::Choices, edge},
    doctor,
    images::{Image, pull_secret},
    lock::Lock,
    process::Signals,
    project::Project,
    running,
    tool::Tools,
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// For a cluster that is there to answer: it may have to wake up.
const AWAKE: Duration = Duration::from_secs(20);

/// What `cluster.json` remembers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: Spec,
    state: State,
    /// Seconds since 1970.
    since: u64,
    /// Whether `up` made it, or a run for itself.
    pub(super) stays: bool,
    /// Names and digests of the images that its nodes have.
    pub(super) images: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Begun, or begun to be removed.
    Half,
    Up,
}

/// What there is of a cluster before a run uses it.
enum Found {
    Up(Record),
    /// With what remains true of it, if it was begun before.
    ToMake(Option<Record>),
}

/// The folder of one provider's cluster.
pub(crate) struct House {
    pub(super) provider: &'static dyn Provider,
    pub(super) folder: PathBuf,
}

impl House {
    /// Where the provider's things are below the home folder.
    pub(crate) fn of(home: &Path, provider: &'static dyn Provider) -> Result<Self> {
        let folder = home.join("clusters").join(provider.name());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self { provider, folder })
    }

    /// The log of all programs that were run.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("commands.log")
    }

    /// The kubeconfig, for people.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(super) fn work<'a>(&'a self, spec: &'a Spec, tools: &'a Tools<'a>) -> Work<'a> {
        let (kubeconfig, faults) = (self.kubeconfig(), self.provider.faults());
        Work { spec, tools, folder: &self.folder, kubeconfig, faults }
    }

    fn lock(&self) -> Result<Lock> {
        let name = self.provider.name();
        Lock::attempt(&self.folder.join("lock"))?.with_context(|| {
            format!("the {name} cluster is in use by another run; wait for its end")
        })
    }

    pub(super) fn record(&self) -> Result<Option<Record>> {
        let file = self.folder.join("cluster.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
                format!("{} is not as `up` wrote it; delete it to begin anew", file.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(super) fn remember(&self, record: &Record) -> Result<()> {
        let file = self.folder.join("cluster.json");
        let part = self.folder.join("cluster.json.part");
        fs::write(&part, serde_json::to_vec_pretty(record)?)
            .and_then(|()| fs::rename(&part, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.folder.join("cluster.json"));
        let _ = fs::remove_file(self.kubeconfig());
    }

    /// Prints every command of `up`, and runs none.
    pub(crate) fn rehearse(
        &self,
        asked: &Asked,
        images: &[String],
        signals: &Signals,
    ) -> Result<()> {
        let spec = self.provider.spec(asked)?.choosing(asked)?;
        if let Some(cost) = self.provider.cost(&spec) {
            println!("# {cost}");
        }
        let tools = Tools::dry(signals);
        let work = self.work(&spec, &tools);
        self.provider.create(&work)?;
        self.provider.kubeconfig(&work)?;
        tools.ask(&self.provider.ready(&work), NODES)?;
        match self.provider.registry(&work)? {
            Some(registry) => {
                for image in images {
                    println!("# push {image} to {}/{image}", registry.name);
                }
            }
            None => println!("# load {}", images.join(" and ")),
        }
        Ok(())
    }

    /// A cluster that answers and has the images. `stays`: made by `up`, to outlive this run.
    pub(crate) fn hold(
        self,
        asked: &Asked,
        project: &Project,
        images: &[Image],
        stays: bool,
        signals: &Signals,
    ) -> Result<Held> {
        let lock = self.lock()?;
        let recorded = self.record()?;
        let spec = self.wanted(asked, recorded.as_ref())?;
        doctor::preflight(self.provider.name(), spec.image.as_deref())?;
        let tools = Tools::new(signals, Some(self.log()));
        let work = self.work(&spec, &tools);
        // Before anything is made, or remembered, that it would then be in vain.
        let pull_secret = self.pull_secret(&work)?;
        let (record, started_in) = match self.find(recorded, &work)? {
            Found::Up(before) => {
                let record = Record::of(Some(before), &spec, stays);
                self.remember(&record)?;
                (record, None)
            }
            Found::ToMake(before) => {
                let record = Record::of(before, &spec, stays).anew();
                let (record, took) = self.begin(record, &work, asked.yes, stays)?;
                (record, Some(took.as_secs_f64()))
            }
        };
        let held = Held {
            goes: !record.stays,
            spec,
            started_in,
            edge: None,
            registry: None,
            pull_secret,
            _lock: lock,
            house: self,
        };
        held.equipped(record, asked.yes, project, images, signals)
    }

    /// What the run is to use: what is there may be used without saying again what was asked for.
    fn wanted(&self, asked: &Asked, recorded: Option<&Record>) -> Result<Spec> {
        let (wanted, name) = (self.provider.spec(asked), self.provider.name());
        let spec = match recorded {
            Some(record) if wanted.is_err() && *asked == Asked::default_of(asked) => {
                record.spec.clone()
            }
            Some(record) => fitting(record, wanted?, asked, name)?,
            None => wanted?,
        };
        let spec = spec.choosing(asked)?;
        if let Some(caution) = spec.choices.caution() {
            eprintln!("{name}: {caution}");
        }
        Ok(spec)
    }

    /// What there is of the cluster; what is in the way of making it is removed.
    fn find(&self, recorded: Option<Record>, work: &Work) -> Result<Found> {
        let (provider, name, spec) = (self.provider, self.provider.name(), &work.spec.name);
        // Nobody lists clusters that are not ours: what is recorded is there.
        let there = match provider.is_made_here() {
            true => provider.exists(work)?,
            false => recorded.is_some(),
        };
        match recorded {
            None if there => bail!(
                "a {name} cluster `{spec}` is there that this checkout did not make; \
                 `--name <another>` makes one beside it, or remove it yourself"
            ),
            Some(record) if there && record.state == State::Up => match self.is_up(work)? {
                true => Ok(Found::Up(record)),
                false => Ok(Found::ToMake(Some(record))),
            },
            Some(record) if there => {
                if provider.finishes() {
                    eprintln!("{name}: `{spec}` is half made: finishing it");
                } else {
                    eprintln!("{name}: `{spec}` is half made: removing it first");
                    provider.delete(work)?;
                }
                Ok(Found::ToMake(Some(record)))
            }
            _ => Ok(Found::ToMake(None)),
        }
    }

    /// Whether what was made answers; else it is to be made anew, where that may be.
    fn is_up(&self, work: &Work) -> Result<bool> {
        let (provider, name, spec) = (self.provider, self.provider.name(), &work.spec.name);
        let Some(why) = provider.kubeconfig(work).err().or_else(|| self.silence(work)) else {
            eprintln!("{name}: `{spec}` is up");
            return Ok(true);
        };
        if !provider.is_made_here() {
            return Err(why);
        }
        ensure!(
            provider.is_cheap(),
            "the {name} cluster `{spec}` does not answer; look at it, or remove it with \
             `cargo xtask down --on {name}`"
        );
        if provider.finishes() {
            eprintln!("{name}: `{spec}` is there and does not answer: starting it");
        } else {
            eprintln!("{name}: `{spec}` is there and does not answer: making it anew");
            provider.delete(work)?;
        }
        Ok(false)
    }

    /// Makes it, and takes it away again where that fails; answers how long it took.
    fn begin(
        &self,
        mut record: Record,
        work: &Work,
        yes: bool,
        stays: bool,
    ) -> Result<(Record, Duration)> {
        let (provider, name) = (self.provider, self.provider.name());
        // That of an earlier life.
        edge::Files::of(&self.folder).end()?;
        ensure!(
            stays || provider.is_cheap(),
            "no lab makes a {name} cluster by itself, as it costs money: `cargo xtask up --on {name}` first"
        );
        if let Some(cost) = provider.cost(work.spec) {
            eprintln!("{name}: {cost}");
            work.tools.consent(yes, "make it")?;
        }
        let began = Instant::now();
        self.remember(&record)?;
        if let Err(error) = self.make(work) {
            return Err(self.undo(work, error));
        }
        let took = began.elapsed();
        record.state = State::Up;
        self.remember(&record)?;
        Ok((record, took))
    }

    /// What the nodes are to pull with.
    fn pull_secret(&self, work: &Work) -> Result<Option<String>> {
        let Some(source) = &work.spec.choices.pull_secret else { return Ok(None) };
        let registry = self.provider.registry(work)?;
        registry.map(|registry| pull_secret::of(source, &registry, work.tools)).transpose()
    }

    fn make(&self, work: &Work) -> Result<()> {
        self.provider.create(work)?;
        self.provider.kubeconfig(work)?;
        let ended = work.tools.run(&self.provider.ready(work), NODES + ANSWER)?;
        ended.well(self.provider.faults()).context("its nodes do not get ready").map(drop)
    }

    /// Takes away what an attempt has left, and tells if it cannot.
    fn undo(&self, work: &Work, error: anyhow::Error) -> anyhow::Error {
        let name = self.provider.name();
        let removed = work.tools.undisturbed(|| match self.provider.exists(work) {
            Ok(false) => Ok(()),
            _ => {
                eprintln!("{name}: removing what was begun");
                self.provider.delete(work)
            }
        });
        match removed {
            Ok(()) => {
                self.forget();
                error
            }
            Err(second) => {
                eprintln!(
                    "{name}: `{}` is left half made ({second:#}); `cargo xtask down --on {name}` removes it",
                    work.spec.name
                );
                error
            }
        }
    }

    /// Why it does not answer, if it does not.
    pub(super) fn silence(&self, work: &Work) -> Option<anyhow::Error> {
        let line = work.kubectl("get --raw /readyz --request-timeout=15s");
        work.tools.ask(&line, AWAKE).and_then(|ended| ended.well(work.faults)).err()
    }

    /// Removes the cluster that `up` made. True if there was one.
    pub(crate) fn down(&self, dry: bool, signals: &Signals) -> Result<bool> {
        let _lock = self.lock()?;
        let Some(mut record) = self.record()? else { return Ok(false) };
        let tools = if dry { Tools::dry(signals) } else { Tools::new(signals, Some(self.log())) };
        let spec = record.spec.clone();
        let work = self.work(&spec, &tools);
        if !dry {
            record.state = State::Half;
            self.remember(&record)?;
        }
        if !dry {
            edge::Files::of(&self.folder).end()?;
        }
        if dry || self.provider.exists(&work)? {
            self.provider.delete(&work)?;
        }
        if !dry {
            self.forget();
        }
        Ok(true)
    }

    /// One line about the recorded cluster, if there is one.
    pub(crate) fn tell(&self) -> Result<Option<String>> {
        let Some(record) = self.record()? else { return Ok(None) };
        let state = match record.state {
            State::Up => "up",
            State::Half => "half made",
        };
        let late = record.spec.expires.is_some_and(|at| at < running::now());
        let late = if late { ", past its time to live: remove it" } else { "" };
        let edge = edge::Files::of(&self.folder).tell()?;
        let edge = edge.map(|edge| format!(", load balancers at {edge}")).unwrap_or_default();
        Ok(Some(format!(
            "{} `{}`, {state}{late}{edge}; export KUBECONFIG={}",
            self.provider.name(),
            record.spec.name,
            self.kubeconfig().display()
        )))
    }

    /// Versions of a recorded cluster's API and nodes, as kubectl shows them.
    pub(crate) fn versions(&self, signals: &Signals) -> Result<String> {
        let name = self.provider.name();
        let record = self.record()?.with_context(|| {
            format!("no {name} cluster is up; `cargo xtask up --on {name}` makes one")
        })?;
        let tools = Tools::new(signals, Some(self.log()));
        let work = self.work(&record.spec, &tools);
        let nodes = work.ask(&work.kubectl("get nodes --output wide --request-timeout=15s"))?;
        let version = work.ask(&work.kubectl("version --request-timeout=15s"))?;
        Ok(format!("{version}\n{nodes}"))
    }

    /// Hands the images to a cluster that is up.
    pub(crate) fn supply(
        self,
        project: &Project,
        images: &[Image],
        signals: &Signals,
    ) -> Result<()> {
        let name = self.provider.name();
        ensure!(
            self.record()?.is_some(),
            "no {name} cluster is up; `cargo xtask up --on {name}` makes one"
        );
        self.hold(&Asked::default(), project, images, true, signals).map(drop)
    }
}

/// The recorded cluster, if it is what is asked for now.
fn fitting(record: &Record, wanted: Spec, asked: &Asked, name: &str) -> Result<Spec> {
    let there = &record.spec;
    let differ =
        |what: &str, flag: bool, there: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            let (there, wanted) = (format!("{there:?}"), format!("{wanted:?}"));
            (flag && there != wanted).then(|| format!("{what} {there}, not {wanted}"))
        };
    let difference = differ("name", asked.name.is_some(), &there.name, &wanted.name)
        .or_else(|| differ("image", asked.image.is_some(), &there.image, &wanted.image))
        .or_else(|| differ("context", asked.context.is_some(), &there.context, &wanted.context))
        .or_else(|| differ("project", asked.project.is_some(), &there.project, &wanted.project))
        .or_else(|| {
            differ("location", asked.location.is_some(), &there.location, &wanted.location)
        });
    if let Some(difference) = difference {
        bail!(
            "a {name} cluster is up with {difference}; `cargo xtask down --on {name}` removes it"
        );
    }
    let registry = wanted.registry.or_else(|| there.registry.clone());
    Ok(Spec { registry, ..there.clone() })
}

impl Record {
    /// What to remember of a cluster that is used as `spec`: `up`, after which it `stays`, chooses for
    /// the labs that follow, and a lab for itself alone.
    pub(super) fn of(before: Option<Self>, spec: &Spec, stays: bool) -> Self {
        let before = before.unwrap_or_else(|| Self {
            spec: Spec { choices: Choices::default(), ..spec.clone() },
            state: State::Half,
            since: running::now(),
            stays,
            images: BTreeMap::new(),
        });
        match stays {
            true => Self { spec: spec.clone(), stays, ..before },
            false => before,
        }
    }

    /// The same of one that is yet to be made.
    fn anew(self) -> Self {
        let (state, since) = (State::Half, running::now());
        Self { state, since, images: BTreeMap::new(), ..self }
    }
}
