//! The record of a cluster, `cluster.json`: written before creation begins, so that a run that was
//! killed leaves a cluster that the next one knows, and a cluster without a record is never touched.

use super::spec::{Overrides, Spec};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// The content of `cluster.json`. The aliases are the names in records of earlier versions.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: Spec,
    pub(crate) state: State,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// True if `up` created it; false if a lab created it for itself.
    #[serde(alias = "stays")]
    pub(crate) persistent: bool,
    /// Names and digests of the images that its nodes have.
    pub(crate) images: BTreeMap<String, String>,
}

/// The progress of a creation or deletion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its creation or its removal has begun.
    #[serde(alias = "half")]
    Incomplete,
    Up,
}

impl Record {
    /// Returns what to record of a cluster that a run uses as `spec`. Overrides of a `persistent` run
    /// are for the labs that follow; those of a lab are not recorded.
    pub(crate) fn update(previous: Option<Self>, spec: &Spec, persistent: bool) -> Self {
        let previous = previous.unwrap_or_else(|| Self {
            spec: Spec { overrides: Overrides::default(), ..spec.clone() },
            state: State::Incomplete,
            since: unix_now(),
            persistent,
            images: BTreeMap::new(),
        });
        match persistent {
            true => Self { spec: spec.clone(), persistent, ..previous },
            false => previous,
        }
    }

    /// Returns the record of the same cluster before it is created (again).
    pub(crate) fn reset(self) -> Self {
        let (state, since) = (State::Incomplete, unix_now());
        Self { state, since, images: BTreeMap::new(), ..self }
    }
}

/// Returns the time in seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_an_earlier_version_is_read() {
        let old = r#"{"spec": {"name": "n", "image": "i", "choices": {"pull_secret": "login",
            "ingress_class": null, "edge": true}, "nodes": 3}, "state": "half", "since": 7,
            "stays": true, "images": {"kubeapp:1.0": "sha256:0"}}"#;
        let record: Record = serde_json::from_str(old).unwrap();
        assert_eq!((record.state, record.persistent), (State::Incomplete, true));
        assert_eq!(record.spec.overrides.pull_secret.as_deref(), Some("login"));
        assert!(record.spec.overrides.edge && record.spec.nodes == 3);
        let again: Record = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(again.spec, record.spec);
    }
}
