//! A promotion as the article does it: the canary's image set on production's Deployment, and what its
//! replica sets and pods do then.

use super::{
    Scope,
    pods::{self, names},
    wait::{self, Seen, evidence, noting, until},
};
use crate::claim::Verdict;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What became of a promotion.
#[derive(Debug)]
pub struct Promotion {
    /// Replica sets before and after, oldest first.
    sets: [Vec<ReplicaSet>; 2],
    /// Images that ready pods ran at one moment: that with the most, or the last there was seen of
    /// one alone.
    seen: BTreeSet<String>,
    /// Pods there were before, and how many of them are left.
    old: (usize, usize),
    /// Whether every pod runs the new image.
    moved: bool,
    /// Why the rollout did not end.
    rolled: Result<(), String>,
    seconds: f64,
}

impl Scope {
    /// Sets the image of a Deployment whose pods have these labels, and waits for the rollout.
    pub async fn promote(
        &self,
        deployment: &str,
        labels: &str,
        container: &str,
        image: &str,
    ) -> anyhow::Result<Promotion> {
        let started = Instant::now();
        let before = self.replica_sets(deployment).await?;
        let old = names(&self.pods(labels).await?);
        let images = Mutex::new(BTreeSet::new());
        let watching = self.watch_images(labels, &images);
        let rolling = async {
            self.set_image(deployment, container, image).await?;
            evidence(self.rolled_out(deployment).await)
        };
        let rolled = tokio::select! {
            rolled = rolling => rolled?.map(drop),
            watched = watching => watched?,
        };
        let seconds = started.elapsed().as_secs_f64();
        let after = self.replica_sets(deployment).await?;
        let pods = self.pods(labels).await?;
        Ok(Promotion {
            sets: [before, after],
            seen: images.into_inner().unwrap_or_else(PoisonError::into_inner),
            old: (old.len(), old.intersection(&names(&pods)).count()),
            moved: !pods.is_empty() && pods.iter().all(|pod| pods::image(pod) == image),
            rolled,
            seconds,
        })
    }

    /// Keeps the images that ready pods run at the moment with the most of them; as long as there was
    /// never more than one, the last one seen.
    async fn watch_images(
        &self,
        labels: &str,
        images: &Mutex<BTreeSet<String>>,
    ) -> anyhow::Result<Result<(), String>> {
        let watched = until(
            self.api(),
            wait::Config::default().labels(labels),
            "end of the rollout",
            // Longer than the rollout may take: that one ends the watch.
            self.rollout * 2,
            |pods: &BTreeMap<String, Pod>| {
                let wanted =
                    pods.values().filter(|pod| pods::is_ready(pod) && pods::is_wanted(pod));
                let now: BTreeSet<String> = wanted.map(|pod| pods::image(pod).to_owned()).collect();
                let mut images = images.lock().unwrap_or_else(PoisonError::into_inner);
                if now.len() > images.len() || images.len() < 2 && !now.is_empty() {
                    *images = now;
                }
                Seen::<()>::Waiting(String::new())
            },
        );
        evidence(watched.await)
    }
}

impl Promotion {
    /// Whether new pods took the place of old ones, a new replica set made them, and both images were
    /// seen on the way.
    pub fn verdict(&self) -> Verdict {
        let Self { sets: [before, after], seen, old: (old, left), moved, rolled, seconds } = self;
        let new_set = after.len() > before.len();
        let holds = rolled.is_ok() && *moved && *left == 0 && seen.len() > 1 && new_set;
        let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
        let verdict = Verdict::of(
            holds,
            format!(
                "replica sets {} → {}; ready pods ran {} while it rolled for {seconds:.2} s; \
                 {left} of {old} old pods left",
                replica_counts(before),
                replica_counts(after),
                seen.join(" and "),
            ),
        );
        noting(verdict, rolled.clone())
    }
}

/// `[kubeapp:1.0 ×3, kubeapp:2.0 ×0]`: the image and the replicas of each.
fn replica_counts(sets: &[ReplicaSet]) -> String {
    let one = |set: &ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let containers = template.and_then(|t| t.spec.as_ref()).map(|spec| &spec.containers);
        let image = containers.and_then(|all| all.first()?.image.clone()).unwrap_or_default();
        let replicas = set.status.as_ref().map_or(0, |status| status.replicas);
        format!("{image} ×{replicas}")
    };
    format!("[{}]", sets.iter().map(one).collect::<Vec<_>>().join(", "))
}
