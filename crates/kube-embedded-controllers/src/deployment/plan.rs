//! Plans the next step of one deployment, as Kubernetes' deployment controller does. The writes of a
//! step enqueue the deployment for the next one.

use super::{
    history::{self, age_order},
    limits::{Limits, size},
    status::{self, available, condition, existing},
};
use crate::{controller_ref::controller_of, pod::is_finished};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use std::{cmp::Reverse, sync::Arc, time::Duration};

/// One write or event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Create(Box<ReplicaSet>),
    Update {
        old: Arc<ReplicaSet>,
        new: Box<ReplicaSet>,
    },
    Delete(Arc<ReplicaSet>),
    /// Replaces the annotations of the deployment.
    Annotate(Box<Deployment>),
    UpdateStatus(Box<DeploymentStatus>),
    /// A `ScalingReplicaSet` event.
    Event(String),
}

/// The actions in order, and when to plan again if nothing changes until then.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) requeue_after: Option<Duration>,
}

/// Plans the next step. `sets` are those that the deployment controls, `pods` those of these sets.
pub(crate) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let newest = history::newest(deployment, sets)
        .and_then(|newest| sets.iter().position(|set| Arc::ptr_eq(set, newest)));
    let mut planner = Planner {
        before: deployment,
        after: deployment.clone(),
        limits: Limits::of(deployment),
        old: sets,
        sets: sets.iter().map(|set| (**set).clone()).collect(),
        newest,
        created: None,
        deleted: Vec::new(),
        now,
    };
    planner.step(pods)
}

/// The state of one plan.
struct Planner<'a> {
    before: &'a Deployment,
    after: Deployment,
    limits: Limits,
    old: &'a [Arc<ReplicaSet>],
    /// The desired sets, in the order of `old`.
    sets: Vec<ReplicaSet>,
    newest: Option<usize>,
    created: Option<ReplicaSet>,
    deleted: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
}

impl Planner<'_> {
    /// Plans one step: a paused or scaled deployment is only scaled, any other is rolled out.
    fn step(&mut self, pods: &[Arc<Pod>]) -> Plan {
        if self.before.metadata.deletion_timestamp.is_some() {
            return self.finish(false);
        }
        let mut known = self.after.status.take().unwrap_or_default();
        status::note_pause(self.before, &mut known, self.now);
        self.after.status = Some(known);
        if status::is_paused(self.before) || self.was_scaled() {
            self.sync_newest(false);
            self.scale();
            if status::is_paused(self.before) {
                self.clean_up_history();
            }
            return self.finish(false);
        }
        if self.limits.recreate {
            self.recreate(pods)
        } else {
            self.rolling_update()
        }
        if self.created.is_none() && status::is_complete(self.before, &self.status()) {
            self.clean_up_history();
        }
        self.finish(true)
    }

    /// Returns `true` if `replicas` has changed since the sets were sized.
    fn was_scaled(&self) -> bool {
        self.sets.iter().filter(|set| size(set) > 0).any(|set| {
            history::desired_noted(set).is_some_and(|desired| desired != self.limits.replicas)
        })
    }

    /// Returns the indexes of all sets but the newest, oldest first.
    fn others(&self) -> Vec<usize> {
        let mut others: Vec<usize> =
            (0..self.sets.len()).filter(|index| Some(*index) != self.newest).collect();
        others.sort_by_key(|index| self.sets.get(*index).map(|set| age_order(&set.metadata)));
        others
    }

    fn set(&self, index: usize) -> Option<&ReplicaSet> {
        self.sets.get(index)
    }

    fn size(&self, index: usize) -> i32 {
        self.set(index).map_or(0, size)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(size).sum()
    }

    /// Returns the number of pods that exist or may be created. A set that was scaled down counts
    /// with its pods until its status reports their deletion. Kubernetes counts the desired sizes
    /// alone, and transiently exceeds the surge when one replica set is faster than another.
    fn occupied(&self) -> i32 {
        self.sets.iter().map(|set| size(set).max(existing(set))).sum()
    }

    fn resize(&mut self, index: usize, replicas: i32) {
        let (desired, maximum) = (self.limits.replicas, self.limits.maximum());
        if let Some(set) = self.sets.get_mut(index) {
            set.spec.get_or_insert_default().replicas = Some(replicas.max(0));
            history::note_sizes(set, desired, maximum);
        }
    }

    /// Updates the revision and annotations of the newest set; creates the set if it is missing and
    /// `create` is true.
    fn sync_newest(&mut self, create: bool) {
        let others = self.others();
        let revisions = others.iter().filter_map(|i| history::revision_of(&self.set(*i)?.metadata));
        let revision = revisions.max().unwrap_or(0) + 1;
        let spec = self.before.spec.as_ref();
        let (revision, reason, message) = match self.newest {
            Some(newest) => {
                let Some(set) = self.sets.get_mut(newest) else { return };
                history::annotate(self.before, set, revision);
                let seconds = spec.and_then(|spec| spec.min_ready_seconds).filter(|s| *s != 0);
                set.spec.get_or_insert_default().min_ready_seconds = seconds;
                let revision = history::revision_of(&set.metadata).unwrap_or(revision);
                let name = set.metadata.name.clone().unwrap_or_default();
                (revision, "FoundNewReplicaSet", format!("Found new replica set {name:?}"))
            }
            None if create => {
                let replicas = self.limits.new_size(0, self.occupied());
                let maximum = self.limits.maximum();
                let set = history::new_replica_set(self.before, replicas, revision, maximum);
                let name = set.metadata.name.clone().unwrap_or_default();
                self.created = Some(set);
                (revision, "NewReplicaSetCreated", format!("Created new replica set {name:?}"))
            }
            None => return,
        };
        history::set_revision(&mut self.after, revision);
        let known = self.after.status.get_or_insert_default();
        let first = status::find(known, status::PROGRESSING).is_none();
        if status::deadline(self.before).is_some() && (first || self.created.is_some()) {
            status::set_condition(
                known,
                condition(status::PROGRESSING, "True", reason, message, self.now),
            );
        }
    }

    /// Distributes a changed number of replicas over the sets, in proportion to their sizes.
    fn scale(&mut self) {
        let active: Vec<usize> =
            (0..self.sets.len()).filter(|index| self.size(*index) > 0).collect();
        let only = match active.as_slice() {
            [] => self.newest.or_else(|| self.others().last().copied()),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(only) = only {
            return self.resize(only, self.limits.replicas);
        }
        if self.newest.is_some_and(|newest| self.is_saturated(newest)) {
            for index in self.others() {
                if self.size(index) > 0 {
                    self.resize(index, 0);
                }
            }
            return;
        }
        if self.limits.recreate {
            return;
        }
        let allowed = if self.limits.replicas > 0 { self.limits.maximum() } else { 0 };
        let add = allowed - active.iter().map(|index| self.size(*index)).sum::<i32>();
        let mut order = active;
        order.sort_by_key(|index| {
            let age = self.set(*index).map(|set| age_order(&set.metadata));
            let age: (_, Reverse<_>) =
                if add > 0 { (None, Reverse(age)) } else { (age, Reverse(None)) };
            (Reverse(self.size(*index)), age)
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for index in &order {
            let share = self.set(*index).map_or(0, |set| self.limits.proportion(set, add, added));
            added += share;
            sizes.push(self.size(*index) + share);
        }
        for (position, (index, replicas)) in order.into_iter().zip(sizes).enumerate() {
            let leftover = if position == 0 { add - added } else { 0 };
            self.resize(index, replicas + leftover);
        }
    }

    /// Returns `true` if the set has all replicas of the deployment, and all are available.
    fn is_saturated(&self, index: usize) -> bool {
        self.set(index).is_some_and(|set| {
            size(set) == self.limits.replicas
                && history::desired_noted(set) == Some(self.limits.replicas)
                && available(set) == self.limits.replicas
        })
    }

    /// Scales the newest set up, or old sets down, within the limits.
    fn rolling_update(&mut self) {
        self.sync_newest(true);
        let Some(newest) = self.newest else { return };
        let own = self.size(newest);
        let desired = if own > self.limits.replicas {
            self.limits.replicas
        } else {
            self.limits.new_size(own, self.occupied())
        };
        if desired != own {
            return self.resize(newest, desired);
        }
        // Unavailable pods of old sets are deleted first: that costs no availability.
        let starting = own - self.set(newest).map_or(0, available);
        let mut spare = self.total() - self.limits.minimum() - starting;
        if spare <= 0 {
            return;
        }
        let others = self.others();
        for index in &others {
            let healthy = self.set(*index).map_or(0, available);
            let fewer = (self.size(*index) - healthy).clamp(0, spare);
            if fewer > 0 {
                self.resize(*index, self.size(*index) - fewer);
                spare -= fewer;
            }
        }
        let mut spare = self.sets.iter().map(available).sum::<i32>() - self.limits.minimum();
        for index in others {
            let fewer = self.size(index).min(spare);
            if fewer > 0 {
                self.resize(index, self.size(index) - fewer);
                spare -= fewer;
            }
        }
    }

    /// Scales old sets to zero, waits for the end of their pods, and then scales the newest set up.
    fn recreate(&mut self, pods: &[Arc<Pod>]) {
        self.sync_newest(false);
        let others = self.others();
        let active: Vec<usize> = others.into_iter().filter(|i| self.size(*i) > 0).collect();
        if !active.is_empty() {
            return active.into_iter().for_each(|index| self.resize(index, 0));
        }
        let newest = self.newest.and_then(|index| self.set(index)?.metadata.uid.clone());
        let old_pod = |pod: &Arc<Pod>| {
            controller_of(&pod.metadata).is_some_and(|owner| Some(&owner.uid) != newest.as_ref())
                && !is_finished(pod)
        };
        if pods.iter().any(old_pod) {
            return;
        }
        match self.newest {
            None => self.sync_newest(true),
            Some(newest) if self.size(newest) != self.limits.replicas => {
                self.resize(newest, self.limits.replicas);
            }
            Some(_) => {}
        }
    }

    /// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
    fn clean_up_history(&mut self) {
        let limit = self.before.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut others = self.others();
        others.retain(|i| self.set(*i).is_some_and(|s| s.metadata.deletion_timestamp.is_none()));
        let surplus = others.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        others.sort_by_key(|i| self.set(*i).and_then(|s| history::revision_of(&s.metadata)));
        for index in others.into_iter().take(surplus) {
            let Some(old) = self.old.get(index) else { continue };
            let observed = old.status.as_ref().and_then(|status| status.observed_generation);
            let is_observed = observed >= old.metadata.generation;
            if existing(old) == 0 && self.size(index) == 0 && is_observed {
                self.deleted.push(old.clone());
            }
        }
    }

    /// Computes the status from the sets as planned.
    fn status(&self) -> DeploymentStatus {
        let known = self.after.status.clone().unwrap_or_default();
        let sets: Vec<&ReplicaSet> = self.sets.iter().chain(&self.created).collect();
        let newest = self.newest.and_then(|index| self.set(index)).or(self.created.as_ref());
        status::compute(self.before, &known, &sets, newest, self.now)
    }

    /// Returns the plan; with `check_progress`, its status reports progress and failures.
    fn finish(&mut self, check_progress: bool) -> Plan {
        let mut actions = Vec::new();
        if let Some(set) = self.created.clone() {
            let (name, replicas) = (set.metadata.name.clone().unwrap_or_default(), size(&set));
            actions.push(Action::Create(Box::new(set)));
            if replicas > 0 {
                let note = format!("Scaled up replica set {name} from 0 to {replicas}");
                actions.push(Action::Event(note));
            }
        }
        for (old, new) in self.old.iter().zip(&self.sets) {
            let is_deleted = self.deleted.iter().any(|deleted| Arc::ptr_eq(deleted, old));
            if is_deleted || **old == *new {
                continue;
            }
            actions.push(Action::Update { old: old.clone(), new: Box::new(new.clone()) });
            let (from, to) = (size(old), size(new));
            if from != to {
                let direction = if to > from { "up" } else { "down" };
                let name = old.metadata.name.as_deref().unwrap_or_default();
                let note = format!("Scaled {direction} replica set {name} from {from} to {to}");
                actions.push(Action::Event(note));
            }
        }
        actions.extend(self.deleted.drain(..).map(Action::Delete));
        if self.after.metadata != self.before.metadata {
            actions.push(Action::Annotate(Box::new(self.after.clone())));
        }
        let mut status = self.status();
        if check_progress {
            let before = self.before.status.clone().unwrap_or_default();
            let newest = self.newest.and_then(|index| self.set(index)).or(self.created.as_ref());
            status::update_progress(self.before, &before, &mut status, self.old, newest, self.now);
        }
        let requeue_after = status::check_after(self.before, &status, self.now);
        if self.before.status.as_ref() != Some(&status) {
            actions.push(Action::UpdateStatus(Box::new(status)));
        }
        Plan { actions, requeue_after }
    }
}

#[cfg(test)]
mod tests;
