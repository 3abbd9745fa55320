//! A release in stages, without I/O: what responses say of it, and what follows. Tests simulate it.

use crate::analysis::{Analysis, Counts, Decision, InvalidInput, Plan, Requests};
use crate::claim::Verdict;
use crate::statistics::{self, TestLevel};
use std::time::Duration;

/// A stage of a release.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// The canary's weight in percent, and the route that has it.
    pub(super) weight: u8,
    /// The number of requests at least.
    pub(super) requests: u64,
}

/// The stages. In the last one, the analysis decides.
pub(super) const STAGES: [Stage; 4] = [
    Stage { weight: 1, requests: 300 },
    Stage { weight: 5, requests: 300 },
    Stage { weight: 25, requests: 400 },
    Stage { weight: 50, requests: 400 },
];
/// The time that a stage lasts at least, for faults that need it. Minutes in production.
pub(super) const STAGE_DURATION: Duration = Duration::from_millis(300);
/// A release without a decision after so many requests is rolled back.
const LIMIT: u64 = 20_000;
/// The number of requests between two looks at the analysis.
pub(super) const BATCH: usize = 50;
/// A response of the canary that takes this long counts as one that its user noticed, in seconds.
const NOTICED: f64 = 0.25;
/// Latencies of the canary count as if they were shorter by this factor: a pod with less traffic has less of it on open
/// connections, which is no fault of the release.
const TOLERANCE: f64 = 2.0;
/// Latencies below count as this one, in seconds: users do not notice them, and on a busy machine they differ between two
/// equal pods.
const IMPERCEPTIBLE: f64 = 0.1;

/// The plan of the analysis: as the default, with the tenth of requests that takes longest.
pub(super) const PLAN: Plan = Plan { quantile: 0.9, slower: 2.0, ..Plan::DEFAULT };

/// The version that responded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Canary,
    Stable,
    /// No pod of the app: the request was lost.
    Lost,
}

/// One request of a user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) server: Server,
    /// Whether the response is the right one.
    pub(super) good: bool,
    /// In seconds.
    pub(super) latency: f64,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Promoted,
    /// And why.
    RolledBack(String),
}

/// A release so far.
#[derive(Debug)]
pub(super) struct Release {
    analysis: Analysis,
    /// The stages so far: weight, requests to the canary, all requests with a response of the app.
    counts: Vec<(u8, u64, u64)>,
    /// Users who met a failure of the canary, a slow response of it, or lost their request.
    pub(super) met: u64,
    /// Requests without a response of the app.
    lost: u64,
    /// What was seen instead, of the first of them.
    first_loss: Option<String>,
    pub(super) outcome: Option<Outcome>,
}

impl Release {
    pub(super) fn new() -> Result<Self, InvalidInput> {
        let analysis = Analysis::with_latencies(PLAN)?;
        Ok(Self { analysis, counts: Vec::new(), met: 0, lost: 0, first_loss: None, outcome: None })
    }

    /// Begins a stage.
    pub(super) fn begin(&mut self, stage: &Stage) {
        self.counts.push((stage.weight, 0, 0));
    }

    /// Records requests in the current stage.
    pub(super) fn record(&mut self, seen: &[Seen]) -> Result<(), InvalidInput> {
        let of = |server: Server| seen.iter().filter(move |one| one.server == server);
        let counts = |server| Counts {
            requests: of(server).count() as u64,
            failures: of(server).filter(|one| !one.good).count() as u64,
        };
        let (canary, stable) = (counts(Server::Canary), counts(Server::Stable));
        let lost = of(Server::Lost).count() as u64;
        let noticed = of(Server::Canary).filter(|one| !one.good || one.latency >= NOTICED).count();
        self.lost += lost;
        self.met += lost + noticed as u64;
        let Some((weight, to_canary, all)) = self.counts.last_mut() else { return Ok(()) };
        *to_canary += canary.requests;
        *all += canary.requests + stable.requests;
        if *weight == 0 {
            return Ok(());
        }
        let share = f64::from(*weight) / 100.0;
        self.analysis.record(&Requests { share, canary, stable })?;
        let latencies = |server: Server, factor: f64| -> Vec<f64> {
            of(server).map(|one| (one.latency / factor).max(IMPERCEPTIBLE)).collect()
        };
        let (canary, stable) =
            (latencies(Server::Canary, TOLERANCE), latencies(Server::Stable, 1.0));
        self.analysis.record_latencies(&canary, &stable);
        if self.analysis.decision() == Decision::RollBack {
            self.roll_back("the canary is worse");
        }
        Ok(())
    }

    /// Notes what was seen instead of a response of the app.
    pub(super) fn note_loss(&mut self, why: String) {
        self.first_loss.get_or_insert(why);
    }

    /// Ends the release, unless it has ended.
    pub(super) fn roll_back(&mut self, why: &str) {
        self.outcome.get_or_insert_with(|| Outcome::RolledBack(why.to_owned()));
    }

    /// Returns true if the stage is over; decides in the last one.
    pub(super) fn is_over(&mut self, stage: &Stage) -> bool {
        let in_stage = self.counts.last().map_or(0, |(_, _, all)| *all);
        if self.outcome.is_some() {
            return true;
        }
        if in_stage < stage.requests {
            return false;
        }
        if stage.weight != STAGES[STAGES.len() - 1].weight {
            return true;
        }
        match self.analysis.decision() {
            Decision::Promote => self.outcome = Some(Outcome::Promoted),
            _ if self.sent() >= LIMIT => self.roll_back("no decision in time"),
            _ => {}
        }
        self.outcome.is_some()
    }

    /// The requests to the canary.
    pub(super) fn canary(&self) -> u64 {
        self.counts.iter().map(|(_, canary, _)| canary).sum()
    }

    /// The requests with a response of the app, and those without.
    pub(super) fn sent(&self) -> u64 {
        self.counts.iter().map(|(_, _, all)| all).sum::<u64>() + self.lost
    }

    /// The number of lost requests, and why the first was.
    pub(super) fn losses(&self) -> Option<String> {
        let first = self.first_loss.as_deref().unwrap_or("unknown");
        (self.lost > 0).then(|| format!("{} lost (the first: {first})", self.lost))
    }

    /// One line of what was seen, and what was decided.
    pub(super) fn text(&self) -> String {
        let (canary, stable) = self.analysis.counts();
        let ended = match &self.outcome {
            Some(Outcome::Promoted) => "promoted".to_owned(),
            Some(Outcome::RolledBack(why)) => format!("rolled back ({why})"),
            None => "not ended".to_owned(),
        };
        let at = self.counts.last().map_or(0, |(weight, ..)| *weight);
        let lost = self.losses().map(|losses| format!(", {losses}")).unwrap_or_default();
        format!(
            "{ended} at {at}% after {} requests; failed: canary {} of {}, stable {} of {}{lost}",
            self.sent(),
            canary.failures,
            canary.requests,
            stable.failures,
            stable.requests,
        )
    }
}

/// Judges that the canary got the share of each stage, by a test of the size that the stage had.
pub(super) fn promoted_share(release: &Release) -> Verdict {
    let mut holds = release.counts.len() == STAGES.len();
    let mut parts = Vec::new();
    for (weight, canary, all) in &release.counts {
        let share = f64::from(*weight) / 100.0;
        // Half the share: for its power, which is not claimed, since the analysis chose the size.
        let plan = statistics::Plan::of_size(share, share / 2.0, *all, TestLevel::DEFAULT);
        let band = plan.map_or((1, 0), |plan| (plan.low, plan.high));
        holds &= (band.0..=band.1).contains(canary);
        parts.push(format!("{weight}%: {canary} of {all} ({}..{})", band.0, band.1));
    }
    let alpha = TestLevel::DEFAULT.alpha;
    Verdict::of(holds, format!("{}; false alarm {alpha:e} each", parts.join(", ")))
        .with(&release.counts)
}

#[cfg(test)]
mod tests;
