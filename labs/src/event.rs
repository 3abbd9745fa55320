//! What happens in a run, told once: the runner and the labs send events, and every report (terminal,
//! JSON, the failure folder) is made of events alone. The sender never waits for a report.

use crate::claim::{Outcome, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

/// One event and when it happened.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamped {
    /// Seconds since the run began.
    pub at: f64,
    /// The lab it belongs to; `None` for the run as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<&'static str>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen. In JSON the field `event` holds the name in kebab case.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// The first event of a run.
    RunStarted {
        /// Version of these labs.
        version: &'static str,
        /// Name of the cluster's provider.
        provider: String,
        /// Names of the labs to come, in order.
        labs: Vec<&'static str>,
    },
    /// A lab begins.
    LabStarted {
        /// Its title.
        title: &'static str,
        /// How many claims it judges.
        claims: usize,
    },
    /// A step begins.
    StepStarted {
        /// What is being done, as a person would say it.
        step: String,
    },
    /// Something to tell about the current step, such as `2 of 3 replicas available`.
    Progress {
        /// One line.
        text: String,
    },
    /// How far a sample has got; at most some ten a second.
    SampleProgress(SampleProgress),
    /// A claim has its verdict.
    ClaimJudged {
        /// The claim's id.
        claim: &'static str,
        /// The claim's sentence.
        sentence: &'static str,
        /// What became of it.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// A step is over, well or not.
    StepEnded {
        /// The step, as it was announced.
        step: String,
        /// How long it took.
        seconds: f64,
    },
    /// A lab is over.
    LabEnded {
        /// How long it took.
        seconds: f64,
        /// Why it stopped early, with the causes of the error.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The layer at fault and the folder that holds what was gathered.
    Diagnosis {
        /// One line.
        verdict: String,
        /// The folder, if one could be written.
        #[serde(skip_serializing_if = "Option::is_none")]
        folder: Option<String>,
    },
    /// The last event of a run.
    RunEnded {
        /// How each claim ended, by its id.
        claims: BTreeMap<&'static str, Outcome>,
        /// Claims that hold.
        holds: usize,
        /// Claims that fail.
        fails: usize,
        /// Claims that were not checked.
        skipped: usize,
        /// What the environment did not do.
        errors: Vec<String>,
        /// What the process will exit with.
        exit_code: u8,
        /// How long the whole run took.
        seconds: f64,
    },
}

/// Where a sample stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleProgress {
    /// What is sampled: `the load balancer`.
    pub what: String,
    /// Requests planned; 0 where the sample ends with something else than a count.
    pub planned: u64,
    /// Requests answered so far, by version.
    pub counts: BTreeMap<String, u64>,
    /// Requests that failed so far.
    pub failures: u64,
    /// What the sample will be judged by, if by a share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub band: Option<Band>,
}

/// The counts of one version that a share accepts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Band {
    /// The version that is counted.
    pub version: String,
    /// The share claimed, 0 to 1.
    pub share: f64,
    /// Fewest hits accepted of those planned.
    pub low: u64,
    /// Most hits accepted of those planned.
    pub high: u64,
}

/// Sends events. Cheap to clone; sending never blocks and never fails.
#[derive(Clone, Debug)]
pub struct Events {
    started: Instant,
    lab: Option<&'static str>,
    sender: mpsc::Sender<Stamped>,
}

impl Events {
    /// A sender, and the end that reports read from. The clock of the run starts here.
    pub fn channel() -> (Self, mpsc::Receiver<Stamped>) {
        let (sender, receiver) = mpsc::channel();
        (Self { started: Instant::now(), lab: None, sender }, receiver)
    }

    /// The same sender, marking what it sends as part of `lab`.
    pub fn of_lab(&self, lab: &'static str) -> Self {
        Self { lab: Some(lab), ..self.clone() }
    }

    /// Sends one event. A report that has gone away is no reason to stop a run.
    pub fn send(&self, event: Event) {
        _ = self.sender.send(Stamped { at: self.seconds(), lab: self.lab, event });
    }

    /// Seconds since the run began.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
