//! A promotion as the article does it: sets the canary's image on production's Deployment and observes
//! the replica sets and pods.

use super::{
    namespace_client::NamespaceClient,
    pods::{self, names},
    wait::{self, Objects, Progress, split_infra_errors, until, with_note},
};
use crate::claim::Verdict;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The observations of a promotion.
#[derive(Debug)]
pub(crate) struct Promotion {
    /// Replica sets before and after, oldest first.
    sets: [Vec<ReplicaSet>; 2],
    /// The largest set of images that ready pods ran at the same time; the latest, if never more than
    /// one.
    images: BTreeSet<String>,
    /// The number of pods before, and of those left after.
    old: (usize, usize),
    /// Whether every pod runs the new image.
    moved: bool,
    /// The reason why the rollout did not complete, if so.
    rolled: Result<(), String>,
    seconds: f64,
}

impl NamespaceClient {
    /// Sets the image of a Deployment whose pods have these labels, and waits for the rollout.
    pub(crate) async fn promote(
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
            split_infra_errors(self.wait_rolled_out(deployment).await)
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
            images: images.into_inner().unwrap_or_else(PoisonError::into_inner),
            old: (old.len(), old.intersection(&names(&pods)).count()),
            moved: !pods.is_empty() && pods.iter().all(|pod| pods::image(pod) == image),
            rolled,
            seconds,
        })
    }

    /// Records the largest set of images that ready pods run at the same time, or the latest as long as
    /// there is only one.
    async fn watch_images(
        &self,
        labels: &str,
        images: &Mutex<BTreeSet<String>>,
    ) -> anyhow::Result<Result<(), String>> {
        let watched = until(
            self.api(),
            wait::Config::default().labels(labels),
            "end of the rollout",
            // Longer than the timeout of the rollout, which ends this watch.
            self.rollout() * 2,
            |pods: &Objects<Pod>| {
                let serving =
                    pods.values().filter(|pod| pods::is_ready(pod) && !pods::is_terminating(pod));
                let now: BTreeSet<String> =
                    serving.map(|pod| pods::image(pod).to_owned()).collect();
                let mut images = images.lock().unwrap_or_else(PoisonError::into_inner);
                if now.len() > images.len() || images.len() < 2 && !now.is_empty() {
                    *images = now;
                }
                Progress::<()>::Pending(String::new())
            },
        );
        split_infra_errors(watched.await)
    }
}

impl Promotion {
    /// Judges that a new replica set's pods replaced all old ones and that both images ran meanwhile.
    pub(crate) fn verdict(&self) -> Verdict {
        let Self { sets: [before, after], images, old: (old, left), moved, rolled, seconds } = self;
        let new_set = after.len() > before.len();
        let holds = rolled.is_ok() && *moved && *left == 0 && images.len() > 1 && new_set;
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let verdict = Verdict::of(
            holds,
            format!(
                "replica sets {} → {}; ready pods ran {} while it rolled for {seconds:.2} s; \
                 {left} of {old} old pods left",
                replica_counts(before),
                replica_counts(after),
                images.join(" and "),
            ),
        );
        with_note(verdict, rolled.clone())
    }
}

/// Formats the image and replicas of each set: `[kubeapp:1.0 ×3, kubeapp:2.0 ×0]`.
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
