//! Waits for conditions of the API: a predicate over the objects of a watch, with a timeout. An error
//! says what was awaited and what was last seen.

use crate::claim::Verdict;
use anyhow::Context as _;
use futures::StreamExt as _;
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
            Self::Environment { source, .. } => source.source(),
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
    let (store, writer) = reflector::store();
    // Boxed: the watcher's state would make the future of every phase large.
    let mut events = reflector(writer, watcher::watcher(api, selection)).default_backoff().boxed();
    let mut last_seen = "nothing".to_owned();
    let mut synced = false;
    loop {
        let event = match tokio::time::timeout_at(deadline, events.next()).await {
            Err(_) | Ok(None) => {
                let awaited = awaited.to_owned();
                tracing::info!(awaited, last_seen, ?timeout, "wait timed out");
                return Err(WaitError::TimedOut { awaited, last_seen, after: timeout });
            }
            Ok(Some(event)) => event,
        };
        match event {
            // The store shows the objects of a list when it is complete.
            Ok(Event::Init | Event::InitApply(_)) => continue,
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => synced = true,
            Err(error) if is_permanent(&error) => {
                let awaited = awaited.to_owned();
                return Err(WaitError::Environment { awaited, source: error.into() });
            }
            Err(error) => {
                tracing::debug!(awaited, %error, "watch interrupted");
                if !synced {
                    last_seen = format!("the API did not answer ({error})");
                }
                continue;
            }
        }
        let objects = store.state().into_iter().map(|object| (object.name_any(), object)).collect();
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
