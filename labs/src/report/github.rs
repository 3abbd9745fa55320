//! In GitHub Actions: a job summary (`$GITHUB_STEP_SUMMARY`), and an annotation for each claim that fails
//! and each error, by the workflow commands of its documentation.

use super::reporter::{Output, Reporter};
use crate::claim::{Outcome, Verdict};
use crate::event::{Event, Stamped};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes annotations as they happen, and the summary at the end.
pub(super) struct Github<A, S> {
    annotations: Output<A>,
    /// Absent if the runner names no file.
    summary: Option<Output<S>>,
    provider: String,
    text: String,
    diagnosis: Option<String>,
}

impl<A: Write, S: Write> Github<A, S> {
    pub(super) fn new(annotations: A, summary: Option<S>) -> Self {
        Self {
            annotations: Output::new(annotations),
            summary: summary.map(Output::new),
            provider: String::new(),
            text: String::new(),
            diagnosis: None,
        }
    }

    fn annotate(&mut self, title: &str, message: &str) {
        let line = format!("::error title={}::{}\n", property(title), data(message));
        self.annotations.write(line.as_bytes());
    }

    fn judged(&mut self, claim: &str, sentence: &str, verdict: &Verdict) {
        let word = match verdict.outcome {
            Outcome::Holds => "✅ holds",
            Outcome::Fails => "❌ fails",
            Outcome::Skipped => "⏭️ skipped",
        };
        // Writing to a string does not fail.
        _ = writeln!(
            self.text,
            "| {word} | {} `{claim}` | {} |",
            markup(sentence),
            markup(&verdict.evidence)
        );
        if verdict.outcome == Outcome::Fails {
            let diagnosis = self.diagnosis.clone().unwrap_or_default();
            let message = format!("{sentence}\n{}\n{diagnosis}", verdict.evidence);
            self.annotate(claim, message.trim_end());
        }
    }
}

/// Escapes the value of a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Escapes the message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Marks up a sentence for a cell of a table.
fn markup(text: &str) -> String {
    super::text::sentence(text, cell)
}

/// Escapes text for a cell of a table: no markup, no line break, no end of the cell.
fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '@' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

impl<A: Write, S: Write> Reporter for Github<A, S> {
    fn event(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::RunStarted { provider, .. } => self.provider.clone_from(provider),
            Event::LabStarted { title, .. } => {
                let lab = stamped.lab.unwrap_or("?");
                _ = write!(
                    self.text,
                    "\n### {lab}: {title}\n\n| verdict | claim | evidence |\n|---|---|---|\n"
                );
            }
            Event::ClaimJudged { claim, sentence, verdict } => {
                self.judged(claim, sentence, verdict)
            }
            Event::Diagnosis { layer, reason, command, .. } => {
                let layer = layer.map_or("unknown", |layer| layer.word());
                let mut text = format!("at fault: {layer}: {reason}");
                command.iter().for_each(|command| text += &format!("\nto see it: {command}"));
                self.diagnosis = Some(text);
            }
            Event::LabEnded { .. } => {
                if let Some(diagnosis) = self.diagnosis.take() {
                    // An indented block ends only with its indentation.
                    let block = diagnosis.replace('\n', "\n    ");
                    _ = write!(self.text, "\n    {block}\n");
                }
            }
            Event::RunEnded { holds, fails, skipped, errors, exit_code, seconds, .. } => {
                for error in errors {
                    self.annotate("environment", error);
                }
                let result = super::terminal::result(*exit_code, *fails, *skipped);
                let (provider, text) = (cell(&self.provider), std::mem::take(&mut self.text));
                let mut page = format!(
                    "## Canary Labs on {provider}: {result}\n\n{holds} hold, {fails} fail, {skipped} skipped, {seconds:.1} s in all\n"
                );
                for error in errors {
                    page += &format!("\n> ❗ {}\n", markup(error));
                }
                page += &text;
                if let Some(summary) = &mut self.summary {
                    summary.write(page.as_bytes());
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let summary = self.summary.as_mut().map_or(Ok(()), Output::result);
        self.annotations.result().and(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn summary_and_annotations_tell_what_failed() {
        let mut github = Github::new(Vec::new(), Some(Vec::new()));
        for event in fixture::events() {
            github.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
        }
        github.finish().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let annotations = text(github.annotations.writer);
        let summary = text(github.summary.unwrap().writer);
        insta::assert_snapshot!("github", format!("{annotations}----\n{summary}"));
    }

    #[test]
    fn text_cannot_leave_its_command_or_its_cell() {
        assert_eq!(property("a:b,c\n::error::"), "a%3Ab%2Cc%0A%3A%3Aerror%3A%3A");
        assert_eq!(data("100%\n::warning::x"), "100%25%0A::warning::x");
        assert_eq!(cell("a|b\n<script>`x`"), "a\\|b &lt;script>\\`x\\`");
    }
}
