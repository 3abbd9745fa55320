//! The report for people: live progress, a line of evidence for each claim, and a table at the end.
//! Readable without color; plain lines if standard output is not a terminal.

use super::reporter::{Output, Reporter};
use super::text;
use crate::claim::{Outcome, Verdict};
use crate::event::{Event, SampleProgress, Stamped};
use crate::names::in_terms_of_program;
use crate::wrap::wrap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// What the output permits.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// Escape sequences that redraw a line.
    pub(super) live: bool,
    /// Colors.
    pub(super) color: bool,
    /// The number of columns now; `None` if lines may have any length.
    pub(super) width: fn() -> Option<usize>,
}

/// Writes lines for people.
pub(super) struct Terminal<W> {
    out: Output<W>,
    style: Style,
    /// The steps in progress, innermost last, with their start.
    steps: Vec<(String, Instant)>,
    /// The latest progress of the innermost step.
    progress: String,
    sample: Option<SampleProgress>,
    /// The last time a line was written about a step, if there is no live line.
    reported: Instant,
    drawn: bool,
    labs: Vec<Row>,
    /// The diagnoses and failed claims, repeated at the end.
    fails: Vec<String>,
}

/// A lab's line of the summary.
struct Row {
    name: &'static str,
    title: &'static str,
    counts: [usize; 3],
    seconds: f64,
    error: bool,
}

/// From this width on, the evidence is next to its claim; below that, under it.
const SIDE_BY_SIDE: usize = 100;
/// The columns before a claim, and before evidence in each of the two forms.
const CLAIM: usize = 11;
const BESIDE: usize = CLAIM + 28;
/// The width of the live line if the terminal's is unknown.
const USUAL_WIDTH: usize = 80;
/// Without a live line, a step that takes this long is reported, and then at the interval below.
const REPORT_AFTER: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

impl<W: Write> Terminal<W> {
    pub(super) fn new(out: W, style: Style) -> Self {
        Self {
            out: Output::new(out),
            style,
            steps: Vec::new(),
            progress: String::new(),
            sample: None,
            reported: Instant::now(),
            drawn: false,
            labs: Vec::new(),
            fails: Vec::new(),
        }
    }

    fn line(&mut self, text: &str) {
        self.erase();
        let text = in_terms_of_program(text);
        self.out.write(format!("{text}\n").as_bytes());
    }

    /// Writes a line, wrapped by words.
    fn wrapped(&mut self, text: &str, indent: usize) {
        let text = wrap(text, 0, indent, (self.style.width)());
        self.line(&text);
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.out.write(b"\r\x1b[K");
        }
    }

    /// Redraws the live line.
    fn draw(&mut self) {
        let Some(now) = self.status() else { return self.erase() };
        if self.style.live {
            // With wrapping off, a line longer than the terminal is cut instead of scrolling.
            self.out.write(format!("\r\x1b[?7l\x1b[K  {now}\x1b[?7h").as_bytes());
            self.drawn = true;
            return;
        }
        let running = self.steps.last().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let interval = if running < REPORT_INTERVAL { REPORT_AFTER } else { REPORT_INTERVAL };
        if running >= REPORT_AFTER && self.reported.elapsed() >= interval {
            self.reported = Instant::now();
            self.line(&format!("  … {now}"));
        }
    }

    /// The current activity in one line.
    fn status(&self) -> Option<String> {
        if let Some(sample) = &self.sample {
            let width = (self.style.width)().unwrap_or(USUAL_WIDTH);
            return Some(text::sample(sample, width.saturating_sub(3)));
        }
        let (step, since) = self.steps.last()?;
        let mut text = step.clone();
        if !self.progress.is_empty() {
            text += &format!(": {}", self.progress);
        }
        let seconds = since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            text += &format!("  {seconds:.0} s");
        }
        Some(text)
    }

    fn verdict(&mut self, claim: &str, verdict: &Verdict) {
        let counts = self.labs.last_mut().map(|lab| &mut lab.counts);
        if let Some(count) = counts.and_then(|counts| counts.get_mut(verdict.outcome as usize)) {
            *count += 1;
        }
        let word = self.paint(verdict.outcome);
        let width = (self.style.width)();
        let line = if width.is_none_or(|width| width >= SIDE_BY_SIDE) {
            let evidence = wrap(&verdict.evidence, BESIDE, BESIDE, width);
            format!("  {word}  {claim:<26}  {evidence}")
        } else {
            let evidence = wrap(&verdict.evidence, CLAIM, CLAIM, width);
            format!("  {word}  {claim}\n{:CLAIM$}{evidence}", "")
        };
        if verdict.outcome == Outcome::Fails {
            self.fails.push(line.clone());
        }
        self.line(&line);
    }

    /// Formats the outcome, seven characters wide.
    fn paint(&self, outcome: Outcome) -> String {
        let color = match outcome {
            Outcome::Holds => "32",
            Outcome::Fails => "1;31",
            Outcome::Skipped => "33",
        };
        self.in_color(color, &format!("{:<7}", outcome.word()))
    }

    fn in_color(&self, color: &str, text: &str) -> String {
        if self.style.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Takes the lines that are repeated at the end: failed claims and errors.
    fn take_failures(&mut self, errors: &[String]) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.fails);
        let width = (self.style.width)();
        let errors = errors.iter().map(|error| wrap(&format!("error: {error}"), 0, 7, width));
        lines.extend(errors);
        lines
    }

    fn summary(&mut self) {
        let rows = std::mem::take(&mut self.labs);
        if rows.is_empty() {
            return;
        }
        let width = rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0).max(5);
        self.line("");
        self.line(&format!("lab       {:<width$}  holds  fails  skipped     time", "title"));
        for Row { name, title, counts: [holds, fails, skipped], seconds, error } in rows {
            let error = if error { "  stopped early" } else { "" };
            self.line(&format!(
                "{name:<8}  {title:<width$}  {holds:>5}  {fails:>5}  {skipped:>7}  {seconds:>5.1} s{error}"
            ));
        }
    }
}

impl<W: Write> Terminal<W> {
    fn lab_ended(&mut self, seconds: f64, error: Option<&str>) {
        self.steps.clear();
        self.sample = None;
        if let Some(lab) = self.labs.last_mut() {
            (lab.seconds, lab.error) = (seconds, error.is_some());
        }
        if let Some(error) = error {
            self.wrapped(&format!("  stopped: {error}"), 4);
        }
    }
}

impl<W: Write> Reporter for Terminal<W> {
    fn event(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::RunStarted { version, provider, labs, .. } => {
                let labs =
                    if labs.is_empty() { String::new() } else { format!(": {}", labs.join(", ")) };
                self.line(&format!("labs {version} on {provider}{labs}"));
            }
            Event::LabStarted { title, claims } => {
                let name = stamped.lab.unwrap_or("?");
                self.labs.push(Row { name, title, counts: [0; 3], seconds: 0.0, error: false });
                let heading = self.in_color("1", &format!("{name}  {title}"));
                self.line("");
                self.line(&format!("{heading}  ({} claims)", claims.len()));
            }
            Event::Command { .. } => {}
            Event::StepStarted { step, .. } => {
                self.steps.push((step.clone(), Instant::now()));
                self.progress.clear();
                self.reported = Instant::now();
                self.draw();
            }
            Event::Progress { text } => {
                self.progress.clone_from(text);
                self.draw();
            }
            // What the cluster does meanwhile is for the page and the HTML report.
            Event::SampleEnded(_)
            | Event::StepsListed { .. }
            | Event::NodeObserved { .. }
            | Event::PodObserved(_)
            | Event::ClusterEvent { .. }
            | Event::ClusterConnection { .. } => {}
            Event::SampleProgress(sample) => {
                self.sample = Some(sample.clone());
                self.draw();
            }
            Event::StepEnded { step, seconds } => {
                self.steps.retain(|(running, _)| running != step);
                (self.sample, self.progress) = (None, String::new());
                self.erase();
                if *seconds >= REPORT_AFTER.as_secs_f64() {
                    let line = format!("  · {step}  {seconds:.1} s");
                    let line = self.in_color("2", &line);
                    self.line(&line);
                }
            }
            Event::ClaimJudged { claim, verdict, .. } => {
                self.sample = None;
                self.verdict(claim, verdict);
            }
            Event::LabEnded { seconds, error } => self.lab_ended(*seconds, error.as_deref()),
            Event::Diagnosis { reason, .. } if reason.is_empty() => {}
            Event::Diagnosis { layer, reason, command, folder } => {
                let layer = layer.map_or_else(String::new, |l| format!("at fault: {}: ", l.word()));
                let reason = reason.replace('\n', "; ");
                let mut text = wrap(&format!("  {layer}{reason}"), 0, 4, (self.style.width)());
                // Neither is wrapped: people copy them.
                command.iter().for_each(|command| text += &format!("\n    to see it: {command}"));
                folder.iter().for_each(|folder| text += &format!("\n    gathered in {folder}"));
                self.line(&text);
                self.fails.push(text);
            }
            Event::RunEnded { holds, fails, skipped, errors, exit_code, seconds, .. } => {
                self.summary();
                for error in self.take_failures(errors) {
                    self.line(&error);
                }
                let result = result(*exit_code, *fails, *skipped);
                if holds + fails + skipped > 0 {
                    self.line(&format!(
                        "{result}: {holds} hold, {fails} fail, {skipped} skipped, {seconds:.1} s in all"
                    ));
                }
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.result()
    }

    fn tick(&mut self) {
        self.draw();
    }
}

/// Formats the result of a run.
pub(super) fn result(exit_code: u8, fails: usize, skipped: usize) -> &'static str {
    match exit_code {
        130 => "interrupted, cleaned up",
        _ if fails > 0 => "a claim fails",
        0 if skipped > 0 => "every claim that could be checked holds",
        0 => "every claim holds",
        _ => "the environment failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::events;

    fn text(style: Style) -> String {
        let mut terminal = Terminal::new(Vec::new(), style);
        for event in events() {
            terminal.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
        }
        terminal.finish().unwrap();
        String::from_utf8(terminal.out.writer).unwrap()
    }

    const PLAIN: Style = Style { live: false, color: false, width: || None };

    #[test]
    fn output_without_a_terminal_is_plain_lines() {
        let text = text(PLAIN);
        assert!(!text.contains('\x1b'));
        insta::assert_snapshot!("terminal_report", text);
    }

    #[test]
    fn color_and_live_lines_are_independent() {
        let live = text(Style { live: true, ..PLAIN });
        assert!(live.contains("\x1b[K") && !live.contains("\x1b[32m"));
        assert!(text(Style { live: true, color: true, ..PLAIN }).contains("\x1b[32mholds"));
    }

    /// Escape sequences are shown as `^[`. A dumb terminal is one without live lines.
    #[test]
    fn width_is_used_and_not_exceeded() {
        let widths: [(usize, fn() -> Option<usize>); 3] =
            [(80, || Some(80)), (120, || Some(120)), (200, || Some(200))];
        for (columns, width) in widths {
            let plain = text(Style { width, ..PLAIN });
            for line in plain.lines().filter(|line| !line.contains("to see it")) {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&plain), words(&text(PLAIN)), "nothing is cut");
            insta::assert_snapshot!(format!("terminal_report_{columns}"), plain);
            let colored = text(Style { live: true, color: true, width });
            let colored = colored.replace('\x1b', "^[").replace('\r', "^M");
            insta::assert_snapshot!(format!("terminal_report_{columns}_color"), colored);
        }
    }
}
