//! What is said of each claim.

use crate::claim::{Outcome, Verdict};

/// The state of a claim in a participant's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// What it is about is not there yet, or cannot be seen now.
    NotYet,
}

impl State {
    /// The words in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "does not hold",
            Self::NotYet => "not yet",
        }
    }
}

/// The state of a claim, why, and the command that shows it.
#[derive(Clone, Debug)]
pub struct Judgment {
    /// The claim's id.
    pub claim: &'static str,
    /// The state.
    pub state: State,
    /// One line.
    pub evidence: String,
    /// The command that shows it.
    pub command: String,
}

/// The judgments of a check.
#[derive(Debug, Default)]
pub(super) struct Judgments(Vec<Judgment>);

impl Judgments {
    pub(super) fn push(
        &mut self,
        claim: &'static str,
        state: State,
        why: impl Into<String>,
        command: &str,
    ) {
        let command = command.to_owned();
        self.0.push(Judgment { claim, state, evidence: why.into(), command });
    }

    pub(super) fn verdict(&mut self, claim: &'static str, verdict: Verdict, command: &str) {
        let state = match verdict.outcome {
            Outcome::Holds => State::Holds,
            Outcome::Fails => State::Fails,
            Outcome::Skipped => State::NotYet,
        };
        self.push(claim, state, verdict.evidence, command);
    }

    pub(super) fn not_yet(&mut self, claims: &[&'static str], why: &str, command: &str) {
        for claim in claims {
            self.push(claim, State::NotYet, why, command);
        }
    }

    pub(super) fn into_vec(self) -> Vec<Judgment> {
        self.0
    }
}
