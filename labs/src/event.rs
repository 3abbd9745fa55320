//! The events of a run: the interface between runner and labs, which send them, and reports (terminal,
//! JSON), which are made of events alone. Sending never blocks.

use crate::claim::{Outcome, Verdict};
use crate::fault::Layer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

/// The version of the schema of events in JSON, `docs/labs-events.schema.json`. A new optional field or
/// kind of event does not change it.
pub const SCHEMA: u32 = 1;

/// An event with its time.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamped {
    /// Seconds since the run began.
    pub at: f64,
    /// The lab it belongs to; `None` for the run as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<&'static str>,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// The kinds of events. In JSON the field `event` holds the name in kebab case.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// The first event of a run.
    RunStarted {
        /// The version of this schema.
        schema: u32,
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
        /// The ids of the claims it judges.
        claims: Vec<&'static str>,
    },
    /// A step begins.
    StepStarted {
        /// The step's id in the list of `labs explain`.
        id: &'static str,
        /// The step, in a few words.
        step: String,
    },
    /// The current step changes the cluster, as kubectl does with these arguments.
    Command {
        /// The arguments.
        command: String,
    },
    /// Progress of the current step, such as `2 of 3 replicas available`.
    Progress {
        /// One line.
        text: String,
    },
    /// Progress of a sample, about ten per second.
    SampleProgress(SampleProgress),
    /// A claim has its verdict.
    ClaimJudged {
        /// The claim's id.
        claim: &'static str,
        /// The claim's sentence.
        sentence: &'static str,
        /// The verdict.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// A step ended, successfully or not.
    StepEnded {
        /// The step, as it was reported at the start.
        step: String,
        /// Its duration.
        seconds: f64,
    },
    /// A lab ended.
    LabEnded {
        /// Its duration.
        seconds: f64,
        /// The error that stopped it early, with its causes.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The layer at fault, before the verdicts of the claims that fail for it.
    Diagnosis {
        /// The layer; `null` if every layer works.
        layer: Option<Layer>,
        /// What is wrong with it.
        reason: String,
        /// A command that shows it.
        #[serde(skip_serializing_if = "Option::is_none")]
        command: Option<String>,
        /// The folder, if one could be written.
        #[serde(skip_serializing_if = "Option::is_none")]
        folder: Option<String>,
    },
    /// The last event of a run.
    RunEnded {
        /// The outcome of each claim, by its id.
        claims: BTreeMap<&'static str, Outcome>,
        /// The number of claims that hold.
        holds: usize,
        /// The number of claims that fail.
        fails: usize,
        /// The number of claims that were not checked.
        skipped: usize,
        /// Errors of the environment.
        errors: Vec<String>,
        /// The exit code of the process.
        exit_code: u8,
        /// The duration of the run.
        seconds: f64,
    },
}

/// The progress of a sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleProgress {
    /// The name of what is sampled: `the load balancer`.
    pub what: String,
    /// The number of requests planned; 0 if the sample does not end with a count.
    pub planned: u64,
    /// Good responses so far, by version.
    pub counts: BTreeMap<String, u64>,
    /// Failed requests so far.
    pub failures: u64,
    /// The accepted band, if the sample is judged by a share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub band: Option<Band>,
}

/// The accepted band of hits of one version.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Band {
    /// The version whose responses are hits.
    pub version: String,
    /// The share claimed, 0 to 1.
    pub share: f64,
    /// The smallest accepted number of hits among the requests planned.
    pub low: u64,
    /// The largest accepted number of hits among the requests planned.
    pub high: u64,
}

/// A sender of events. Cheap to clone; sending never blocks and never fails.
#[derive(Clone, Debug)]
pub struct Events {
    started: Instant,
    lab: Option<&'static str>,
    sender: mpsc::Sender<Stamped>,
}

impl Events {
    /// Creates a sender and the receiver for a report. The clock of the run starts here.
    pub fn channel() -> (Self, mpsc::Receiver<Stamped>) {
        let (sender, receiver) = mpsc::channel();
        (Self { started: Instant::now(), lab: None, sender }, receiver)
    }

    /// Returns a sender that marks events as part of `lab`.
    pub(crate) fn of_lab(&self, lab: &'static str) -> Self {
        Self { lab: Some(lab), ..self.clone() }
    }

    /// Sends an event. A closed receiver is ignored: the run continues without a report.
    pub fn send(&self, event: Event) {
        _ = self.sender.send(Stamped { at: self.seconds(), lab: self.lab, event });
    }

    /// Seconds since the run began.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
