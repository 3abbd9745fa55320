//! Plays labs in order and makes sure that each claim has a verdict and that nothing is left behind,
//! however the run ends: well, with an error, a panic or an interruption.

use crate::claim::{Outcome, Verdict};
use crate::context::Context;
use crate::event::{Event, Events};
use crate::failure;
use crate::kubernetes::pull_secret;
use crate::lab::Lab;
use crate::namespace::Production;
use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab_environment::Environment;
use lost::{ANSWER, Lost, silence};
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod lost;
#[cfg(test)]
mod tests;

/// What a process that ran labs exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every claim holds, or was skipped with a reason.
    Holds = 0,
    /// A claim fails.
    Fails = 1,
    /// The command was not understood.
    Usage = 2,
    /// The environment failed, so that there is no verdict on some claim.
    Infrastructure = 3,
    /// Interrupted, after cleaning up.
    Interrupted = 130,
}

/// For all that helps to understand a failure.
const GATHER: Duration = Duration::from_secs(20);

/// A run to be.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The cluster and what is to be tried on it.
    pub environment: Arc<Environment>,
    /// Where events go.
    pub events: Events,
    /// Where a folder is made for each lab that goes wrong; `None` for nowhere.
    pub failures: Option<PathBuf>,
    /// Whether the namespace stays at the end.
    pub keep: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// Each claim's verdict, lab by lab.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// What the environment did not do, with the lab it happened in.
    pub errors: Vec<String>,
    /// What to exit with.
    pub exit: Exit,
}

impl Summary {
    /// The verdict on that claim.
    pub fn verdict(&self, claim: &str) -> Option<&Verdict> {
        self.verdicts.iter().find(|(id, _)| *id == claim).map(|(_, verdict)| verdict)
    }

    /// How many claims ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.verdicts.iter().filter(|(_, verdict)| verdict.outcome == outcome).count()
    }
}

impl Runner {
    /// Plays the labs until the last is done or `interrupted` ends. A failing claim does not stop the
    /// labs that follow; an error does.
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
        let begun = self.client().await.and_then(|client| Ok((client, self.production()?)));
        match begun {
            Ok((client, production)) => {
                was_interrupted =
                    self.play(labs, client, production, interrupted, &mut summary).await
            }
            Err(error) => summary.errors.push(format!("{error:#}")),
        }
        for lab in labs {
            for claim in lab.claims {
                if !was_interrupted && summary.verdict(claim.id).is_none() {
                    summary.verdicts.push((claim.id, Verdict::skipped("not reached")));
                }
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
        let ended = summary.verdicts.iter().map(|(claim, verdict)| (*claim, verdict.outcome));
        self.events.send(Event::RunEnded {
            claims: ended.collect(),
            holds: summary.count(Outcome::Holds),
            fails: summary.count(Outcome::Fails),
            skipped: summary.count(Outcome::Skipped),
            errors: summary.errors.clone(),
            exit_code: summary.exit as u8,
            seconds: started.elapsed().as_secs_f64(),
        });
        summary
    }

    /// Whether it was interrupted.
    async fn play(
        &self,
        labs: &[&'static Lab],
        client: kube::Client,
        production: Arc<Production>,
        interrupted: impl Future<Output = ()>,
        summary: &mut Summary,
    ) -> bool {
        let mut interrupted = pin!(interrupted);
        let mut was_interrupted = false;
        for lab in labs {
            let environment = self.environment.clone();
            let production = production.clone();
            let context = Context::new(lab, environment, client.clone(), &self.events, production);
            let played = tokio::select! {
                biased;
                () = &mut interrupted => None,
                result = self.lab(&context) => Some(result),
            };
            let Some(result) = played else {
                was_interrupted = true;
                context.announce();
                summary.verdicts.extend(verdicts(&context));
                break;
            };
            summary.verdicts.extend(verdicts(&context));
            if let Err(error) = result {
                summary.errors.push(format!("{}: {error}", lab.name));
                break;
            }
        }
        if let Err(error) = self.clean_up(&client, &production).await {
            summary.errors.push(format!("cleaning up: {error:#}"));
        }
        was_interrupted
    }

    /// Plays one lab and gives each of its claims a verdict. An error only if the environment failed:
    /// a lab that could not go on after a claim had failed has done its work.
    async fn lab(&self, context: &Context) -> Result<(), String> {
        let (lab, since) = (context.lab(), Instant::now());
        context.events().send(Event::LabStarted { title: lab.title, claims: lab.claims.len() });
        let mut played = pin!(AssertUnwindSafe((lab.run)(context)).catch_unwind());
        let mut taken = pin!(context.production().lost());
        let (mut diagnosed, mut lost) = (false, None);
        let mut error = loop {
            tokio::select! {
                biased;
                // The lab stands still meanwhile, so that what is gathered is what was judged.
                () = context.failed() => {
                    lost = Lost::find(context).await;
                    if lost.is_some() {
                        break None;
                    }
                    context.announce();
                    if !std::mem::replace(&mut diagnosed, true) {
                        self.diagnose(context, None, GATHER).await;
                    }
                }
                why = &mut taken => {
                    lost = Some(Lost::TakenOver(why));
                    break None;
                }
                played = &mut played => break match played {
                    Ok(result) => result.err().map(|error| format!("{error:#}")),
                    Err(panic) => Some(format!("a bug in these labs: {}", said(&*panic))),
                },
            }
        };
        // A failure right before the end has not been asked about.
        if lost.is_none() && (error.is_some() || context.holds_back()) {
            lost = Lost::find(context).await;
        }
        let patience = if lost.is_some() { ANSWER } else { GATHER };
        if let Some(lost) = &lost {
            // What fails there says nothing of the claim.
            context.retract(&lost.verdict());
            error = Some(lost.why());
        }
        context.announce();
        let judged = verdicts(context);
        let fails = judged.iter().any(|(_, verdict)| verdict.outcome == Outcome::Fails);
        let missed =
            lab.claims.iter().filter(|claim| !judged.iter().any(|(id, _)| *id == claim.id));
        let missed: Vec<_> = missed.map(|claim| claim.id).collect();
        if error.is_none() && !missed.is_empty() {
            error = Some(format!("a bug in these labs: no verdict on {}", missed.join(", ")));
        }
        if !diagnosed && (fails || error.is_some()) {
            self.diagnose(context, error.as_deref(), patience).await;
        }
        // The error itself is told once, at the end of the lab.
        for id in missed {
            _ = context.judge(id, Verdict::skipped("not reached"));
        }
        let seconds = since.elapsed().as_secs_f64();
        context.events().send(Event::LabEnded { seconds, error: error.clone() });
        match error {
            // Nothing can follow on a cluster that is lost.
            Some(error) if !fails || lost.is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// On a cluster that is silent nothing can be taken away, and nobody is kept waiting for it.
    async fn clean_up(&self, client: &kube::Client, production: &Production) -> anyhow::Result<()> {
        if production.has_nothing().await {
            return Ok(());
        }
        if let Some(why) = silence(client).await {
            bail!("{why}; if it comes back, the next run deletes what this one has left");
        }
        let patience = Duration::from_secs(self.environment.patience.rollout);
        production.release(client, self.keep, patience).await
    }

    async fn diagnose(&self, context: &Context, error: Option<&str>, patience: Duration) {
        let gathered = failure::gather(context, error, self.failures.as_deref());
        // What is gathered must not keep anybody waiting for a cluster that no longer answers.
        if let Ok(event) = tokio::time::timeout(patience, gathered).await {
            context.events().send(event);
        }
    }

    fn production(&self) -> anyhow::Result<Arc<Production>> {
        let secret = self.environment.pull_secret.as_deref().map(pull_secret::read).transpose()?;
        Ok(Arc::new(Production::with(secret)))
    }

    async fn client(&self) -> anyhow::Result<kube::Client> {
        let path = &self.environment.kubeconfig;
        let file = Kubeconfig::read_from(path)
            .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?;
        kube::Client::try_from(config).context("making a client of the cluster's API")
    }
}

fn verdicts(context: &Context) -> Vec<(&'static str, Verdict)> {
    let told = context.told();
    told.judged.iter().map(|(claim, verdict)| (claim.id, verdict.clone())).collect()
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
