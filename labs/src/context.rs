//! What a lab has in hand: the cluster, the environment, and the ways to tell what it does. Dropping
//! a lab's future drops what it made of these, so a lab need not know how it may be interrupted.

use crate::claim::{Claim, Outcome, Verdict};
use crate::event::{Band, Event, Events};
use crate::kubernetes::Scope;
use crate::lab::Lab;
use crate::namespace::Production;
use crate::sample::{Background, Sample, Sampler, State};
use anyhow::{Context as _, bail};
use lab_environment::{Environment, Image};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How the names of samples begin that go to a node, past every load balancer and Ingress.
pub const NODE_PORT: &str = "the node port of";

/// Handed to each lab as it runs.
pub struct Context {
    lab: &'static Lab,
    environment: Arc<Environment>,
    client: kube::Client,
    events: Events,
    production: Arc<Production>,
    told: Mutex<Told>,
    failed: Notify,
}

/// What a lab has judged and measured so far.
#[derive(Debug, Default)]
pub struct Told {
    /// Each verdict, in the order it was given.
    pub judged: Vec<(&'static Claim, Verdict)>,
    /// Every sample taken, with what was sampled.
    pub samples: Vec<(String, Sample)>,
    /// How many of the verdicts the reports know.
    announced: usize,
}

impl Told {
    fn holds_back(&self) -> bool {
        self.announced < self.judged.len()
    }
}

impl Context {
    /// What a runner, or a test of a single lab, starts one with.
    pub fn new(
        lab: &'static Lab,
        environment: Arc<Environment>,
        client: kube::Client,
        events: &Events,
        production: Arc<Production>,
    ) -> Self {
        let events = events.of_lab(lab.name);
        Self {
            lab,
            environment,
            client,
            events,
            production,
            told: Mutex::default(),
            failed: Notify::new(),
        }
    }

    /// What differs between clusters.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Speaks to the cluster's API.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The article's namespace, which every lab works in.
    pub fn namespace(&self) -> &'static str {
        crate::namespace::PRODUCTION
    }

    /// Makes the namespace unless an earlier lab of this run has. One that somebody else made is an
    /// error, and is left as it is.
    pub async fn own_namespace(&self) -> anyhow::Result<()> {
        self.can_run_images().await?;
        self.production.own(&self.client, self.rollout_patience()).await
    }

    /// The same with nothing in it, whatever earlier labs of this run have left there.
    pub async fn new_namespace(&self) -> anyhow::Result<()> {
        self.can_run_images().await?;
        self.production.renew(&self.client, self.rollout_patience()).await
    }

    /// Before anything is made that would have to run.
    async fn can_run_images(&self) -> anyhow::Result<()> {
        Scope::new(self).can_run(self.environment.architecture.as_deref()).await
    }

    /// The version that is rolled out first.
    pub fn stable(&self) -> anyhow::Result<&Image> {
        self.environment.images.first().context("the environment names no images")
    }

    /// The version that is tried as a canary.
    pub fn canary(&self) -> anyhow::Result<&Image> {
        self.environment.images.get(1).context("the environment names only one image, two needed")
    }

    /// The deadline for a rollout, a scaling or a pod that comes back.
    pub fn rollout_patience(&self) -> Duration {
        Duration::from_secs(self.environment.patience.rollout)
    }

    /// The deadline for a load balancer to get its address and answer there.
    pub fn address_patience(&self) -> Duration {
        Duration::from_secs(self.environment.patience.address)
    }

    /// The deadline for one HTTP request.
    pub fn request_patience(&self) -> Duration {
        Duration::from_secs(self.environment.patience.request)
    }

    /// How long proxies may take to learn which pods came or went.
    pub fn propagation(&self) -> Duration {
        Duration::from_secs(self.environment.patience.propagation)
    }

    /// Announces a step, which lasts until the returned guard is dropped.
    #[must_use = "the step ends when this is dropped"]
    pub fn step(&self, step: impl Into<String>) -> Step {
        let step = step.into();
        self.events.send(Event::StepStarted { step: step.clone() });
        Step { step, since: Instant::now(), events: self.events.clone() }
    }

    /// Tells how the current step goes: `2 of 3 replicas available`.
    pub fn progress(&self, text: impl Into<String>) {
        self.events.send(Event::Progress { text: text.into() });
    }

    /// Gives a claim of this lab its verdict, once. On a cluster that cannot offer the claim the
    /// verdict becomes `skipped`, with the environment's reason. An id that this lab does not list,
    /// or has judged already, is an error. Reports learn of a failure only with
    /// [`Context::announce`], as a cluster that is gone may be to blame.
    pub fn judge(&self, id: &str, verdict: Verdict) -> anyhow::Result<Outcome> {
        let Some(claim) = self.lab.claim(id) else {
            bail!("{} judged `{id}`, which it does not list as a claim", self.lab.name);
        };
        let verdict = match self.absent(id) {
            Some(reason) => Verdict::skipped(reason),
            None => verdict,
        };
        let outcome = verdict.outcome;
        let held = {
            let mut told = self.told();
            if told.judged.iter().any(|(judged, _)| judged.id == id) {
                bail!("{} judged `{id}` twice", self.lab.name);
            }
            let held = told.holds_back() || outcome == Outcome::Fails;
            told.judged.push((claim, verdict));
            held
        };
        if !held {
            self.announce();
        }
        if outcome == Outcome::Fails {
            self.failed.notify_one();
        }
        Ok(outcome)
    }

    /// Whether the reports do not know every verdict yet, because a claim fails.
    pub fn holds_back(&self) -> bool {
        self.told().holds_back()
    }

    /// Tells the reports what was held back: these verdicts stand.
    pub fn announce(&self) {
        let mut told = self.told();
        let to = told.judged.len();
        let from = std::mem::replace(&mut told.announced, to);
        for (claim, verdict) in told.judged.iter().skip(from) {
            let (claim, sentence, verdict) = (claim.id, claim.sentence, verdict.clone());
            self.events.send(Event::ClaimJudged { claim, sentence, verdict });
        }
    }

    /// Puts that verdict in the place of failures that were held back.
    pub fn retract(&self, instead: &Verdict) {
        let mut told = self.told();
        let from = told.announced;
        for (_, verdict) in told.judged.iter_mut().skip(from) {
            if verdict.outcome == Outcome::Fails {
                *verdict = instead.clone();
            }
        }
    }

    /// As [`Context::judge`], for a claim without which the lab cannot go on: if it does not hold,
    /// the lab ends here, and its other claims are reported as not reached.
    pub fn require(&self, id: &str, verdict: Verdict) -> anyhow::Result<()> {
        let evidence = verdict.evidence.clone();
        match self.judge(id, verdict)? {
            Outcome::Holds => Ok(()),
            Outcome::Fails => bail!("{id} fails: {evidence}"),
            Outcome::Skipped => bail!("{id} was skipped, and what follows stands on it"),
        }
    }

    /// Why the cluster cannot offer that claim, so that a lab can save the work of checking it.
    pub fn absent(&self, id: &str) -> Option<&str> {
        let absent = self.environment.absent.iter().find(|absent| absent.claim == id)?;
        Some(&absent.reason)
    }

    /// Sends `n` requests, each on a connection of its own, telling how it goes. `band` is for the
    /// bar that is drawn meanwhile; the verdict is the caller's. Failed requests are counted among
    /// the `n`. Kept for the failure folder.
    pub async fn sample(
        &self,
        what: &str,
        sampler: &Sampler,
        n: u64,
        band: Option<Band>,
    ) -> anyhow::Result<Sample> {
        let sample = sampler.take(n, |state| self.events.send(state.event(what, n, &band))).await?;
        self.keep_sample(what, &sample);
        Ok(sample)
    }

    /// Starts traffic and waits until it has begun; it goes on until [`Background::stop_after`] is called
    /// or it is dropped. Hand what that returns to [`Context::keep_sample`].
    pub async fn background(
        &self,
        what: &str,
        sampler: &Sampler,
        per_second: u32,
    ) -> anyhow::Result<Background> {
        let (events, named) = (self.events.clone(), what.to_owned());
        let tell = move |state: &State| events.send(state.event(&named, 0, &None));
        let begun = sampler.background(per_second, tell).begun().await;
        begun.with_context(|| format!("failed to start: {what}"))
    }

    /// Keeps a sample for the failure folder.
    pub fn keep_sample(&self, what: &str, sample: &Sample) {
        self.told().samples.push((what.to_owned(), sample.clone()));
    }

    /// What has been judged and measured so far.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when a claim fails, or has failed since this was last awaited.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    /// The namespace this run may own.
    pub fn production(&self) -> &Production {
        &self.production
    }

    /// The lab that runs.
    pub fn lab(&self) -> &'static Lab {
        self.lab
    }

    /// For a helper that tells events of its own.
    pub fn events(&self) -> &Events {
        &self.events
    }
}

/// A step that is being done; it ends when this is dropped.
#[derive(Debug)]
pub struct Step {
    step: String,
    since: Instant,
    events: Events,
}

impl Step {
    /// Seconds since the step began.
    pub fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let (step, seconds) = (std::mem::take(&mut self.step), self.seconds());
        self.events.send(Event::StepEnded { step, seconds });
    }
}
