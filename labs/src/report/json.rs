//! `--json`: every event as one line of JSON, as it happens. `run-ended` is always the last line and
//! is the summary: `claims` maps each claim to `holds`, `fails` or `skipped`; `exitCode` is what the
//! process exits with.

use super::Report;
use crate::event::Stamped;
use std::io::Write;

/// Writes to `out`.
pub(super) struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Report for Json<W> {
    fn event(&mut self, stamped: &Stamped) {
        let Ok(mut line) = serde_json::to_vec(stamped) else { return };
        line.push(b'\n');
        // A reader that has left must not stop the run from cleaning up.
        _ = self.out.write_all(&line).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{Outcome, Verdict};
    use crate::event::Event;

    fn line(lab: Option<&'static str>, event: Event) -> String {
        let mut json = Json::new(Vec::new());
        json.event(&Stamped { at: 1.5, lab, event });
        String::from_utf8(json.out).unwrap()
    }

    #[test]
    fn an_event_is_one_line_with_its_name() {
        let verdict = Verdict::holds("4460 of\n4460").with([1, 2]);
        let event = Event::ClaimJudged { claim: "some-claim", sentence: "It is so.", verdict };
        assert_eq!(
            line(Some("phase4"), event),
            concat!(
                r#"{"at":1.5,"lab":"phase4","event":"claim-judged","claim":"some-claim","#,
                r#""sentence":"It is so.","outcome":"holds","evidence":"4460 of\n4460","#,
                r#""data":[1,2]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_summary_has_every_claim_and_the_exit_code() {
        let event = Event::RunEnded {
            claims: [("a", Outcome::Holds), ("b", Outcome::Skipped)].into(),
            holds: 1,
            fails: 0,
            skipped: 1,
            errors: Vec::new(),
            exit_code: 0,
            seconds: 2.0,
        };
        let line = line(None, event);
        assert!(line.contains(r#""claims":{"a":"holds","b":"skipped"}"#), "{line}");
        assert!(line.contains(r#""exitCode":0"#), "{line}");
        assert!(!line.contains("lab"), "{line}");
    }
}
