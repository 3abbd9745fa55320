//! The context that a lab runs with: cluster client, environment, event sender and the record of its
//! verdicts. Dropping a lab's future drops what it holds of these, so a lab needs no code for
//! interruptions.

use crate::claim::{Claim, Outcome, Verdict};
use crate::event::{Band, Event, Events};
use crate::expectation::Expectations;
use crate::kubernetes::deadline::Deadline;
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::names::NAMESPACE;
use crate::namespace::OwnedNamespace;
use crate::record::LabRecord;
use crate::sampler::{BackgroundTraffic, Counts, Sample, Sampler};
use crate::selection::Selection;
use crate::statistics::{Plan, Ratio, Split};
use crate::step::{self, Target};
use crate::stepping::Stepping;
use anyhow::{Context as _, bail};
use lab_environment::{Alternative, Environment, Image};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The prefix of the names of samples that are sent to a node port, bypassing load balancer and Ingress.
pub(crate) const NODE_PORT: &str = "the node port of";

/// Passed to a lab when it runs.
pub struct Context {
    lab: &'static str,
    /// All claims of the lab.
    claims: &'static [Claim],
    selection: Selection,
    environment: Arc<Environment>,
    client: kube::Client,
    events: Events,
    namespace: Arc<OwnedNamespace>,
    stepping: Option<Arc<Stepping>>,
    record: Mutex<LabRecord>,
    expectations: Mutex<Expectations>,
    /// The claim that the current step checks.
    checking: Mutex<Option<&'static str>>,
    deadline: Deadline,
    failed: Notify,
    finished: Notify,
}

impl Context {
    /// Creates the context of the lab of that name and with these claims.
    pub(crate) fn new(
        (lab, claims): (&'static str, &'static [Claim]),
        selection: Selection,
        environment: Arc<Environment>,
        client: kube::Client,
        events: &Events,
        namespace: Arc<OwnedNamespace>,
    ) -> Self {
        Self {
            lab,
            claims,
            selection,
            environment,
            client,
            events: events.of_lab(lab),
            namespace,
            stepping: None,
            record: Mutex::default(),
            expectations: Mutex::default(),
            checking: Mutex::default(),
            deadline: Deadline::default(),
            failed: Notify::new(),
            finished: Notify::new(),
        }
    }

    /// The name of the lab.
    pub fn lab(&self) -> &'static str {
        self.lab
    }

    /// The properties in which clusters differ.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The client of the cluster's API.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A client of the labs' namespace with the timeouts of this environment.
    pub fn namespace_client(&self) -> NamespaceClient {
        NamespaceClient::new(self.client(), NAMESPACE, &self.environment.timeouts)
            .with_deadline(self.deadline.clone())
            .with_events(self.events.clone())
            .with_images(self.environment.images.iter().map(|image| image.name.clone()).collect())
    }

    /// Creates the labs' namespace unless an earlier lab of this run has. A namespace that the labs do
    /// not manage is an error and is not touched. What a lab has left that ended with its last selected
    /// claim is deleted.
    pub async fn ensure_namespace(&self) -> anyhow::Result<()> {
        self.check_architecture().await?;
        self.namespace.ensure(&self.client, self.rollout_timeout()).await?;
        if self.selection.is_partial() {
            self.namespace.empty(&self.client, self.rollout_timeout()).await?;
        }
        Ok(())
    }

    /// As [`Context::ensure_namespace`], and deletes the objects of earlier labs of this run.
    pub async fn empty_namespace(&self, step: &step::Step) -> anyhow::Result<()> {
        self.ensure_namespace().await?;
        let _step = self.step(step).await;
        self.namespace.empty(&self.client, self.rollout_timeout()).await
    }

    /// Checked before anything is created that would have to run on the nodes.
    async fn check_architecture(&self) -> anyhow::Result<()> {
        let architecture = self.environment.architecture.as_deref();
        self.namespace_client().check_architecture(architecture).await
    }

    /// The version that is rolled out first.
    pub fn stable(&self) -> anyhow::Result<&Image> {
        self.environment.images.first().context("the environment lists no images; two are needed")
    }

    /// The version that is tried as a canary.
    pub fn canary(&self) -> anyhow::Result<&Image> {
        let canary = self.environment.images.get(1);
        canary.context("the environment lists only one image; two are needed")
    }

    /// The timeout of a rollout, a scaling or a pod's recreation.
    pub fn rollout_timeout(&self) -> Duration {
        Duration::from_secs(self.environment.timeouts.rollout)
    }

    /// The timeout of a load balancer to get its address and respond there.
    pub fn address_timeout(&self) -> Duration {
        Duration::from_secs(self.environment.timeouts.address)
    }

    /// The timeout of one HTTP request.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.environment.timeouts.request)
    }

    /// Waits for a key before each step, which is shown meanwhile.
    #[must_use]
    pub(crate) fn with_stepping(self, stepping: Option<Arc<Stepping>>) -> Self {
        Self { stepping, ..self }
    }

    /// Starts a step, which lasts until the returned guard is dropped.
    #[must_use = "the step ends when this is dropped"]
    pub async fn step(&self, step: &step::Step) -> RunningStep {
        self.step_as(step, step.title).await
    }

    /// As [`Context::step`], with details of this run in the title.
    #[must_use = "the step ends when this is dropped"]
    pub async fn step_as(&self, step: &step::Step, title: impl Into<String>) -> RunningStep {
        if let Some(stepping) = &self.stepping {
            let environment = Some(&*self.environment);
            stepping.show(&step.text(Target { namespace: NAMESPACE, environment })).await;
        }
        let (id, step) = (step.id, title.into());
        // All waits of a step share one deadline: several that fail must not add up.
        self.deadline.restart(self.rollout_timeout() + self.address_timeout());
        self.events.send(Event::StepStarted { id, step: step.clone() });
        RunningStep { step, since: Instant::now(), events: self.events.clone() }
    }

    /// Reports the progress of the current step: `2 of 3 replicas available`.
    pub fn progress(&self, text: impl Into<String>) {
        self.events.send(Event::Progress { text: text.into() });
    }

    /// Records the verdict on a claim of this lab, once, if it is selected. After a failure the runner diagnoses the cluster
    /// before this returns, so that it sees the state that was judged. On a cluster that does not support the claim
    /// the verdict becomes `skipped`, with the environment's reason. A failure is published only when
    /// the runner has checked that the cluster is alive (see [`crate::record`]).
    ///
    /// # Errors
    /// If the lab does not list the claim, or has judged it already.
    pub async fn judge(&self, id: &str, verdict: Verdict) -> anyhow::Result<Outcome> {
        if !self.selection.includes(id) {
            return Ok(verdict.outcome);
        }
        let outcome = self.judge_now(id, verdict)?;
        let finished = self.selection.is_partial() && self.open_claims().next().is_none();
        if finished {
            self.finished.notify_one();
        }
        if finished || outcome == Outcome::Fails {
            tokio::task::yield_now().await;
        }
        Ok(outcome)
    }

    /// As [`Context::judge`], without a diagnosis, and also if the claim is not selected.
    pub(crate) fn judge_now(&self, id: &str, verdict: Verdict) -> anyhow::Result<Outcome> {
        let Some(claim) = self.claim(id) else {
            bail!("lab {} judged `{id}`, which it does not list as a claim", self.lab);
        };
        let verdict = match self.unsupported(id) {
            Some(reason) => Verdict::skipped(reason),
            None => verdict,
        };
        let verdict = match self.record().follows(claim) {
            Some(root) if verdict.outcome == Outcome::Fails => Verdict::follows(root),
            _ => verdict,
        };
        let outcome = verdict.outcome;
        tracing::info!(
            lab = self.lab,
            claim = id,
            outcome = outcome.word(),
            evidence = verdict.evidence,
            "claim judged"
        );
        self.record().judge(claim, verdict)?;
        if outcome == Outcome::Fails {
            self.failed.notify_one();
        }
        self.publish();
        Ok(outcome)
    }

    /// Skips claims that are not selected or cannot hold because another has failed; returns true if all
    /// of them are skipped. The lab then saves the work of checking them.
    pub(crate) fn skip(&self, ids: &[&'static str]) -> anyhow::Result<bool> {
        let selected = ids.iter().filter(|id| self.selection.includes(id));
        let root = |id: &'static str| Some((id, self.record().follows(self.claim(id)?)?));
        let Some(following) = selected.map(|id| root(id)).collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        for (id, root) in following {
            self.judge_now(id, Verdict::follows(root))?;
        }
        Ok(true)
    }

    /// Returns true if none of these claims is selected, so that a step that only they need is saved.
    pub(crate) fn omits(&self, ids: &[&'static str]) -> bool {
        !ids.iter().any(|id| self.selection.includes(id))
    }

    /// The claim of this lab with that id, selected or not.
    fn claim(&self, id: &str) -> Option<&'static Claim> {
        self.claims.iter().find(|claim| claim.id == id)
    }

    /// The claims to judge.
    pub(crate) fn selected(&self) -> impl Iterator<Item = &'static Claim> {
        self.selection.of_lab(self.claims)
    }

    /// The claims to judge that have no verdict yet.
    pub(crate) fn open_claims(&self) -> impl Iterator<Item = &'static Claim> + '_ {
        self.selected().filter(|claim| self.record().verdict(claim.id).is_none())
    }

    /// Sets the claim that fails if a mistake in what is applied ends the lab from here on.
    pub(crate) fn checking(&self, id: &'static str) {
        *self.checking.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// The claim to fail if a mistake ends the lab: the one that was being checked, or else the first
    /// without a verdict.
    pub(crate) fn claim_at_stake(&self) -> Option<&'static str> {
        let checking = *self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        checking
            .filter(|id| self.record().verdict(id).is_none())
            .or_else(|| self.open_claims().next().map(|claim| claim.id))
    }

    /// Records the state in which objects should be from here on.
    pub(crate) fn expect(&self, change: impl FnOnce(&mut Expectations)) {
        change(&mut self.expectations.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The state in which objects should be.
    pub(crate) fn expectations(&self) -> Expectations {
        self.expectations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Context::judge`], for a claim that the rest of the lab depends on: if it does not hold, the
    /// error ends the lab, and its other claims are reported as not reached.
    /// A failure is recorded even if the claim is not selected.
    pub async fn require(&self, id: &str, verdict: Verdict) -> anyhow::Result<()> {
        let evidence = verdict.evidence.clone();
        if !self.selection.includes(id) && verdict.outcome == Outcome::Fails {
            self.judge_now(id, verdict.clone())?;
        }
        match self.judge(id, verdict).await? {
            Outcome::Holds => Ok(()),
            Outcome::Fails => bail!("{id} fails: {evidence}"),
            Outcome::Skipped => bail!("{id} was skipped, but later steps depend on it"),
        }
    }

    /// The reason why the cluster does not support a claim, so that a lab can save the work of checking
    /// it.
    pub fn unsupported(&self, id: &str) -> Option<&str> {
        let unsupported = self.environment.unsupported.iter().find(|claim| claim.claim == id)?;
        Some(&unsupported.reason)
    }

    /// Plans the sample for a split. `fine` replaces the environment's alternative where requests are
    /// cheap.
    pub(crate) fn plan_split(&self, ratio: Ratio, fine: Option<Ratio>) -> anyhow::Result<Split> {
        let configured = self.environment.alternative;
        let fine = fine.filter(|_| configured == Alternative::NearestReplica);
        let alternative = fine.unwrap_or_else(|| ratio.alternative(configured));
        let split = Split::against(ratio, alternative)
            .with_context(|| format!("no sample can tell a split of {ratio} from {alternative}"))?;
        let Plan { n, low, high, .. } = split.plan;
        tracing::info!(%ratio, %alternative, n, low, high, "sample planned");
        Ok(split)
    }

    /// Sends `n` requests, each on a connection of its own, reporting progress, and keeps the sample
    /// for diagnostics. Failed requests count among the `n`. `band` is only for the bar drawn
    /// meanwhile.
    pub async fn sample(
        &self,
        what: &str,
        sampler: &Sampler,
        n: u64,
        band: Option<Band>,
    ) -> anyhow::Result<Sample> {
        let report = |counts: &Counts| self.events.send(counts.event(what, n, &band));
        let sample = sampler.take(n, report).await?;
        self.keep_sample(what, &sample);
        Ok(sample)
    }

    /// Starts traffic and waits for its first response; it continues until
    /// [`BackgroundTraffic::stop_after`] is called or it is dropped. Pass the resulting sample to
    /// [`Context::keep_sample`].
    pub async fn background(
        &self,
        what: &str,
        sampler: &Sampler,
        per_second: u32,
    ) -> anyhow::Result<BackgroundTraffic> {
        let (events, named) = (self.events.clone(), what.to_owned());
        let report = move |counts: &Counts| events.send(counts.event(&named, 0, &None));
        let started = sampler.background(per_second, report).wait_started().await;
        started.with_context(|| format!("failed to start traffic: {what}"))
    }

    /// Reports a complete sample, and keeps it for diagnostics.
    pub fn keep_sample(&self, what: &str, sample: &Sample) {
        self.events.send(sample.event(what));
        self.record().keep_sample(what, sample.clone());
    }

    /// The verdicts and samples so far.
    pub fn record(&self) -> MutexGuard<'_, LabRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes pending failures final, replaced by `replacement` if the cluster was lost, and publishes
    /// them.
    pub(crate) fn resolve_pending(&self, replacement: Option<&Verdict>) {
        self.record().resolve(replacement);
        self.publish();
    }

    /// Completes when a claim fails, or has failed since this was last awaited.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Completes when every selected claim has a verdict, if that is before the lab's end.
    pub(crate) async fn finished(&self) {
        self.finished.notified().await;
    }

    /// The namespace that this run may own.
    pub(crate) fn namespace(&self) -> &OwnedNamespace {
        &self.namespace
    }

    /// The sender of this lab's events.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    fn publish(&self) {
        // The lock is held while sending, so that concurrent verdicts keep their order.
        let mut record = self.record();
        for (claim, verdict) in record.take_publishable() {
            let (claim, sentence) = (claim.id, claim.sentence);
            self.events.send(Event::ClaimJudged { claim, sentence, verdict });
        }
    }
}

/// A step in progress; it ends when this is dropped.
#[derive(Debug)]
pub struct RunningStep {
    step: String,
    since: Instant,
    events: Events,
}

impl RunningStep {
    /// Seconds since the step began.
    pub fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        let (step, seconds) = (std::mem::take(&mut self.step), self.seconds());
        self.events.send(Event::StepEnded { step, seconds });
    }
}
