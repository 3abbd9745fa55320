//! The report for people: live progress, a line of evidence for each claim, and a table at the end.
//! Readable without color; plain lines if standard output is not a terminal.

use super::reporter::Reporter;
use crate::claim::{Outcome, Verdict};
use crate::event::{Event, SampleProgress, Stamped};
use std::io::Write;
use std::time::{Duration, Instant};

/// Writes to `out`.
pub(super) struct Terminal<W> {
    out: W,
    live: bool,
    color: bool,
    /// The steps in progress, innermost last, with their start.
    steps: Vec<(String, Instant)>,
    /// The latest progress of the innermost step.
    progress: String,
    sample: Option<SampleProgress>,
    /// The last time a line was written about a step, if there is no live line.
    reported: Instant,
    drawn: bool,
    labs: Vec<Row>,
    /// The lines of failed claims, repeated at the end.
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

/// Without a live line, a step that takes this long is reported, and then at the interval below.
const REPORT_AFTER: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

impl<W: Write> Terminal<W> {
    /// `live` permits escape sequences, `color` colors as well.
    pub(super) fn new(out: W, live: bool, color: bool) -> Self {
        Self {
            out,
            live,
            color,
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
        // A closed pipe must not keep the run from cleaning up.
        _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            _ = write!(self.out, "\r\x1b[K");
        }
    }

    /// Redraws the live line.
    fn draw(&mut self) {
        let Some(now) = self.status() else { return self.erase() };
        if self.live {
            // With wrapping off, a line longer than the terminal is cut instead of scrolling.
            _ = write!(self.out, "\r\x1b[?7l\x1b[K  {now}\x1b[?7h").and_then(|()| self.out.flush());
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
            return Some(bar(sample));
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
        let line = format!("  {word}  {claim:<23}  {}", verdict.evidence);
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
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Takes the lines that are repeated at the end: failed claims and errors.
    fn take_failures(&mut self, errors: &[String]) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.fails);
        lines.extend(errors.iter().map(|error| format!("error: {error}")));
        lines
    }

    fn summary(&mut self) {
        let rows = std::mem::take(&mut self.labs);
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
            self.line(&format!("  stopped: {error}"));
        }
    }
}

impl<W: Write> Reporter for Terminal<W> {
    fn event(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::RunStarted { version, provider, labs } => {
                self.line(&format!("labs {version} on {provider}: {}", labs.join(", ")));
            }
            Event::LabStarted { title, claims } => {
                let name = stamped.lab.unwrap_or("?");
                self.labs.push(Row { name, title, counts: [0; 3], seconds: 0.0, error: false });
                let heading = self.in_color("1", &format!("{name}  {title}"));
                self.line("");
                self.line(&format!("{heading}  ({claims} claims)"));
            }
            Event::StepStarted { step } => {
                self.steps.push((step.clone(), Instant::now()));
                self.progress.clear();
                self.reported = Instant::now();
                self.draw();
            }
            Event::Progress { text } => {
                self.progress.clone_from(text);
                self.draw();
            }
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
            Event::Diagnosis { verdict, folder } => {
                self.line(&format!("  at fault: {verdict}"));
                if let Some(folder) = folder {
                    self.line(&format!("  gathered in {folder}"));
                }
            }
            Event::RunEnded { holds, fails, skipped, errors, exit_code, seconds, .. } => {
                self.summary();
                for error in self.take_failures(errors) {
                    self.line(&error);
                }
                let result = result(*exit_code, *fails, *skipped);
                self.line(&format!(
                    "{result}: {holds} hold, {fails} fail, {skipped} skipped, {seconds:.1} s in all"
                ));
            }
        }
    }

    fn tick(&mut self) {
        self.draw();
    }
}

/// Formats the result of a run.
fn result(exit_code: u8, fails: usize, skipped: usize) -> &'static str {
    match exit_code {
        130 => "interrupted, cleaned up",
        _ if fails > 0 => "a claim fails",
        0 if skipped > 0 => "every claim that could be checked holds",
        0 => "every claim holds",
        _ => "the environment failed",
    }
}

/// Draws a sample as a bar, with a character per version so that it can be read without color.
fn bar(sample: &SampleProgress) -> String {
    const WIDTH: u64 = 32;
    const GLYPHS: [char; 4] = ['█', '░', '▓', '▒'];
    let done: u64 = sample.counts.values().sum();
    let mut text = format!("{}: {}", sample.what, done + sample.failures);
    if sample.planned > 0 {
        text += &format!(" of {}", sample.planned);
    }
    if done > 0 {
        text += "  ";
        let (mut counted, mut drawn) = (0, 0);
        for (count, glyph) in sample.counts.values().zip(GLYPHS.into_iter().cycle()) {
            counted += count;
            let to = (counted * WIDTH).checked_div(done).unwrap_or(0);
            text.extend((drawn..to).map(|_| glyph));
            drawn = to;
        }
        for ((version, count), glyph) in sample.counts.iter().zip(GLYPHS.into_iter().cycle()) {
            let share = 100.0 * *count as f64 / done as f64;
            text += &format!("  {glyph} {version} {share:.1}%");
        }
    }
    if let Some(band) = &sample.band {
        let percent = |hits: u64| 100.0 * hits as f64 / sample.planned.max(1) as f64;
        let (low, high) = (percent(band.low), percent(band.high));
        text += &format!("  ({} may take {low:.1} to {high:.1}%)", band.version);
    }
    if sample.failures > 0 {
        text += &format!("  {} failed", sample.failures);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{events, sample_progress};

    fn text(live: bool, color: bool) -> String {
        let mut terminal = Terminal::new(Vec::new(), live, color);
        for event in events() {
            terminal.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
        }
        String::from_utf8(terminal.out).unwrap()
    }

    #[test]
    fn output_without_a_terminal_is_plain_lines() {
        let text = text(false, false);
        assert!(!text.contains('\x1b'));
        insta::assert_snapshot!("terminal_report", text);
    }

    #[test]
    fn color_and_live_lines_are_independent() {
        let live = text(true, false);
        assert!(live.contains("\x1b[K") && !live.contains("\x1b[32m"));
        assert!(text(true, true).contains("\x1b[32mholds"));
    }

    #[test]
    fn bar_shows_split_and_band() {
        assert_eq!(
            bar(&sample_progress()),
            "load balancer: 41 of 80  ████████████████████████░░░░░░░░  █ 1.0 75.0%  ░ 2.0 25.0%  \
             (2.0 may take 12.5 to 37.5%)  1 failed"
        );
    }
}
