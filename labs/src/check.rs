//! `labs check`: judges what a participant made by hand, claim by claim, as it is now. It reads and sends
//! requests; it changes and deletes nothing.

use crate::diagnosis;
use crate::fault::Fault;
use crate::lab::Lab;
use crate::step::Target;
use crate::wrap::wrap;
use anyhow::bail;
pub use judgment::{Judgment, State};
use lab_environment::Environment;
use observed::Observed;
use std::fmt::Write as _;

mod events;
pub(crate) mod expected;
mod judgment;
mod observed;
mod phase3;
mod phase4;
mod phase5;

/// The labs that are done by hand.
pub const BY_HAND: [&str; 3] = ["phase3", "phase4", "phase5"];

/// The result of a check.
#[derive(Debug)]
pub struct Check {
    /// Each claim of the lab, in its order.
    pub judgments: Vec<Judgment>,
    /// The first layer that does not work.
    pub fault: Option<Fault>,
}

impl Check {
    /// Returns true if no claim fails and no layer is at fault.
    pub fn is_clean(&self) -> bool {
        self.fault.is_none() && self.judgments.iter().all(|j| j.state != State::Fails)
    }

    /// Formats the result for that width.
    pub fn text(&self, lab: &Lab, width: Option<usize>) -> String {
        const INDENT: usize = 15;
        let mut text = String::new();
        for judgment in &self.judgments {
            let Judgment { claim, state, evidence, command } = judgment;
            let sentence = lab.claims.iter().find(|c| c.id == *claim).map_or("", |c| c.sentence);
            let [sentence, evidence] = [&format!("{claim}: {sentence}"), evidence]
                .map(|text| wrap(text, INDENT, INDENT, width));
            _ = writeln!(text, "{:<INDENT$}{sentence}\n{:INDENT$}{evidence}", state.word(), "");
            if *state != State::Holds {
                _ = writeln!(text, "{:INDENT$}$ {command}", "");
            }
        }
        if let Some(fault) = &self.fault {
            let Fault { layer, why, command } = fault;
            let why = wrap(&format!("at fault: {}: {why}", layer.word()), 0, 10, width);
            _ = writeln!(text, "\n{why}\n{:10}$ {command}", "");
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
    let checked = judge(lab, environment, &client, namespace).await;
    if checked.is_err() {
        // If the cluster or the namespace went away meanwhile, that is the reason.
        observed::exists(&client, namespace).await?;
    }
    checked
}

async fn judge(
    lab: &Lab,
    environment: &Environment,
    client: &kube::Client,
    namespace: &str,
) -> anyhow::Result<Check> {
    let observed = Observed::read(client.clone(), environment, namespace).await?;
    let judgments = match lab.name {
        "phase3" => phase3::check(&observed).await?,
        "phase4" => phase4::check(&observed).await?,
        "phase5" => phase5::check(&observed).await?,
        name => bail!("{name} is not judged by hand; prove it by `cargo xtask lab {name}`"),
    };
    let after = Observed::read(client.clone(), environment, namespace).await?;
    let changed = observed.differs(&after);
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
                format!("changed during the check, try again: {}", judgment.evidence);
        }
        if judgment.state == State::NotYet && judgment.command.is_empty() {
            let command = lab.step_of(claim.id).and_then(|step| step.commands.first());
            judgment.command = command.map(|command| command.text(target)).unwrap_or_default();
        }
        judgment
    };
    let judgments: Vec<_> = lab.claims.iter().map(judge).collect();
    let fault = if changed { None } else { fault(lab, &after, &observed, &judgments).await };
    Ok(Check { judgments, fault })
}

/// Returns the first layer that does not work.
async fn fault(
    lab: &Lab,
    now: &Observed<'_>,
    sampled: &Observed<'_>,
    judgments: &[Judgment],
) -> Option<Fault> {
    let failing = judgments.iter().find(|judgment| judgment.state == State::Fails);
    let subject = diagnosis::Subject {
        client: now.client.clone(),
        namespace: now.namespace.name(),
        environment: now.environment,
        expected: expected::of(lab, now),
        samples: sampled.samples(),
        failing: failing.map(|judgment| format!("{}: {}", judgment.claim, judgment.evidence)),
        in_progress: true,
    };
    diagnosis::fault(&subject).await
}

/// The reason why a claim is not judged by a state of the namespace.
fn unseen(lab: &Lab, claim: &str) -> String {
    match claim {
        "promotion-drops-nothing" | "ingress-promotes" => {
            "`cargo xtask watch` sees it while you promote".to_owned()
        }
        "stable-unaffected" => "`cargo xtask watch` sees it while you add the rules".to_owned(),
        _ => format!("seen only while it happens: `cargo xtask lab {}` proves it", lab.name),
    }
}
