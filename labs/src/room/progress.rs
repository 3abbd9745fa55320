//! What participants report, and what is kept of it. Pure.

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// The number of participants that are shown; more are refused.
pub(super) const PARTICIPANTS: usize = 200;
/// The number of characters of a name, a lab or a step, and of claims.
const CHARACTERS: usize = 80;
const CLAIMS: usize = 64;
/// The states of a claim.
const WORDS: [&str; 4] = ["open", "holds", "fails", "skipped"];

/// The progress of one participant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// The participant's name.
    pub name: String,
    /// The lab.
    pub lab: String,
    /// The step in progress.
    pub step: String,
    /// Each claim of the lab, in its order, and its state.
    pub claims: Vec<(String, String)>,
}

impl Progress {
    /// Reads a report.
    ///
    /// # Errors
    /// If it is not one.
    pub(super) fn read(body: &[u8]) -> anyhow::Result<Self> {
        let progress: Self = serde_json::from_slice(body).context("not a report of progress")?;
        let Self { name, lab, step, claims } = &progress;
        let ids = claims.iter().flat_map(|(claim, word)| [claim, word]);
        for text in [name, lab, step].into_iter().chain(ids) {
            let fits = text.chars().count() <= CHARACTERS && !text.chars().any(char::is_control);
            ensure!(
                fits,
                "a text is longer than {CHARACTERS} characters, or has control characters"
            );
        }
        ensure!(!name.trim().is_empty(), "the name is empty");
        ensure!(claims.len() <= CLAIMS, "more than {CLAIMS} claims");
        let known = |(_, word): &(String, String)| WORDS.contains(&&**word);
        ensure!(claims.iter().all(known), "a claim is {}", WORDS.join(", "));
        Ok(progress)
    }
}

/// Everybody's progress, by name.
#[derive(Debug, Default)]
pub(super) struct Participants(BTreeMap<String, (Progress, Instant)>);

impl Participants {
    /// Takes in a report. Returns false if there is no room for another participant.
    pub(super) fn report(&mut self, progress: Progress, now: Instant) -> bool {
        if self.0.len() >= PARTICIPANTS && !self.0.contains_key(&progress.name) {
            return false;
        }
        self.0.insert(progress.name.clone(), (progress, now));
        true
    }

    /// Returns what the page shows.
    pub(super) fn state(&self, now: Instant) -> Value {
        let all = self.0.values().map(|(progress, at)| {
            let silent = now.saturating_duration_since(*at).as_secs();
            json!({"progress": progress, "silent": silent})
        });
        json!({ "participants": all.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(name: &str) -> Progress {
        let claims = vec![("a-claim".to_owned(), "holds".to_owned())];
        Progress { name: name.into(), lab: "phase4".into(), step: "join".into(), claims }
    }

    #[test]
    fn report_is_read_and_anything_else_is_refused() {
        let good = serde_json::to_value(progress("Ada")).unwrap();
        let read = |value: &Value| Progress::read(value.to_string().as_bytes());
        assert_eq!(read(&good).unwrap(), progress("Ada"));
        for (field, value) in [
            ("name", json!(" ")),
            ("name", json!("x".repeat(81))),
            ("name", json!("a\nb")),
            ("claims", json!([["a-claim", "perhaps"]])),
            ("claims", json!(vec![["a", "holds"]; 65])),
            ("more", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[field] = value.clone();
            assert!(read(&bad).is_err(), "{field}: {value}");
        }
        assert!(Progress::read(b"[").is_err());
    }

    #[test]
    fn the_latest_report_of_each_counts_and_their_number_is_limited() {
        let (mut all, now) = (Participants::default(), Instant::now());
        for number in 0..PARTICIPANTS {
            assert!(all.report(progress(&number.to_string()), now));
        }
        assert!(!all.report(progress("late"), now));
        assert!(all.report(Progress { step: "even".into(), ..progress("0") }, now));
        let state = all.state(now);
        let participants = state["participants"].as_array().unwrap();
        assert_eq!(participants.len(), PARTICIPANTS);
        assert_eq!(participants[0]["progress"]["step"], "even");
        assert_eq!(participants[0]["silent"], 0);
    }
}
