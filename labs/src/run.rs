//! The runner: runs labs in order and ensures that each claim gets a verdict and that nothing is left
//! behind, whether the run ends regularly, with an error, a panic or an interruption.

use crate::claim::{Outcome, Verdict};
use crate::context::Context;
use crate::diagnosis;
use crate::event::{Event, Events};
use crate::kubernetes::pull_secret;
use crate::lab::Lab;
use crate::namespace::OwnedNamespace;
use anyhow::{Context as _, bail};
use cluster_health::{ClusterLost, READYZ_TIMEOUT, probe_readyz};
use futures::FutureExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab_environment::Environment;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod cluster_health;
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
    /// The sender of events.
    pub events: Events,
    /// The folder for the diagnostics of failed labs; `None` to write none.
    pub failures: Option<PathBuf>,
    /// Whether to keep the namespace at the end.
    pub keep: bool,
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
        self.events.send(Event::RunStarted { version, provider, labs: names });
        let mut summary = Summary { verdicts: Vec::new(), errors: Vec::new(), exit: Exit::Holds };
        let mut was_interrupted = false;
        let prepared = self.client().await.and_then(|client| Ok((client, self.namespace()?)));
        match prepared {
            Ok((client, namespace)) => {
                was_interrupted =
                    self.run_labs(labs, client, namespace, interrupted, &mut summary).await
            }
            Err(error) => summary.errors.push(format!("{error:#}")),
        }
        for claim in labs.iter().flat_map(|lab| lab.claims) {
            if !was_interrupted && summary.verdict(claim.id).is_none() {
                summary.verdicts.push((claim.id, Verdict::skipped("not reached")));
            }
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
        let mut was_interrupted = false;
        for lab in labs {
            let context = self.context(lab, client.clone(), namespace.clone());
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
    ) -> Context {
        let environment = self.environment.clone();
        Context::new(lab.name, lab.claims, environment, client, &self.events, namespace)
    }

    /// Runs one lab and gives each of its claims a verdict.
    ///
    /// # Errors
    /// If the environment failed. A lab that stopped because a claim failed is no error.
    async fn run_lab(&self, lab: &'static Lab, context: &Context) -> Result<(), String> {
        let since = Instant::now();
        context.events().send(Event::LabStarted { title: lab.title, claims: lab.claims.len() });
        let Ended { mut error, lost, mut diagnosed } = self.supervise(lab, context).await;
        if let Some(lost) = &lost {
            tracing::warn!(lab = lab.name, why = lost.why(), "cluster lost");
        }
        // On a lost cluster a failure is fallout, not evidence.
        let replacement = lost.as_ref().map(ClusterLost::verdict);
        context.resolve_pending(replacement.as_ref());
        if let Some(lost) = &lost {
            error = Some(lost.why().to_owned());
        }
        let judged = verdicts(context);
        let fails = judged.iter().any(|(_, verdict)| verdict.outcome == Outcome::Fails);
        let missed =
            lab.claims.iter().filter(|claim| !judged.iter().any(|(id, _)| *id == claim.id));
        let missed: Vec<_> = missed.map(|claim| claim.id).collect();
        if error.is_none() && !missed.is_empty() {
            error = Some(format!("a bug in these labs: no verdict on {}", missed.join(", ")));
        }
        if !diagnosed && (fails || error.is_some()) {
            let timeout = if lost.is_some() { READYZ_TIMEOUT } else { DIAGNOSIS_TIMEOUT };
            self.diagnose(context, error.as_deref(), timeout).await;
            diagnosed = true;
        }
        tracing::info!(lab = lab.name, fails, diagnosed, ?error, "lab ended");
        for id in missed {
            _ = context.judge(id, Verdict::skipped("not reached"));
        }
        let seconds = since.elapsed().as_secs_f64();
        context.events().send(Event::LabEnded { seconds, error: error.clone() });
        match error {
            // No other lab can run on a lost cluster.
            Some(error) if !fails || lost.is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs the lab's code and checks the cluster whenever a claim fails. The lab is not polled during
    /// the check, so that diagnostics show the state that was judged.
    async fn supervise(&self, lab: &'static Lab, context: &Context) -> Ended {
        let mut running = pin!(AssertUnwindSafe((lab.run)(context)).catch_unwind());
        let mut lease_lost = pin!(context.namespace().lost());
        let mut diagnosed = false;
        let error = loop {
            tokio::select! {
                biased;
                () = context.failed() => {
                    if let Some(lost) = ClusterLost::check(context).await {
                        return Ended { error: None, lost: Some(lost), diagnosed };
                    }
                    context.resolve_pending(None);
                    if !std::mem::replace(&mut diagnosed, true) {
                        self.diagnose(context, None, DIAGNOSIS_TIMEOUT).await;
                    }
                }
                why = &mut lease_lost => {
                    let lost = Some(ClusterLost::TakenOver(why));
                    return Ended { error: None, lost, diagnosed };
                }
                ended = &mut running => break match ended {
                    Ok(result) => result.err().map(|error| format!("{error:#}")),
                    Err(panic) => Some(format!("a bug in these labs: {}", panic_message(&*panic))),
                },
            }
        };
        // A failure right before the end is still pending.
        let unchecked = error.is_some() || context.record().has_pending();
        let lost = if unchecked { ClusterLost::check(context).await } else { None };
        Ended { error, lost, diagnosed }
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

    async fn diagnose(&self, context: &Context, error: Option<&str>, timeout: Duration) {
        let gathered = Box::pin(diagnosis::gather(context, error, self.failures.as_deref()));
        // A cluster that stops responding must not block the run here.
        if let Ok(event) = tokio::time::timeout(timeout, gathered).await {
            context.events().send(event);
        }
    }

    fn namespace(&self) -> anyhow::Result<Arc<OwnedNamespace>> {
        let secret = self.environment.pull_secret.as_deref().map(pull_secret::read).transpose()?;
        Ok(Arc::new(OwnedNamespace::with_pull_secret(secret)))
    }

    async fn client(&self) -> anyhow::Result<kube::Client> {
        let path = &self.environment.kubeconfig;
        let file = Kubeconfig::read_from(path)
            .with_context(|| format!("failed to read the kubeconfig {}", path.display()))?;
        let clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
        let has_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("failed to use the kubeconfig {}", path.display()))?;
        if !has_proxy {
            // kube takes one from HTTPS_PROXY, even for loopback addresses; this client connects directly.
            config.proxy_url = None;
        }
        kube::Client::try_from(config).context("failed to create a client of the cluster's API")
    }
}

/// The end of a lab's code.
struct Ended {
    /// The error or panic that it ended with.
    error: Option<String>,
    /// Set if nothing can be judged on the cluster any more.
    lost: Option<ClusterLost>,
    /// Whether diagnostics were gathered.
    diagnosed: bool,
}

fn verdicts(context: &Context) -> Vec<(&'static str, Verdict)> {
    let record = context.record();
    record.verdicts().map(|(claim, verdict)| (claim.id, verdict.clone())).collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
