//! The events of a run: the interface between runner and labs, which send them, and reports (terminal,
//! JSON, page), which are made of events alone. Sending never blocks.

use crate::claim::{Outcome, Verdict};
use crate::fault::Layer;
use crate::step::ListedStep;
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
    /// The steps of the lab, as a person would do them on this cluster.
    StepsListed {
        /// In their order.
        steps: Vec<ListedStep>,
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
    /// A sample is complete.
    SampleEnded(SampleEnded),
    /// A node of the cluster, as it is now.
    NodeObserved {
        /// Its name.
        node: String,
        /// Its condition `Ready`; absent once the node is removed.
        #[serde(skip_serializing_if = "Option::is_none")]
        ready: Option<bool>,
    },
    /// A pod of the labs' namespace, as it is now.
    PodObserved(PodObserved),
    /// An event that a component of the cluster recorded in the labs' namespace.
    ClusterEvent {
        /// `Normal` or `Warning`.
        severity: String,
        /// The object, such as `Pod/kubeapp-canary-…`.
        object: String,
        /// One word, such as `Unhealthy`.
        reason: String,
        /// One line.
        message: String,
    },
    /// The API server no longer responds to watches, or does so again.
    ClusterConnection {
        /// Whether it responds.
        connected: bool,
        /// The error if it does not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
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
        /// What is wrong with it; empty once nothing is, where a person repairs what was at fault.
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

impl Event {
    /// Returns true for what is written for machines only on request.
    pub(crate) fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::Progress { .. }
                | Self::StepsListed { .. }
                | Self::SampleProgress(_)
                | Self::NodeObserved { .. }
                | Self::PodObserved(_)
                | Self::ClusterEvent { .. }
                | Self::ClusterConnection { .. }
        )
    }
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
    /// Good responses so far, by pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, u64>,
    /// The latency of the requests since the last report; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

impl SampleProgress {
    /// Requests so far.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.failures
    }

    /// Good responses of the version that the share is about: the band's, or else the newest of several.
    pub(crate) fn hits(&self) -> u64 {
        let newest = (self.counts.len() > 1).then(|| self.counts.keys().next_back()).flatten();
        let version = self.band.as_ref().map(|band| &band.version).or(newest);
        version.and_then(|version| self.counts.get(version)).copied().unwrap_or(0)
    }
}

/// A complete sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleEnded {
    /// The name of what was sampled.
    pub what: String,
    /// Its duration.
    pub seconds: f64,
    /// Good responses, by version.
    pub counts: BTreeMap<String, u64>,
    /// Failed requests.
    pub failures: u64,
    /// The latency of all of its requests; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// Percentiles of latency in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The slowest request.
    pub max: f64,
}

impl Latency {
    /// Returns the percentiles of these latencies, by the nearest-rank method; `None` of nothing.
    pub(crate) fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let rank = |percent: usize| (seconds.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| seconds.get(rank(percent)).copied();
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

/// A pod as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodObserved {
    /// Its name.
    pub pod: String,
    /// The node it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The version of its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its stage of life.
    pub state: PodState,
    /// The reason why it is not ready, such as `ImagePullBackOff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of restarts of its containers.
    pub restarts: u32,
}

/// The stages of a pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// Not on a node yet, or its containers do not run.
    Pending,
    /// Its containers run, and it is not ready.
    Running,
    /// Receives requests.
    Ready,
    /// Is being deleted.
    Terminating,
    /// All containers ended with success.
    Succeeded,
    /// A container ended with an error, for good.
    Failed,
    /// No longer exists.
    Removed,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(Latency::of(vec![]), None);
        let one = Latency::of(vec![0.5]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (0.5, 0.5, 0.5));
        let hundred = Latency::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((hundred.p50, hundred.p90, hundred.p99, hundred.max), (50.0, 90.0, 99.0, 100.0));
    }
}
