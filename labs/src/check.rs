//! `labs check`: judges what a participant made by hand, claim by claim, as it is now. It reads and sends
//! requests; it changes and deletes nothing.

use crate::lab::Lab;
use crate::step::Target;
use anyhow::{Context as _, bail};
pub use judgment::{Judgment, State};
use lab_environment::Environment;
use observed::Observed;
use std::fmt::Write as _;

mod judgment;
mod observed;
mod phase3;
mod phase4;
mod phase5;

/// The result of a check.
#[derive(Debug)]
pub struct Check {
    /// Each claim of the lab, in its order.
    pub judgments: Vec<Judgment>,
    /// The first layer that does not work, with a command that shows it.
    pub fault: Option<(String, String)>,
}

impl Check {
    /// Returns true if no claim fails and no layer is at fault.
    pub fn is_clean(&self) -> bool {
        self.fault.is_none() && self.judgments.iter().all(|j| j.state != State::Fails)
    }

    /// Formats the result.
    pub fn text(&self, lab: &Lab) -> String {
        let mut text = String::new();
        for judgment in &self.judgments {
            let Judgment { claim, state, evidence, command } = judgment;
            let sentence = lab.claims.iter().find(|c| c.id == *claim).map_or("", |c| c.sentence);
            _ = writeln!(text, "{:<14}{claim}: {sentence}", state.word());
            _ = writeln!(text, "{:14}{evidence}", "");
            if *state != State::Holds {
                _ = writeln!(text, "{:14}$ {command}", "");
            }
        }
        if let Some((why, command)) = &self.fault {
            _ = writeln!(text, "\nat fault: {why}\n          $ {command}");
        }
        let count = |state| self.judgments.iter().filter(|j| j.state == state).count();
        let [holds, fails, open] = [State::Holds, State::Fails, State::NotYet].map(count);
        _ = writeln!(text, "\n{holds} hold, {fails} do not hold, {open} not yet");
        text
    }
}

/// Judges the claims of a lab by the state of a namespace.
///
/// # Errors
/// If the cluster does not respond, the namespace does not exist or is being deleted, or the lab is not
/// done by hand.
pub async fn check(
    lab: &Lab,
    environment: &Environment,
    client: kube::Client,
    namespace: &str,
) -> anyhow::Result<Check> {
    let observed = Observed::read(client, environment, namespace).await?;
    let judgments = match lab.name {
        "phase3" => phase3::check(&observed).await?,
        "phase4" => phase4::check(&observed).await?,
        "phase5" => phase5::check(&observed).await?,
        name => bail!("{name} is not judged by hand; prove it by `cargo xtask lab {name}`"),
    };
    let after = Observed::read(observed.client.clone(), environment, namespace).await?;
    let changed = observed.pods_differ(&after);
    let target = Target { namespace, environment: Some(environment) };
    let mut found = judgments.into_vec();
    let judge = |claim: &crate::claim::Claim| {
        let position = found.iter().position(|judgment| judgment.claim == claim.id);
        let mut judgment = position.map(|index| found.swap_remove(index)).unwrap_or(Judgment {
            claim: claim.id,
            state: State::NotYet,
            evidence: unseen(lab, claim.id),
            command: String::new(),
        });
        if changed && judgment.state == State::Fails {
            judgment.state = State::NotYet;
            judgment.evidence =
                format!("pods changed during the check, try again: {}", judgment.evidence);
        }
        if judgment.state == State::NotYet && judgment.command.is_empty() {
            let command = lab.step_of(claim.id).and_then(|step| step.commands.first());
            judgment.command = command.map(|command| command.text(target)).unwrap_or_default();
        }
        judgment
    };
    let judgments: Vec<_> = lab.claims.iter().map(judge).collect();
    let fault = observed.fault().await.context("failed to diagnose the namespace")?;
    Ok(Check { judgments, fault })
}

/// The reason why a claim is not judged by a state of the namespace.
fn unseen(lab: &Lab, claim: &str) -> String {
    match claim {
        "promotion-drops-nothing" => "`cargo xtask watch` sees it while you promote".to_owned(),
        _ => format!("seen only while it happens: `cargo xtask lab {}` proves it", lab.name),
    }
}
