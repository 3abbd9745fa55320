//! Traffic in the background, which catches a request that fails while a participant changes something.

use super::view::{Published, View};
use crate::check::{Judgment, State, expected::Rules};
use crate::lab::Lab;
use crate::sampler::Sampler;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The interval of requests to each host: a failure is seen at once, and it is little enough to run for hours.
const INTERVAL: Duration = Duration::from_millis(10);
const IN_FLIGHT: usize = 8;
/// The requests after new rules that show whether they did harm.
const AFTER_RULES: u64 = 100;
const PRODUCTION: &str = "app=kubeapp,env=production";
const STABLE_HOST: &str = "foo.bar";

/// The requests to one host so far.
#[derive(Clone, Debug, Default)]
struct Tally {
    sent: u64,
    failed: u64,
    versions: BTreeMap<String, u64>,
}

impl Tally {
    fn since(&self, before: &Self) -> Self {
        let versions = self.versions.iter().map(|(version, count)| {
            (version.clone(), count - before.versions.get(version).unwrap_or(&0))
        });
        Self {
            sent: self.sent - before.sent,
            failed: self.failed - before.failed,
            versions: versions.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

type Tallies = BTreeMap<&'static str, Tally>;

/// Background traffic to where the app is published, and what it has seen of a promotion or of new rules.
#[derive(Default)]
pub(super) struct Traffic {
    at: Option<Published>,
    senders: JoinSet<()>,
    counts: BTreeMap<&'static str, Arc<Mutex<Tally>>>,
    /// As of the last look: a change happened after it.
    last: Tallies,
    /// When production began to run two images.
    rollout: Option<Tallies>,
    rules: Option<Rules>,
    /// When the rules were added.
    added: Option<Tallies>,
}

impl Traffic {
    /// Sends requests to where the app is published, and judges a change that is over.
    pub(super) fn observe(
        &mut self,
        view: &View,
        lab: &'static Lab,
        timeout: Duration,
    ) -> Vec<Judgment> {
        let at = view.published(lab);
        if at != self.at {
            self.start(at, timeout);
        }
        let now = self.counts.iter().map(|(name, tally)| {
            (*name, tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
        });
        let now: Tallies = now.collect();
        let found = [self.promotion(view, lab, &now), self.rules(view, lab, &now)];
        self.last = now;
        found.into_iter().flatten().collect()
    }

    fn start(&mut self, at: Option<Published>, timeout: Duration) {
        // Dropping the senders aborts them.
        *self = Self { at, rules: self.rules, ..Self::default() };
        let Some(Published { host, port, names }) = &self.at else { return };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        for name in if names.is_empty() { &[""] } else { *names } {
            let tally = Arc::new(Mutex::new(Tally::default()));
            self.counts.insert(name, tally.clone());
            self.senders.spawn(send(format!("{host}:{port}"), *port, name, timeout, tally));
        }
    }

    /// Judges a rollout of production once no pod of the old image is left.
    fn promotion(&mut self, view: &View, lab: &'static Lab, now: &Tallies) -> Option<Judgment> {
        let claims = ["promotion-drops-nothing", "ingress-promotes"];
        let claim = lab.claims.iter().find(|claim| claims.contains(&claim.id))?.id;
        if view.images(PRODUCTION).len() > 1 {
            self.rollout.get_or_insert_with(|| self.last.clone());
            return None;
        }
        let before = self.rollout.take()?;
        judge(claim, "while production was promoted", &before, now, |_, _| true)
    }

    /// Judges that stable's requests were not affected by rules for the canary.
    fn rules(&mut self, view: &View, lab: &'static Lab, now: &Tallies) -> Option<Judgment> {
        let claim = lab.claims.iter().find(|claim| claim.id == "stable-unaffected")?.id;
        let rules = view.ingress("app-ingress").map(Rules::of);
        if rules == Some(Rules::Hosts) && self.rules == Some(Rules::None) {
            self.added = Some(self.last.clone());
        }
        self.rules = rules;
        let sent = |tallies: &Tallies| tallies.get(STABLE_HOST).map_or(0, |tally| tally.sent);
        self.added.as_ref().filter(|added| sent(now) >= sent(added) + AFTER_RULES)?;
        let before = self.added.take()?;
        let only_stable =
            |host: &str, tally: &Tally| host != STABLE_HOST || tally.versions.len() == 1;
        judge(claim, "while the rules were added", &before, now, only_stable)
    }
}

/// Judges the requests since `before`; `None` if there were none.
fn judge(
    claim: &'static str,
    meanwhile: &str,
    before: &Tallies,
    now: &Tallies,
    right: impl Fn(&str, &Tally) -> bool,
) -> Option<Judgment> {
    let none = Tally::default();
    let since = |(host, tally): (&&'static str, &Tally)| {
        (*host, tally.since(before.get(host).unwrap_or(&none)))
    };
    let parts: Vec<(&str, Tally)> = now.iter().map(since).filter(|(_, t)| t.sent > 0).collect();
    let holds = parts.iter().all(|(host, tally)| tally.failed == 0 && right(host, tally));
    let text = parts.iter().map(|(host, tally)| {
        let versions: Vec<_> =
            tally.versions.iter().map(|(version, n)| format!("{n} got {version}")).collect();
        let host = if host.is_empty() { String::new() } else { format!("{host}: ") };
        format!("{host}{} of {} requests failed, {}", tally.failed, tally.sent, versions.join(", "))
    });
    let evidence = format!("{meanwhile}, {}", text.collect::<Vec<_>>().join("; "));
    let state = if holds { State::Holds } else { State::Fails };
    let command = "kubectl --all-namespaces get events --sort-by=.lastTimestamp".to_owned();
    (!parts.is_empty()).then_some(Judgment { claim, state, evidence, command })
}

/// Sends requests until it is aborted.
async fn send(
    authority: String,
    port: u16,
    name: &'static str,
    timeout: Duration,
    tally: Arc<Mutex<Tally>>,
) {
    let mut pace = tokio::time::interval(INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let sampler = loop {
        pace.tick().await;
        // A name may take a while to be known.
        if let Ok(sampler) = Sampler::to(&format!("http://{authority}/version"), timeout).await {
            break sampler;
        }
    };
    let sampler = match (name, port) {
        ("", _) => sampler,
        (name, 80) => sampler.host(name),
        (name, port) => sampler.host(&format!("{name}:{port}")),
    };
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = pace.tick(), if in_flight.len() < IN_FLIGHT => in_flight.push(sampler.request()),
            Some(result) = in_flight.next() => {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.sent += 1;
                match result {
                    Ok(reply) => *tally.versions.entry(reply.version.unwrap_or_default()).or_default() += 1,
                    Err(_) => tally.failed += 1,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(sent: u64, failed: u64, versions: &[(&str, u64)]) -> Tally {
        let versions = versions.iter().map(|(version, n)| ((*version).to_owned(), *n));
        Tally { sent, failed, versions: versions.collect() }
    }

    #[test]
    fn requests_since_a_change_are_judged() {
        let before = Tallies::from([("foo.bar", tally(10, 4, &[("1.0", 6)]))]);
        let judge = |now, right: bool| {
            let now = Tallies::from([("foo.bar", now)]);
            judge("c", "meanwhile", &before, &now, |_, _| right)
        };
        let good = tally(20, 4, &[("1.0", 6), ("2.0", 10)]);
        let found = judge(good.clone(), true).unwrap();
        let evidence = "meanwhile, foo.bar: 0 of 10 requests failed, 10 got 2.0";
        assert_eq!((found.state, &*found.evidence), (State::Holds, evidence));
        assert_eq!(judge(good, false).unwrap().state, State::Fails);
        assert_eq!(judge(tally(20, 5, &[]), true).unwrap().state, State::Fails);
        assert!(judge(tally(10, 4, &[]), true).is_none(), "nothing was sent");
    }
}
