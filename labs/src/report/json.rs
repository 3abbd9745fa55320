//! `--json`: every event as one line of JSON, as it happens. `run-ended` is always the last line and
//! is the summary: `claims` maps each claim to `holds`, `fails` or `skipped`; `exitCode` is the exit code
//! of the process.

use super::reporter::Reporter;
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

impl<W: Write> Reporter for Json<W> {
    fn event(&mut self, stamped: &Stamped) {
        let Ok(mut line) = serde_json::to_vec(stamped) else { return };
        line.push(b'\n');
        // A closed pipe must not keep the run from cleaning up.
        _ = self.out.write_all(&line).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::fixture;

    #[test]
    fn each_event_is_one_line_with_its_name() {
        let mut json = Json::new(Vec::new());
        for (at, event) in fixture::events().into_iter().enumerate() {
            json.event(&Stamped { at: at as f64, lab: Some("phase4"), event });
        }
        insta::assert_snapshot!("json_report", String::from_utf8(json.out).unwrap());
    }

    #[test]
    fn event_of_the_run_names_no_lab_and_line_breaks_are_escaped() {
        let mut json = Json::new(Vec::new());
        json.event(&Stamped { at: 1.5, lab: None, event: Event::Progress { text: "1\n2".into() } });
        let line = String::from_utf8(json.out).unwrap();
        assert_eq!(line, "{\"at\":1.5,\"event\":\"progress\",\"text\":\"1\\n2\"}\n");
    }
}
