//! The life of a cluster that other programs make: found, finished or removed, made, loaded with the
//! images, lent to a lab, and taken away again. What each kind of cluster does its own way is behind
//! [`Provider`]; the order of things, and what is left when one of them fails, is here.
//!
//! A record in the home folder says what was begun, so that a run that was killed leaves a cluster
//! that the next one knows for its own, and one that nobody recorded is never touched.

use crate::{
    cluster::{
        Cluster, Differences,
        choices::Choices,
        edge::{self, Edge, Published},
    },
    doctor,
    images::{Image, pull_secret, push},
    lock::Lock,
    process::Signals,
    project::Project,
    running,
    tool::{Fault, Line, Tools},
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a kind of cluster does its own way.
pub(crate) trait Provider: Sync {
    /// What `--on` takes.
    fn name(&self) -> &'static str;
    /// What was asked for as what is to be made; wrong flags are wrong usage.
    fn spec(&self, asked: &Asked) -> Result<Spec>;
    /// What differs from other clusters for the labs.
    fn differences(&self, spec: &Spec) -> Differences;
    /// What it takes, said before anything is made that costs money.
    fn cost(&self, _: &Spec) -> Option<String> {
        None
    }
    /// Whether load balancers and Ingresses get no addresses there, so that an edge of ours gives
    /// them some.
    fn needs_edge(&self, _: &Spec) -> bool {
        false
    }
    /// Node ports that are published on this host.
    fn published(&self, _: &Work) -> Published {
        Published::new()
    }
    /// Whether a cluster of that name is there, whoever made it.
    fn exists(&self, work: &Work) -> Result<bool>;
    /// Whether [`Provider::create`] finishes what was begun; else it is removed first.
    fn finishes(&self) -> bool {
        false
    }
    /// Makes it, with a kubeconfig of its own.
    fn create(&self, work: &Work) -> Result<()>;
    /// Writes the kubeconfig of a cluster that is there.
    fn kubeconfig(&self, work: &Work) -> Result<()>;
    /// What ends well once a new cluster can be used.
    fn ready(&self, work: &Work) -> Line {
        work.kubectl("wait --for=condition=Ready nodes --all")
            .args([format!("--timeout={}s", NODES.as_secs())])
    }
    /// Asks before anything of somebody else's is touched.
    fn consent(&self, _: &Work, _yes: bool) -> Result<()> {
        Ok(())
    }
    /// Where images are pushed, and with what credentials; `None` where they are loaded.
    fn registry(&self, _: &Work) -> Result<Option<push::Registry>> {
        Ok(None)
    }
    /// Hands the images to every node.
    fn load(&self, work: &Work, images: &[Image]) -> Result<()>;
    /// Removes it; one that is gone already is fine.
    fn delete(&self, work: &Work) -> Result<()>;
    /// Whether a lab may make one for itself alone.
    fn is_cheap(&self) -> bool {
        true
    }
    /// Whether these tools make it and may make it anew.
    fn is_made_here(&self) -> bool {
        true
    }
    /// How its programs fail.
    fn faults(&self) -> &'static [Fault];
}

/// Flags, as typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) registry: Option<String>,
    pub(crate) choices: Choices,
    pub(crate) project: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) standard: bool,
    pub(crate) nodes: Option<u32>,
    pub(crate) hours: Option<u32>,
    pub(crate) yes: bool,
}

/// One cluster, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Node image or Kubernetes version.
    pub(crate) image: Option<String>,
    /// The user's context.
    pub(crate) context: Option<String>,
    /// Where images are pushed; `none` where they are there already.
    pub(crate) registry: Option<String>,
    pub(crate) choices: Choices,
    pub(crate) project: String,
    pub(crate) location: String,
    pub(crate) standard: bool,
    pub(crate) nodes: u32,
    /// When it should be gone, in seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl Spec {
    /// The same with what was chosen now; wrong usage if that cannot be.
    fn choosing(self, asked: &Asked) -> Result<Self> {
        let choices = asked.choices.over(&self.choices);
        choices.check(self.registry.as_deref())?;
        Ok(Self { choices, ..self })
    }
}

/// What a provider works with.
pub(crate) struct Work<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) tools: &'a Tools<'a>,
    /// Of this cluster alone.
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: PathBuf,
    faults: &'static [Fault],
}

impl Work<'_> {
    /// Runs a line for its effect.
    pub(crate) fn run(&self, line: &Line, patience: Duration) -> Result<()> {
        self.tools.run(line, patience)?.well(self.faults).map(drop)
    }

    /// Runs a line for its answer.
    pub(crate) fn ask(&self, line: &Line) -> Result<String> {
        self.tools.ask(line, ANSWER)?.well(self.faults)
    }

    /// kubectl on this cluster.
    pub(crate) fn kubectl(&self, words: &str) -> Line {
        Line::new("kubectl").args(words.split_whitespace()).kubeconfig(&self.kubeconfig)
    }

    /// Keeps the kubeconfig from other users.
    pub(crate) fn write_kubeconfig(&self, text: &str) -> Result<()> {
        let problem = || format!("cannot write {}", self.kubeconfig.display());
        let part = self.kubeconfig.with_added_extension("part");
        fs::write(&part, "").with_context(problem)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(0o600)).with_context(problem)?;
        fs::write(&part, text).with_context(problem)?;
        fs::rename(&part, &self.kubeconfig).with_context(problem)
    }
}

/// For a question to a program or an API.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// For a cluster that is there to answer: it may have to wake up.
const AWAKE: Duration = Duration::from_secs(20);
/// For the nodes of a new cluster.
const NODES: Duration = Duration::from_secs(300);

/// What `cluster.json` remembers.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    spec: Spec,
    state: State,
    /// Seconds since 1970.
    since: u64,
    /// Whether `up` made it, or a run for itself.
    stays: bool,
    /// Names and digests of the images that its nodes have.
    images: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Begun, or begun to be removed.
    Half,
    Up,
}

/// The folder of one provider's cluster.
pub(crate) struct House {
    provider: &'static dyn Provider,
    folder: PathBuf,
}

/// A cluster that was found or made, for as long as this run holds it.
pub(crate) struct Held {
    house: House,
    spec: Spec,
    /// Whether it goes with the run.
    goes: bool,
    started_in: Option<f64>,
    /// Where the cluster needs one.
    edge: Option<Edge>,
    registry: Option<String>,
    pull_secret: Option<String>,
    _lock: Lock,
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

    fn work<'a>(&'a self, spec: &'a Spec, tools: &'a Tools<'a>) -> Work<'a> {
        let (kubeconfig, faults) = (self.kubeconfig(), self.provider.faults());
        Work { spec, tools, folder: &self.folder, kubeconfig, faults }
    }

    fn lock(&self) -> Result<Lock> {
        let name = self.provider.name();
        Lock::attempt(&self.folder.join("lock"))?.with_context(|| {
            format!("the {name} cluster is in use by another run; wait for its end")
        })
    }

    fn record(&self) -> Result<Option<Record>> {
        let file = self.folder.join("cluster.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
                format!("{} is not as `up` wrote it; delete it to begin anew", file.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    fn remember(&self, record: &Record) -> Result<()> {
        let file = self.folder.join("cluster.json");
        let part = self.folder.join("cluster.json.part");
        fs::write(&part, serde_json::to_vec_pretty(record)?)
            .and_then(|()| fs::rename(&part, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn forget(&self) {
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
        let (provider, name) = (self.provider, self.provider.name());
        // Needed by nothing but the flags, so said first.
        let wanted = provider.spec(asked);
        let lock = self.lock()?;
        let record = self.record()?;
        let spec = match &record {
            // What is there may be used without saying again what was asked for.
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
        doctor::preflight(name, spec.image.as_deref())?;
        let tools = Tools::new(signals, Some(self.log()));
        let work = self.work(&spec, &tools);
        // Before anything is made, or remembered, that it would then be in vain.
        let pull_secret = self.pull_secret(&work)?;
        // Nobody lists clusters that are not ours: what is recorded is there.
        let there = match provider.is_made_here() {
            true => provider.exists(&work)?,
            false => record.is_some(),
        };
        let fresh = match &record {
            None if there => bail!(
                "a {name} cluster `{0}` is there that this checkout did not make; \
                 `--name <another>` makes one beside it, or remove it yourself",
                spec.name
            ),
            Some(record) if there && record.state == State::Up => !self.is_up(&work)?,
            Some(_) if there => {
                if provider.finishes() {
                    eprintln!("{name}: `{}` is half made: finishing it", spec.name);
                } else {
                    eprintln!("{name}: `{}` is half made: removing it first", spec.name);
                    provider.delete(&work)?;
                }
                true
            }
            _ => true,
        };
        let mut record = Record::of(record.filter(|_| there), &spec, stays);
        if fresh {
            record = record.anew();
        } else {
            self.remember(&record)?;
        }
        let mut started_in = None;
        if fresh {
            // That of an earlier life.
            edge::Files::of(&self.folder).end()?;
            ensure!(
                stays || provider.is_cheap(),
                "no lab makes a {name} cluster by itself, as it costs money: `cargo xtask up --on {name}` first"
            );
            if let Some(cost) = provider.cost(&spec) {
                eprintln!("{name}: {cost}");
                tools.consent(asked.yes, "make it")?;
            }
            let began = Instant::now();
            self.remember(&record)?;
            if let Err(error) = self.make(&work) {
                return Err(self.undo(&work, error));
            }
            started_in = Some(began.elapsed().as_secs_f64());
            record.state = State::Up;
            self.remember(&record)?;
        }
        let mut held = Held {
            goes: !record.stays,
            spec: spec.clone(),
            started_in,
            edge: None,
            registry: None,
            pull_secret,
            _lock: lock,
            house: self,
        };
        let mut lack = "";
        let used = held
            .consent(asked.yes, &tools)
            .and_then(|()| {
                let supplied = held.supply(&mut record, images, &tools);
                supplied.inspect_err(|_| lack = ", without all of its images")
            })
            .and_then(|()| held.start_edge(&record, project, &tools, signals));
        match used {
            Ok(()) => Ok(held),
            Err(error) => {
                // What was up before stays; what this run made for itself goes.
                if !held.goes && provider.is_made_here() {
                    eprintln!(
                        "{name}: `{}` is up and stays{lack}: `cargo xtask up --on {name}` goes on \
                         with it, `cargo xtask down --on {name}` removes it",
                        spec.name
                    );
                }
                held.release(signals);
                Err(error)
            }
        }
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

    /// Why it does not answer, if it does not.
    fn silence(&self, work: &Work) -> Option<anyhow::Error> {
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

impl Asked {
    /// Nothing asked for but consent, and what a run may choose anew.
    fn default_of(asked: &Self) -> Self {
        Self { yes: asked.yes, choices: asked.choices.clone(), ..Self::default() }
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
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
    fn of(before: Option<Self>, spec: &Spec, stays: bool) -> Self {
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

impl Held {
    fn consent(&self, yes: bool, tools: &Tools) -> Result<()> {
        self.house.provider.consent(&self.house.work(&self.spec, tools), yes)
    }

    fn supply(&mut self, record: &mut Record, images: &[Image], tools: &Tools) -> Result<()> {
        let work = self.house.work(&self.spec, tools);
        let wanted = running::digests(images);
        match self.house.provider.registry(&work)? {
            Some(registry) => {
                // The registry is asked each time: it knows better than we what it still has.
                for image in images {
                    push::push(&registry, image, tools)?;
                }
                self.registry = Some(registry.name);
            }
            None if record.images == wanted => return Ok(()),
            None => self.house.provider.load(&work, images)?,
        }
        record.images = wanted;
        self.house.remember(record)
    }

    fn start_edge(
        &mut self,
        record: &Record,
        project: &Project,
        tools: &Tools,
        signals: &Signals,
    ) -> Result<()> {
        if !self.house.provider.needs_edge(&self.spec) {
            return Ok(());
        }
        let work = self.house.work(&self.spec, tools);
        let published = self.house.provider.published(&work);
        let (folder, kubeconfig) = (&self.house.folder, &work.kubeconfig);
        // One that a lab alone has chosen goes with it.
        let stays = record.stays && self.house.provider.needs_edge(&record.spec);
        let edge = Edge::ensure(project, folder, kubeconfig, &published, stays, signals)?;
        self.edge = Some(edge);
        Ok(())
    }

    /// All that a run needs to know of it.
    pub(crate) fn cluster(&self) -> Cluster {
        let provider = self.house.provider;
        let mut differences = provider.differences(&self.spec);
        differences.absent.extend(self.edge.as_ref().and_then(Edge::absent));
        Cluster {
            provider: provider.name(),
            kubeconfig: self.house.kubeconfig(),
            started_in: self.started_in,
            registry: self.registry.clone(),
            own_images: self.spec.registry.as_deref() == Some(super::NONE),
            pull_secret: self.pull_secret.clone(),
            ingress_class: self.spec.choices.ingress_class(),
            differences,
            process: None,
        }
    }

    /// What to say of a cluster that no longer answers, for the blame when labs had no verdict; `None`
    /// if it does.
    pub(crate) fn blame(&self, signals: &Signals) -> Option<String> {
        let (tools, name) =
            (Tools::new(signals, Some(self.house.log())), self.house.provider.name());
        let why = tools.undisturbed(|| self.house.silence(&self.house.work(&self.spec, &tools)))?;
        let anew = match self.house.provider.is_made_here() {
            true => format!(
                "; `cargo xtask doctor --on {name}` looks for the reason, `cargo xtask up --on {name}` \
                 makes it anew"
            ),
            false => String::new(),
        };
        Some(format!("the {name} cluster died under the labs, or shut them out: {why:#}{anew}"))
    }

    /// That its edge serves no longer, if it has one that does not.
    pub(crate) fn edge_ended(&mut self) -> Option<String> {
        let last_words = self.edge.as_mut()?.ended()?;
        Some(format!("the edge ended under the labs; the next run starts another{last_words}"))
    }

    /// What becomes readable when that may be so and no signal tells.
    pub(crate) fn edge_told_by(&self) -> Result<Option<OwnedFd>> {
        let told_by = self.edge.as_ref().and_then(Edge::end_of_life);
        Ok(told_by.map(|fd| fd.try_clone_to_owned()).transpose()?)
    }

    /// Keeps what was made for this run alone.
    pub(crate) fn keep(&mut self) -> Result<()> {
        self.goes = false;
        if let Some(mut record) = self.house.record()? {
            // Chosen for what stays by whoever made it.
            if !record.stays {
                record = Record::of(Some(record), &self.spec, true);
            }
            self.house.remember(&record)?;
        }
        Ok(())
    }

    /// Ends what was made for this run alone.
    pub(crate) fn release(mut self, signals: &Signals) {
        if let Some(edge) = self.edge.take() {
            edge.release(signals);
        }
        if !self.goes {
            return;
        }
        let tools = Tools::new(signals, Some(self.house.log()));
        let work = self.house.work(&self.spec, &tools);
        match tools.undisturbed(|| self.house.provider.delete(&work)) {
            Ok(()) => self.house.forget(),
            Err(error) => {
                let name = self.house.provider.name();
                eprintln!(
                    "{name}: `{}` is left ({error:#}); `cargo xtask down --on {name}` removes it",
                    self.spec.name
                );
            }
        }
    }
}
