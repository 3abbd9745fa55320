//! `--json`: every event as one line of JSON, as it happens, by `docs/labs-events.schema.json`. `run-ended`
//! is always the last line and is the summary: `claims` maps each claim to `holds`, `fails` or `skipped`;
//! `exitCode` is the exit code of the process.

use super::reporter::{Output, Reporter};
use crate::event::Stamped;
use std::io::{self, Write};

/// Writes events as JSON.
pub(super) struct Json<W> {
    out: Output<W>,
    progress: bool,
}

impl<W: Write> Json<W> {
    /// `progress`: with events of progress, about ten a second.
    pub(super) fn new(out: W, progress: bool) -> Self {
        Self { out: Output::new(out), progress }
    }
}

impl<W: Write> Reporter for Json<W> {
    fn event(&mut self, stamped: &Stamped) {
        if !self.progress && stamped.event.is_progress() {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(stamped) else { return };
        line.push(b'\n');
        self.out.write(&line);
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::fixture;

    fn lines(progress: bool) -> String {
        let mut json = Json::new(Vec::new(), progress);
        for (at, event) in fixture::events().into_iter().enumerate() {
            json.event(&Stamped { at: at as f64, lab: Some("phase4"), event });
        }
        String::from_utf8(json.out.writer).unwrap()
    }

    #[test]
    fn each_event_is_one_line_with_its_name() {
        insta::assert_snapshot!("json_report", lines(true));
    }

    #[test]
    fn progress_is_written_only_on_request() {
        let (all, quiet) = (lines(true), lines(false));
        assert_eq!(all.lines().count(), quiet.lines().count() + 7);
        assert!(all.contains("progress") && !quiet.contains("progress"), "{quiet}");
    }

    #[test]
    fn event_of_the_run_names_no_lab_and_line_breaks_are_escaped() {
        let mut json = Json::new(Vec::new(), true);
        json.event(&Stamped { at: 1.5, lab: None, event: Event::Progress { text: "1\n2".into() } });
        let line = String::from_utf8(json.out.writer).unwrap();
        assert_eq!(line, "{\"at\":1.5,\"event\":\"progress\",\"text\":\"1\\n2\"}\n");
    }
}
