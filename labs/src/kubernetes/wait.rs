//! Waiting is a predicate over what the API shows, with a deadline: a watch feeds it, nothing sleeps.
//! An error says what was awaited and what was last seen.

use crate::claim::Verdict;
use anyhow::Context as _;
use futures::{StreamExt as _, pin_mut};
pub use kube::runtime::watcher::Config;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// What a predicate makes of the objects it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// What was awaited is there.
    Done(T),
    /// Not yet; what there is instead, for the error on a time-out.
    Waiting(String),
    /// It will never come, and why: no need to wait for the deadline.
    Never(String),
}

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub enum WaitError {
    /// The deadline passed.
    TimedOut {
        /// What was awaited.
        awaited: String,
        /// What was seen last.
        seen: String,
        /// The deadline.
        after: Duration,
    },
    /// The cluster said that it will not come.
    Never {
        /// What was awaited.
        awaited: String,
        /// What the cluster said.
        why: String,
    },
    /// The API could not be asked, or the cluster lacks what the labs bring (an image): nothing can be
    /// judged by this.
    Environment {
        /// What was awaited.
        awaited: String,
        /// What went wrong.
        source: anyhow::Error,
    },
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TimedOut { awaited, seen, after } => {
                write!(f, "no {awaited} within {} s; last seen: {seen}", after.as_secs_f64())
            }
            Self::Never { awaited, why } => write!(f, "no {awaited}: {why}"),
            Self::Environment { awaited, .. } => write!(f, "failed to wait for {awaited}"),
        }
    }
}

impl WaitError {
    /// Whether the deadline passed with this before its eyes.
    pub fn last_saw(&self, what: &str) -> bool {
        matches!(self, Self::TimedOut { seen, .. } if seen == what)
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

/// Separates what speaks about a claim from what does not: a wait that ended without its object is
/// evidence (inner `Err`), an API that could not be asked is an error of the run.
///
/// # Errors
/// On [`WaitError::Environment`] alone.
pub fn evidence<T>(result: Result<T, WaitError>) -> anyhow::Result<Result<T, String>> {
    match result {
        Ok(found) => Ok(Ok(found)),
        Err(WaitError::Environment { awaited, source }) => {
            Err(source).with_context(|| format!("failed to wait for {awaited}"))
        }
        Err(other) => Ok(Err(other.to_string())),
    }
}

/// Adds to a verdict what could not be awaited before it was measured; the outcome stays.
pub fn noting(verdict: Verdict, awaited: Result<(), String>) -> Verdict {
    match awaited {
        Ok(()) => verdict,
        Err(why) => Verdict { evidence: format!("{}; before: {why}", verdict.evidence), ..verdict },
    }
}

/// Shows `judge` all selected objects by name, at first and after every change, until it is done.
/// `awaited` completes the sentence "no …": `rollout of kubeapp-production`.
///
/// # Errors
/// See [`WaitError`]. A watch that breaks is opened again until the deadline; one that the API
/// refuses is an error at once.
pub async fn until<K, T>(
    api: Api<K>,
    selection: Config,
    awaited: &str,
    patience: Duration,
    mut judge: impl FnMut(&BTreeMap<String, K>) -> Seen<T>,
) -> Result<T, WaitError>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let deadline = tokio::time::Instant::from(Instant::now() + patience);
    let events = watcher::watcher(api, selection).default_backoff();
    pin_mut!(events);
    let (mut objects, mut complete) = (BTreeMap::new(), false);
    let mut seen = "nothing".to_owned();
    loop {
        let event = match tokio::time::timeout_at(deadline, events.next()).await {
            Err(_) | Ok(None) => {
                let awaited = awaited.to_owned();
                return Err(WaitError::TimedOut { awaited, seen, after: patience });
            }
            Ok(Some(event)) => event,
        };
        match event {
            Ok(Event::Init) => {
                objects.clear();
                complete = false;
            }
            Ok(Event::InitApply(object)) => _ = objects.insert(object.name_any(), object),
            Ok(Event::InitDone) => complete = true,
            Ok(Event::Apply(object)) => _ = objects.insert(object.name_any(), object),
            Ok(Event::Delete(object)) => _ = objects.remove(&object.name_any()),
            Err(error) if refused(&error) => {
                let awaited = awaited.to_owned();
                return Err(WaitError::Environment { awaited, source: error.into() });
            }
            Err(error) => seen = format!("the API did not answer ({error})"),
        }
        if complete {
            match judge(&objects) {
                Seen::Done(found) => return Ok(found),
                Seen::Waiting(what) => seen = what,
                Seen::Never(why) => {
                    return Err(WaitError::Never { awaited: awaited.to_owned(), why });
                }
            }
        }
    }
}

/// Selects one object by name.
pub fn named(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}

/// Whether asking again would get the same refusal. 410 asks for a new list, which the watcher does;
/// 429 asks for patience.
fn refused(error: &watcher::Error) -> bool {
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
    fn errors_say_what_was_awaited_and_seen() {
        let after = Duration::from_millis(1500);
        let timed_out = |seen: &str| WaitError::TimedOut {
            awaited: "address of app-lb".into(),
            seen: seen.into(),
            after,
        };
        assert_eq!(
            timed_out("none").to_string(),
            "no address of app-lb within 1.5 s; last seen: none"
        );
        let never = WaitError::Never { awaited: "rollout".into(), why: "no such image".into() };
        assert_eq!(never.to_string(), "no rollout: no such image");
        assert_eq!(evidence::<()>(Err(never)).unwrap(), Err("no rollout: no such image".into()));
        let broken = WaitError::Environment {
            awaited: "rollout".into(),
            source: anyhow::anyhow!("forbidden"),
        };
        let said = format!("{:#}", evidence::<()>(Err(broken)).unwrap_err());
        assert_eq!(said, "failed to wait for rollout: forbidden");
    }
}
