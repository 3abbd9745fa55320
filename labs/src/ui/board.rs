//! The state that the page shows, made of events. Pure.
//!
//! It has a bounded size, however long and fast the run is: a page receives the state as it is now, with
//! cumulative counts, instead of a queue of what happened. A page that reads slowly, or was away, misses
//! nothing that it could still show.

use crate::claim::Outcome;
use crate::event::{Event, PodObserved, PodState, SampleProgress, Stamped};
use crate::increments::{Increments, Tally, thin};
use crate::phases;
use crate::step::ListedStep;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// The number of lines of the log that are kept.
const LOG: usize = 200;
/// The largest number of points of a curve; beyond it, every second one is dropped.
const POINTS: usize = 240;

/// A part of the state, with the number of its last change.
#[derive(Debug, Default)]
struct Section<T> {
    changed: u64,
    value: T,
}

/// The state of a run.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// The number of the last change.
    change: u64,
    /// Seconds since the run began, at the last change.
    at: f64,
    increments: Increments,
    run: Section<Run>,
    claims: Section<Vec<Claim>>,
    guide: Section<Guide>,
    steps: Section<Steps>,
    connection: Section<Option<Lost>>,
    nodes: Section<BTreeMap<String, bool>>,
    pods: Section<BTreeMap<String, Pod>>,
    sample: Section<Option<Curve>>,
    totals: Section<Tally>,
    diagnosis: Section<Option<Value>>,
    log: VecDeque<(u64, Line)>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    provider: String,
    version: &'static str,
    labs: Vec<&'static str>,
    lab: Option<&'static str>,
    title: &'static str,
    ended: Option<Ended>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    exit_code: u8,
    seconds: f64,
    errors: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Claim {
    lab: &'static str,
    id: &'static str,
    sentence: &'static str,
    outcome: Option<Outcome>,
    evidence: String,
}

/// The steps of the current lab, with the commands that a person types.
#[derive(Debug, Default, Serialize)]
struct Guide {
    lab: &'static str,
    steps: Vec<ListedStep>,
}

#[derive(Debug, Default, Serialize)]
struct Steps {
    /// The step of the guide in progress, or the last one.
    id: &'static str,
    /// The steps in progress, innermost last.
    steps: Vec<String>,
    progress: String,
}

#[derive(Debug, Serialize)]
struct Lost {
    reason: String,
    at: f64,
}

#[derive(Debug, Serialize)]
struct Pod {
    #[serde(flatten)]
    pod: PodObserved,
    /// Requests of the current sample that it served.
    requests: u64,
}

/// The current sample, and how its share developed.
#[derive(Debug, Serialize)]
struct Curve {
    #[serde(flatten)]
    sample: SampleProgress,
    /// Requests so far and hits of the canary's version among them.
    points: Vec<(u64, u64)>,
    /// Time and latency, of each report.
    latencies: Vec<(f64, f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Line {
    at: f64,
    kind: &'static str,
    text: String,
}

impl Board {
    /// The number of the last change.
    pub(crate) fn change(&self) -> u64 {
        self.change
    }

    /// Takes in one event.
    pub(crate) fn event(&mut self, stamped: &Stamped) {
        self.change += 1;
        self.at = stamped.at;
        match &stamped.event {
            Event::RunStarted { version, provider, labs, .. } => {
                self.forget();
                let run = change(self.change, &mut self.run);
                (run.version, run.labs) = (version, labs.clone());
                run.provider.clone_from(provider);
            }
            Event::LabStarted { title, claims } => self.lab_started(stamped.lab, title, claims),
            Event::StepsListed { steps } => {
                let lab = stamped.lab.unwrap_or_default();
                *change(self.change, &mut self.guide) = Guide { lab, steps: steps.clone() };
            }
            Event::StepStarted { id, step } => {
                let steps = change(self.change, &mut self.steps);
                steps.id = id;
                steps.steps.push(step.clone());
                steps.progress.clear();
                self.log("step", step.clone());
            }
            Event::StepEnded { step, .. } => {
                let steps = change(self.change, &mut self.steps);
                steps.steps.retain(|running| running != step);
                steps.progress.clear();
            }
            Event::Progress { text } => {
                change(self.change, &mut self.steps).progress.clone_from(text);
            }
            Event::SampleProgress(sample) => self.sample(sample),
            Event::SampleEnded(ended) => {
                let added = self.increments.end(&ended.what, &ended.counts, ended.failures);
                change(self.change, &mut self.totals).add(&added);
            }
            Event::ClaimJudged { claim, verdict, .. } => {
                let (word, evidence) = (verdict.outcome.word(), verdict.evidence.clone());
                self.log(word, format!("{claim}: {evidence}"));
                let claims = change(self.change, &mut self.claims);
                if let Some(judged) = claims.iter_mut().find(|known| known.id == *claim) {
                    (judged.outcome, judged.evidence) = (Some(verdict.outcome), evidence);
                }
            }
            Event::Diagnosis { reason, .. } if reason.is_empty() => {
                *change(self.change, &mut self.diagnosis) = None;
            }
            Event::Diagnosis { layer, reason, command, .. } => {
                let layer = layer.map(|layer| layer.word());
                let value = json!({"layer": layer, "reason": reason, "command": command});
                *change(self.change, &mut self.diagnosis) = Some(value);
                let layer = layer.map(|layer| format!("{layer}: ")).unwrap_or_default();
                self.log("fails", format!("at fault: {layer}{reason}"));
            }
            Event::LabEnded { error, .. } => {
                *change(self.change, &mut self.steps) = Steps::default();
                if let Some(error) = error {
                    self.log("fails", format!("stopped: {error}"));
                }
            }
            Event::RunEnded { errors, exit_code, seconds, .. } => {
                let ended =
                    Ended { exit_code: *exit_code, seconds: *seconds, errors: errors.clone() };
                change(self.change, &mut self.run).ended = Some(ended);
            }
            cluster => self.cluster(cluster),
        }
    }

    /// Forgets all that is of one cluster, since another takes its place.
    fn forget(&mut self) {
        *change(self.change, &mut self.run) = Run::default();
        change(self.change, &mut self.claims).clear();
        *change(self.change, &mut self.guide) = Guide::default();
        *change(self.change, &mut self.steps) = Steps::default();
        *change(self.change, &mut self.connection) = None;
        change(self.change, &mut self.nodes).clear();
        change(self.change, &mut self.pods).clear();
        *change(self.change, &mut self.diagnosis) = None;
    }

    fn lab_started(
        &mut self,
        lab: Option<&'static str>,
        title: &'static str,
        claims: &[&'static str],
    ) {
        let run = change(self.change, &mut self.run);
        (run.lab, run.title) = (lab, title);
        let lab = lab.unwrap_or_default();
        let known = phases::find(lab).map_or(&[][..], |lab| lab.claims);
        let sentence = |id| known.iter().find(|claim| claim.id == id).map(|claim| claim.sentence);
        let open = |id: &&'static str| {
            let (sentence, evidence) = (sentence(*id).unwrap_or_default(), String::new());
            Claim { lab, id, sentence, outcome: None, evidence }
        };
        change(self.change, &mut self.claims).extend(claims.iter().map(open));
    }

    /// What the cluster does.
    fn cluster(&mut self, event: &Event) {
        match event {
            Event::NodeObserved { node, ready } => {
                let nodes = change(self.change, &mut self.nodes);
                match ready {
                    Some(ready) => _ = nodes.insert(node.clone(), *ready),
                    None => _ = nodes.remove(node),
                }
            }
            Event::PodObserved(pod) => {
                let pods = change(self.change, &mut self.pods);
                if pod.state == PodState::Removed {
                    pods.remove(&pod.pod);
                } else {
                    let requests = pods.get(&pod.pod).map_or(0, |known| known.requests);
                    pods.insert(pod.pod.clone(), Pod { pod: pod.clone(), requests });
                }
            }
            Event::ClusterEvent { severity, object, reason, message } => {
                let kind = if severity == "Warning" { "warning" } else { "event" };
                self.log(kind, format!("{object}: {reason}: {message}"));
            }
            Event::ClusterConnection { connected, reason } => {
                let reason = reason.clone().unwrap_or_default();
                let lost = (!connected).then(|| Lost { reason: reason.clone(), at: self.at });
                *change(self.change, &mut self.connection) = lost;
                let text = "the cluster responds again".to_owned();
                let lost = format!("the cluster does not respond: {reason}");
                self.log("warning", if *connected { text } else { lost });
            }
            _ => {}
        }
    }

    fn sample(&mut self, sample: &SampleProgress) {
        let added = self.increments.progress(sample);
        change(self.change, &mut self.totals).add(&added);
        let at = self.at;
        let total = sample.total();
        let current = change(self.change, &mut self.sample);
        let continues = current.as_ref().is_some_and(|curve| {
            let last = curve.points.last().map_or(0, |(requests, _)| *requests);
            curve.sample.what == sample.what && last <= total
        });
        let latencies = current.take().map(|curve| (curve.points, curve.latencies));
        let (points, latencies) = latencies.unwrap_or_default();
        let points = if continues { points } else { Vec::new() };
        let mut curve = Curve { sample: sample.clone(), points, latencies };
        curve.points.push((total, sample.hits()));
        if let Some(latency) = sample.latency {
            curve.latencies.push((at, latency.p50, latency.p99));
        }
        thin(&mut curve.points, POINTS);
        thin(&mut curve.latencies, POINTS);
        *current = Some(curve);
        if !sample.pods.is_empty() {
            let pods = change(self.change, &mut self.pods);
            for (name, pod) in pods {
                pod.requests = sample.pods.get(name).copied().unwrap_or(0);
            }
        }
    }

    fn log(&mut self, kind: &'static str, text: String) {
        self.log.push_back((self.change, Line { at: self.at, kind, text }));
        if self.log.len() > LOG {
            self.log.pop_front();
        }
    }

    /// Returns what a page must show after it has seen the state up to `since`; `None` if nothing changed.
    pub(crate) fn frame(&self, since: u64) -> Option<Value> {
        if since >= self.change {
            return None;
        }
        let mut frame = Map::from_iter([("at".to_owned(), json!(self.at))]);
        let mut add = |name: &str, changed: u64, value: Value| {
            if changed > since {
                frame.insert(name.to_owned(), value);
            }
        };
        add("run", self.run.changed, json!(self.run.value));
        add("claims", self.claims.changed, json!(self.claims.value));
        add("guide", self.guide.changed, json!(self.guide.value));
        add("steps", self.steps.changed, json!(self.steps.value));
        add("connection", self.connection.changed, json!({ "lost": self.connection.value }));
        add("nodes", self.nodes.changed, json!(self.nodes.value));
        let pods: Vec<_> = self.pods.value.values().collect();
        add("pods", self.pods.changed, json!(pods));
        add("sample", self.sample.changed, json!(self.sample.value));
        let Tally { counts, failures } = &self.totals.value;
        let totals = json!({ "counts": counts, "failures": failures });
        add("totals", self.totals.changed, totals);
        add("diagnosis", self.diagnosis.changed, json!(self.diagnosis.value));
        let new = self.log.iter().filter(|(changed, _)| *changed > since).map(|(_, line)| line);
        let log: Vec<_> = new.collect();
        if !log.is_empty() {
            add("log", self.change, json!(log));
        }
        Some(Value::Object(frame))
    }
}

/// Marks a section as changed, and returns its value.
fn change<T>(number: u64, section: &mut Section<T>) -> &mut T {
    section.changed = number;
    &mut section.value
}

#[cfg(test)]
mod tests;
