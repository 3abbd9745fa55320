//! The runner: runs labs in order and ensures that each claim gets a verdict and that nothing is left
//! behind, whether the run ends regularly, with an error, a panic or an interruption.

use crate::claim::{Outcome, Verdict};
use crate::context::Context;
use crate::diagnosis::{self, Diagnosis};
use crate::event::{Event, Events, SCHEMA};
use crate::fault::{Fault, Layer};
use crate::kubernetes::{pull_secret, wait::WaitError};
use crate::lab::Lab;
use crate::names::NAMESPACE;
use crate::namespace::OwnedNamespace;
use crate::observer::Observer;
use crate::selection::Selection;
use crate::step::Target;
use crate::stepping::Stepping;
use anyhow::{Context as _, anyhow, bail};
use cluster_health::{ClusterLost, READYZ_TIMEOUT, probe_readyz};
use futures::FutureExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab_environment::Environment;
use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod cluster_health;
mod limits;
#[cfg(test)]
mod tests;

/// The exit code of a process that runs labs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every claim holds, or was skipped with a reason.
    Holds = 0,
    /// A claim fails.
    Fails = 1,
    /// Wrong usage of the command line.
    Usage = 2,
    /// The environment failed, so that there is no verdict on some claim.
    Infrastructure = 3,
    /// Interrupted, after cleaning up.
    Interrupted = 130,
}

/// The timeout of gathering diagnostics.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(20);

/// The configuration of a run.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The cluster and the artifacts under test.
    pub environment: Arc<Environment>,
    /// The claims to judge.
    pub selection: Selection,
    /// The sender of events.
    pub events: Events,
    /// The folder for the diagnostics of failed labs; `None` to write none.
    pub failures: Option<PathBuf>,
    /// Whether to keep the namespace at the end.
    pub keep: bool,
    /// Whether to report what nodes and pods do meanwhile.
    pub observe: bool,
    /// Whether to show each step and wait for Enter before it.
    pub step: bool,
}

/// The result of a run.
#[derive(Debug)]
pub struct Summary {
    /// Each claim's verdict, lab by lab.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// Errors of the environment, each with the name of the lab.
    pub errors: Vec<String>,
    /// The exit code.
    pub exit: Exit,
}

impl Summary {
    /// The verdict on a claim.
    pub fn verdict(&self, claim: &str) -> Option<&Verdict> {
        self.verdicts.iter().find(|(id, _)| *id == claim).map(|(_, verdict)| verdict)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.verdicts.iter().filter(|(_, verdict)| verdict.outcome == outcome).count()
    }
}

impl Runner {
    /// Runs the labs until the last is done or `interrupted` completes. The labs after a failed claim
    /// still run; those after an error do not.
    pub async fn run(
        &self,
        labs: &[&'static Lab],
        interrupted: impl Future<Output = ()>,
    ) -> Summary {
        let started = Instant::now();
        let (version, provider) = (env!("CARGO_PKG_VERSION"), self.environment.provider.clone());
        let names = labs.iter().map(|lab| lab.name).collect();
        self.events.send(Event::RunStarted { schema: SCHEMA, version, provider, labs: names });
        let mut summary = Summary { verdicts: Vec::new(), errors: Vec::new(), exit: Exit::Holds };
        let mut was_interrupted = false;
        match self.prepare(labs).await {
            Ok((client, namespace)) => {
                let _observer =
                    self.observe.then(|| Observer::start(client.clone(), NAMESPACE, &self.events));
                was_interrupted =
                    self.run_labs(labs, client, namespace, interrupted, &mut summary).await;
                for claim in labs.iter().flat_map(|lab| self.selection.of_lab(lab.claims)) {
                    if !was_interrupted && summary.verdict(claim.id).is_none() {
                        summary.verdicts.push((claim.id, Verdict::skipped("not reached")));
                    }
                }
            }
            Err(error) => summary.errors.push(format!("{error:#}")),
        }
        summary.exit = if was_interrupted {
            Exit::Interrupted
        } else if summary.count(Outcome::Fails) > 0 {
            Exit::Fails
        } else if !summary.errors.is_empty() {
            Exit::Infrastructure
        } else {
            Exit::Holds
        };
        let claims = summary.verdicts.iter().map(|(claim, verdict)| (*claim, verdict.outcome));
        self.events.send(Event::RunEnded {
            claims: claims.collect(),
            holds: summary.count(Outcome::Holds),
            fails: summary.count(Outcome::Fails),
            skipped: summary.count(Outcome::Skipped),
            errors: summary.errors.clone(),
            exit_code: summary.exit as u8,
            seconds: started.elapsed().as_secs_f64(),
        });
        summary
    }

    /// Checks, before any lab starts, what would keep them from working.
    async fn prepare(
        &self,
        labs: &[&'static Lab],
    ) -> anyhow::Result<(kube::Client, Arc<OwnedNamespace>)> {
        limits::check()?;
        let (client, namespace) = (client(&self.environment.kubeconfig).await?, self.namespace()?);
        if labs.iter().any(|lab| lab.uses_namespace) {
            match tokio::time::timeout(READYZ_TIMEOUT, OwnedNamespace::check_free(&client)).await {
                Ok(Err(error)) if error.chain().any(|cause| cause.is::<kube::Error>()) => {}
                Ok(checked) => checked?,
                Err(_) => {}
            }
            // An unresponsive cluster is reported by the labs, which say what could not be done.
        }
        Ok((client, namespace))
    }

    /// Runs the labs and cleans up; returns true if it was interrupted.
    async fn run_labs(
        &self,
        labs: &[&'static Lab],
        client: kube::Client,
        namespace: Arc<OwnedNamespace>,
        interrupted: impl Future<Output = ()>,
        summary: &mut Summary,
    ) -> bool {
        let mut interrupted = pin!(interrupted);
        let stepping = self.step.then(Arc::<Stepping>::default);
        let mut was_interrupted = false;
        for lab in labs {
            let context = self.context(lab, client.clone(), namespace.clone(), stepping.clone());
            let result = tokio::select! {
                biased;
                () = &mut interrupted => {
                    was_interrupted = true;
                    context.resolve_pending(None);
                    Ok(())
                }
                result = Box::pin(self.run_lab(lab, &context)) => result,
            };
            summary.verdicts.extend(verdicts(&context));
            if let Err(error) = result {
                summary.errors.push(format!("{}: {error}", lab.name));
                break;
            }
            if was_interrupted {
                break;
            }
        }
        if let Err(error) = self.clean_up(&client, &namespace).await {
            summary.errors.push(format!("failed to clean up: {error:#}"));
        }
        was_interrupted
    }

    fn context(
        &self,
        lab: &'static Lab,
        client: kube::Client,
        namespace: Arc<OwnedNamespace>,
        stepping: Option<Arc<Stepping>>,
    ) -> Context {
        let (selection, environment) = (self.selection.clone(), self.environment.clone());
        let lab = (lab.name, lab.claims);
        Context::new(lab, selection, environment, client, &self.events, namespace)
            .with_stepping(stepping)
    }

    /// Runs one lab and gives each of its claims a verdict.
    ///
    /// # Errors
    /// If the environment failed. A lab that stopped because a claim failed is no error.
    async fn run_lab(&self, lab: &'static Lab, context: &Context) -> Result<(), String> {
        let since = Instant::now();
        let claims = context.selected().map(|claim| claim.id).collect();
        context.events().send(Event::LabStarted { title: lab.title, claims });
        let target = Target { namespace: NAMESPACE, environment: Some(&*self.environment) };
        let steps = lab.steps.iter().map(|step| step.listed(target)).collect();
        context.events().send(Event::StepsListed { steps });
        let Ended { mut error, environment, mut diagnosed } = self.supervise(lab, context).await;
        let mut mistake = None;
        if let Some(found) = &environment {
            tracing::warn!(lab = lab.name, why = found.why, "environment failed");
            error = Some(anyhow!(found.why.clone()));
        } else if let Some(ended) = &error
            && context.record().first_failure().is_none()
        {
            diagnosed = true;
            let fault = self.diagnose(context, Some(ended), DIAGNOSIS_TIMEOUT).await;
            if is_mistake(ended, fault.as_ref())
                && let Some(claim) = context.claim_at_stake()
            {
                mistake = Some(claim);
                let evidence = format!("{ended:#}").replace('\n', "; ");
                _ = context.judge_now(claim, Verdict::fails(evidence));
            }
        }
        // In a failed environment a failure is fallout, not evidence.
        context.resolve_pending(environment.as_ref().map(|found| &found.verdict));
        let root = context.record().first_failure().map(|(claim, _)| claim.id);
        let missed: Vec<_> = context.open_claims().map(|claim| claim.id).collect();
        // A claim without a verdict would pass unnoticed, however the others end.
        let forgotten = error.is_none() && !missed.is_empty();
        if forgotten {
            error = Some(anyhow!("a bug in these labs: no verdict on {}", missed.join(", ")));
        }
        if !diagnosed && error.is_some() {
            let timeout = if environment.is_some() { READYZ_TIMEOUT } else { DIAGNOSIS_TIMEOUT };
            _ = self.diagnose(context, error.as_ref(), timeout).await;
        }
        tracing::info!(lab = lab.name, root, mistake, ?error, "lab ended");
        let rest = match root {
            Some(root) if environment.is_none() && !forgotten => Verdict::follows(root),
            _ => Verdict::skipped("not reached"),
        };
        for id in missed {
            _ = context.judge_now(id, rest.clone());
        }
        let seconds = since.elapsed().as_secs_f64();
        // What a claim's failure has ended is no error of the environment.
        let ended_by_claim = root.is_some() && environment.is_none() && !forgotten;
        let error = error.filter(|_| !ended_by_claim).map(|error| format!("{error:#}"));
        context.events().send(Event::LabEnded { seconds, error: error.clone() });
        error.map_or(Ok(()), Err)
    }

    /// Runs the lab's code, and checks the cluster whenever a claim fails. The lab is not polled during
    /// the check, so that diagnostics show the state that was judged.
    async fn supervise(&self, lab: &'static Lab, context: &Context) -> Ended {
        let mut running = pin!(AssertUnwindSafe((lab.run)(context)).catch_unwind());
        let mut lease_lost = pin!(context.namespace().lost());
        let namespace = context.namespace_client();
        // Whatever the lab waits for, a node that does not work keeps it from happening.
        let mut node_fault = pin!(namespace.node_fault());
        let mut diagnosed = false;
        let error = loop {
            tokio::select! {
                biased;
                () = context.failed() => {
                    let environment = self.check(context, &mut diagnosed).await;
                    if environment.is_some() {
                        return Ended { error: None, environment, diagnosed };
                    }
                    context.resolve_pending(None);
                }
                () = context.finished() => break None,
                why = &mut lease_lost => {
                    let environment = Some(ClusterLost::TakenOver(why).into());
                    return Ended { error: None, environment, diagnosed };
                }
                fault = &mut node_fault => {
                    return Ended { error: None, environment: Some(fault.into()), diagnosed };
                }
                ended = &mut running => break match ended {
                    Ok(result) => result.err(),
                    Err(panic) => Some(anyhow!("a bug in these labs: {}", panic_message(&*panic))),
                },
            }
        };
        // A failure right before the end is still pending.
        let pending = context.record().has_pending();
        let environment = if pending {
            self.check(context, &mut diagnosed).await
        } else if error.is_some() {
            ClusterLost::check(context).await.map(Into::into)
        } else {
            None
        };
        Ended { error, environment, diagnosed }
    }

    /// Decides whether a claim failed because of the environment; diagnoses the first failure.
    async fn check(&self, context: &Context, diagnosed: &mut bool) -> Option<EnvironmentFailure> {
        if let Some(lost) = ClusterLost::check(context).await {
            return Some(lost.into());
        }
        if std::mem::replace(diagnosed, true) {
            return None;
        }
        let fault = self.diagnose(context, None, DIAGNOSIS_TIMEOUT).await?;
        // The API server has just responded, so one list that failed proves nothing.
        let environment = fault.layer.is_environment() && fault.layer != Layer::Cluster;
        environment.then(|| fault.into())
    }

    /// Releases namespace and Lease, unless the cluster is unresponsive, which would block the run.
    async fn clean_up(
        &self,
        client: &kube::Client,
        namespace: &OwnedNamespace,
    ) -> anyhow::Result<()> {
        if namespace.is_released().await {
            return Ok(());
        }
        if let Err(why) = probe_readyz(client).await {
            bail!("{why}; if it comes back, the next run deletes what this one has left");
        }
        let timeout = Duration::from_secs(self.environment.timeouts.rollout);
        namespace.release(client, self.keep, timeout).await
    }

    /// Reports the layer at fault, and returns it.
    async fn diagnose(
        &self,
        context: &Context,
        error: Option<&anyhow::Error>,
        timeout: Duration,
    ) -> Option<Fault> {
        let gathered = Box::pin(diagnosis::gather(context, error, self.failures.as_deref()));
        // A cluster that stops responding must not block the run here.
        let Diagnosis { fault, event } = tokio::time::timeout(timeout, gathered).await.ok()?;
        context.events().send(event);
        fault
    }

    fn namespace(&self) -> anyhow::Result<Arc<OwnedNamespace>> {
        let secret = self.environment.pull_secret.as_deref().map(pull_secret::read).transpose()?;
        Ok(Arc::new(OwnedNamespace::with_pull_secret(secret)))
    }
}

/// Creates a client of the cluster of a kubeconfig.
pub(crate) async fn client(path: &Path) -> anyhow::Result<kube::Client> {
    let file = Kubeconfig::read_from(path)
        .with_context(|| format!("failed to read the kubeconfig {}", path.display()))?;
    let clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let has_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
    let user = user(&file);
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use the kubeconfig {}", path.display()))?;
    if !has_proxy {
        // kube takes one from HTTPS_PROXY, even for loopback addresses; this client connects directly.
        config.proxy_url = None;
    }
    kube::Client::try_from(config)
        .map_err(|error| unusable_user(path, &user, &format!("{:#}", anyhow!(error))))
}

/// Returns the name of the current context's user.
fn user(kubeconfig: &Kubeconfig) -> String {
    let current = kubeconfig.current_context.as_ref();
    let mut named = kubeconfig.contexts.iter().filter(|named| Some(&named.name) == current);
    let context = named.next().and_then(|named| named.context.as_ref());
    context.and_then(|context| context.user.clone()).unwrap_or_default()
}

/// Says whose certificate or key cannot be used, and what to do.
fn unusable_user(path: &Path, user: &str, cause: &str) -> anyhow::Error {
    let cause = if cause.contains("UnsupportedCertVersion") {
        "its client certificate is an X.509 certificate of version 1, and only version 3 is supported; issue it with an \
         extension, as `openssl x509 -req -extfile <(echo extendedKeyUsage=clientAuth)` does"
    } else {
        cause
    };
    anyhow!("failed to use user `{user}` of the kubeconfig {}: {cause}", path.display())
}

/// Reports a run that could not even begin.
pub(crate) fn report_failure(events: &Events, labs: &[&'static Lab], error: &anyhow::Error) {
    let (version, labs) = (env!("CARGO_PKG_VERSION"), labs.iter().map(|lab| lab.name).collect());
    events.send(Event::RunStarted { schema: SCHEMA, version, provider: "unknown".into(), labs });
    events.send(Event::RunEnded {
        claims: BTreeMap::new(),
        holds: 0,
        fails: 0,
        skipped: 0,
        errors: vec![format!("{error:#}")],
        exit_code: Exit::Infrastructure as u8,
        seconds: events.seconds(),
    });
}

/// The end of a lab's code.
struct Ended {
    /// The error or panic that it ended with.
    error: Option<anyhow::Error>,
    /// Set if nothing can be judged on the cluster any more.
    environment: Option<EnvironmentFailure>,
    /// Whether diagnostics were gathered.
    diagnosed: bool,
}

/// A failure of the environment, on which nothing can be judged.
struct EnvironmentFailure {
    why: String,
    /// Replaces the failures seen meanwhile.
    verdict: Verdict,
}

impl From<ClusterLost> for EnvironmentFailure {
    fn from(lost: ClusterLost) -> Self {
        Self { why: lost.why().to_owned(), verdict: lost.verdict() }
    }
}

impl From<Fault> for EnvironmentFailure {
    fn from(Fault { layer, why, command }: Fault) -> Self {
        let word = layer.word();
        let verdict = Verdict::skipped(format!("the environment failed: {word}"));
        Self { why: format!("{word}: {why}; see `{command}`"), verdict }
    }
}

/// Returns true if what was applied ended the lab, and not the environment: a manifest was rejected, or
/// the cluster did not become what it describes.
fn is_mistake(error: &anyhow::Error, fault: Option<&Fault>) -> bool {
    if fault.is_some_and(|fault| fault.layer.is_environment()) {
        return false;
    }
    let waited = error.chain().find_map(|cause| cause.downcast_ref::<WaitError>());
    match waited {
        Some(waited) => !matches!(waited, WaitError::Environment { .. }),
        None => Fault::of(error).is_some(),
    }
}

fn verdicts(context: &Context) -> Vec<(&'static str, Verdict)> {
    let record = context.record();
    record.verdicts().map(|(claim, verdict)| (claim.id, verdict.clone())).collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
