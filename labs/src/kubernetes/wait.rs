//! Waits for conditions of the API: a predicate over the objects of a watch, with a timeout. An error
//! says what was awaited and what was last seen.

use crate::claim::Verdict;
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
pub(crate) use kube::runtime::watcher::Config;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, reflector},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The objects of a watch by name.
pub(crate) type Objects<K> = BTreeMap<String, Arc<K>>;

/// The result of a predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress<T> {
    /// The condition holds.
    Done(T),
    /// The condition does not hold yet; the current state, for the error on a timeout.
    Pending(String),
    /// The condition will never hold, and why: the wait ends before its timeout.
    Failed(String),
}

/// The reason why a wait ended without success.
#[derive(Debug)]
pub(crate) enum WaitError {
    /// The timeout passed.
    TimedOut {
        /// The condition awaited.
        awaited: String,
        /// The last state seen.
        last_seen: String,
        /// The timeout.
        after: Duration,
    },
    /// The cluster reported that the condition will never hold.
    Failed {
        /// The condition awaited.
        awaited: String,
        /// The cluster's reason.
        why: String,
    },
    /// The API server could not be reached, or the cluster lacks something that the labs provide (an
    /// image): nothing can be judged from this.
    Environment {
        /// The condition awaited.
        awaited: String,
        /// The cause.
        source: anyhow::Error,
    },
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TimedOut { awaited, last_seen, after } => {
                write!(f, "no {awaited} within {} s; last seen: {last_seen}", after.as_secs_f64())
            }
            Self::Failed { awaited, why } => write!(f, "no {awaited}: {why}"),
            Self::Environment { awaited, .. } => write!(f, "failed to wait for {awaited}"),
        }
    }
}

impl WaitError {
    /// Returns true if this was the last state seen before the timeout.
    pub(crate) fn last_seen_is(&self, what: &str) -> bool {
        matches!(self, Self::TimedOut { last_seen, .. } if last_seen == what)
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Environment { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Separates evidence from infrastructure errors: a wait that ended without success is evidence about a
/// claim (the inner `Err`), an unreachable API server is an error of the run.
///
/// # Errors
/// On [`WaitError::Environment`] alone.
pub(crate) fn split_infra_errors<T>(
    result: Result<T, WaitError>,
) -> anyhow::Result<Result<T, String>> {
    match result {
        Ok(found) => Ok(Ok(found)),
        Err(WaitError::Environment { awaited, source }) => {
            Err(source).with_context(|| format!("failed to wait for {awaited}"))
        }
        Err(other) => Ok(Err(other.to_string())),
    }
}

/// Notes in a verdict that a wait before the measurement failed. The outcome stays.
pub(crate) fn with_note(verdict: Verdict, awaited: Result<(), String>) -> Verdict {
    match awaited {
        Ok(()) => verdict,
        Err(why) => Verdict { evidence: format!("{}; before: {why}", verdict.evidence), ..verdict },
    }
}

/// Watches the selected objects and evaluates `predicate` at first and after every change, until it is
/// done. `awaited` completes the sentence "no …": `rollout of kubeapp-production`.
///
/// # Errors
/// See [`WaitError`]. A watch that breaks is restarted until the timeout; one that the API server
/// rejects is an error at once.
pub(crate) async fn until<K, T>(
    api: Api<K>,
    selection: Config,
    awaited: &str,
    timeout: Duration,
    mut predicate: impl FnMut(&Objects<K>) -> Progress<T>,
) -> Result<T, WaitError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    let deadline = tokio::time::Instant::from(Instant::now() + timeout);
    let mut watch = Watch::new(api, selection);
    let mut last_seen = "nothing".to_owned();
    let mut synced = false;
    loop {
        let objects = match tokio::time::timeout_at(deadline, watch.next()).await {
            Err(_) => {
                let awaited = awaited.to_owned();
                tracing::info!(awaited, last_seen, ?timeout, "wait timed out");
                return Err(WaitError::TimedOut { awaited, last_seen, after: timeout });
            }
            Ok(Ok(objects)) => objects,
            Ok(Err(error)) if is_permanent(&error) => {
                let awaited = awaited.to_owned();
                return Err(WaitError::Environment { awaited, source: error.into() });
            }
            Ok(Err(error)) => {
                tracing::debug!(awaited, %error, "watch interrupted");
                if !synced {
                    last_seen = format!("the API did not respond ({error})");
                }
                continue;
            }
        };
        synced = true;
        match predicate(&objects) {
            Progress::Done(found) => {
                tracing::debug!(awaited, "wait succeeded");
                return Ok(found);
            }
            Progress::Pending(state) => last_seen = state,
            Progress::Failed(why) => {
                tracing::info!(awaited, why, "wait failed");
                return Err(WaitError::Failed { awaited: awaited.to_owned(), why });
            }
        }
    }
}

/// Watches the selected objects until `state` has returned the same for `duration`, and returns that.
/// Never completes if the watch is rejected: another wait reports that.
pub(crate) async fn lasting<K, S>(
    api: Api<K>,
    selection: Config,
    duration: Duration,
    state: impl Fn(&Objects<K>) -> Option<S>,
) -> S
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
    S: PartialEq + Clone,
{
    let mut watch = Watch::new(api, selection);
    let mut current: Option<(S, tokio::time::Instant)> = None;
    loop {
        let changed = match &current {
            None => watch.next().await,
            Some((found, until)) => match tokio::time::timeout_at(*until, watch.next()).await {
                Ok(changed) => changed,
                Err(_) => return found.clone(),
            },
        };
        let Ok(objects) = changed else { continue };
        let now = state(&objects);
        if now.as_ref() != current.as_ref().map(|(found, _)| found) {
            let until = (Instant::now() + duration).into();
            current = now.map(|found| (found, until));
        }
    }
}

/// A watch with a store of its objects.
struct Watch<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: reflector::Store<K>,
    events: BoxStream<'static, Result<Event<K>, watcher::Error>>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    fn new(api: Api<K>, selection: Config) -> Self {
        let (store, writer) = reflector::store();
        let events = reflector(writer, watcher::watcher(api, selection)).default_backoff().boxed();
        Self { store, events }
    }

    /// Returns all objects after the next change. May be dropped and called again.
    async fn next(&mut self) -> Result<Objects<K>, watcher::Error> {
        loop {
            match self.events.next().await {
                // The store shows the objects of a list when it is complete.
                Some(Ok(Event::Init | Event::InitApply(_))) => {}
                Some(Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_))) => {
                    let objects = self.store.state().into_iter();
                    return Ok(objects.map(|object| (object.name_any(), object)).collect());
                }
                Some(Err(error)) => return Err(error),
                // A watcher does not end.
                None => std::future::pending().await,
            }
        }
    }
}

/// Selects one object by name.
pub(crate) fn by_name(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}

/// Returns true if a retry would be rejected again. 410 asks for a new list, which the watcher does; 408
/// and 429 ask for a retry.
fn is_permanent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    (400..500).contains(&status.code) && !matches!(status.code, 408 | 410 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_errors_name_condition_and_last_state() {
        let after = Duration::from_millis(1500);
        let timed_out = |last_seen: &str| WaitError::TimedOut {
            awaited: "address of app-lb".into(),
            last_seen: last_seen.into(),
            after,
        };
        assert_eq!(
            timed_out("none").to_string(),
            "no address of app-lb within 1.5 s; last seen: none"
        );
        let failed = WaitError::Failed { awaited: "rollout".into(), why: "no such image".into() };
        assert_eq!(failed.to_string(), "no rollout: no such image");
        let evidence = split_infra_errors::<()>(Err(failed)).unwrap();
        assert_eq!(evidence, Err("no rollout: no such image".into()));
        let broken = WaitError::Environment {
            awaited: "rollout".into(),
            source: anyhow::anyhow!("forbidden"),
        };
        let error = format!("{:#}", split_infra_errors::<()>(Err(broken)).unwrap_err());
        assert_eq!(error, "failed to wait for rollout: forbidden");
    }
}
