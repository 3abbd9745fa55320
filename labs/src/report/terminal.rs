//! The report for people: what is going on as it goes on, a line of evidence for each claim, and a
//! table at the end. Understandable without colour; without a terminal it is plain lines.

use super::Report;
use crate::claim::{Outcome, Verdict};
use crate::event::{Event, SampleProgress, Stamped};
use std::io::Write;
use std::time::{Duration, Instant};

/// Writes to `out`.
pub(super) struct Terminal<W> {
    out: W,
    live: bool,
    colour: bool,
    /// Steps under way, innermost last, with when each began.
    steps: Vec<(String, Instant)>,
    /// The latest word on the innermost step.
    progress: String,
    sample: Option<SampleProgress>,
    /// When something was last written for a step, where there is no live line.
    told: Instant,
    drawn: bool,
    labs: Vec<Row>,
    /// What fails, repeated at the end.
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

/// Without a live line, tell of a step that takes longer than this, and again as often.
const PATIENCE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(5);

impl<W: Write> Terminal<W> {
    /// `live` for a terminal that understands escapes, `colour` for colours besides.
    pub(super) fn new(out: W, live: bool, colour: bool) -> Self {
        Self {
            out,
            live,
            colour,
            steps: Vec::new(),
            progress: String::new(),
            sample: None,
            told: Instant::now(),
            drawn: false,
            labs: Vec::new(),
            fails: Vec::new(),
        }
    }

    fn line(&mut self, text: &str) {
        self.erase();
        // A reader that has left must not stop the run from cleaning up.
        _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            _ = write!(self.out, "\r\x1b[K");
        }
    }

    /// Draws what is going on over what was drawn before.
    fn draw(&mut self) {
        let Some(now) = self.now() else { return self.erase() };
        if self.live {
            // Without wrapping, a line longer than the terminal is cut instead of scrolling.
            _ = write!(self.out, "\r\x1b[?7l\x1b[K  {now}\x1b[?7h").and_then(|()| self.out.flush());
            self.drawn = true;
            return;
        }
        let running = self.steps.last().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let patience = if running < AGAIN { PATIENCE } else { AGAIN };
        if running >= PATIENCE && self.told.elapsed() >= patience {
            self.told = Instant::now();
            self.line(&format!("  … {now}"));
        }
    }

    /// What is going on, in one line.
    fn now(&self) -> Option<String> {
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

    /// The outcome's word, seven wide.
    fn paint(&self, outcome: Outcome) -> String {
        let colour = match outcome {
            Outcome::Holds => "32",
            Outcome::Fails => "1;31",
            Outcome::Skipped => "33",
        };
        self.coloured(colour, &format!("{:<7}", outcome.word()))
    }

    fn coloured(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
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

impl<W: Write> Report for Terminal<W> {
    fn event(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::RunStarted { version, provider, labs } => {
                self.line(&format!("labs {version} on {provider}: {}", labs.join(", ")));
            }
            Event::LabStarted { title, claims } => {
                let name = stamped.lab.unwrap_or("?");
                self.labs.push(Row { name, title, counts: [0; 3], seconds: 0.0, error: false });
                let heading = self.coloured("1", &format!("{name}  {title}"));
                self.line("");
                self.line(&format!("{heading}  ({claims} claims)"));
            }
            Event::StepStarted { step } => {
                self.steps.push((step.clone(), Instant::now()));
                self.progress.clear();
                self.told = Instant::now();
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
                if *seconds >= PATIENCE.as_secs_f64() {
                    let line = format!("  · {step}  {seconds:.1} s");
                    let line = self.coloured("2", &line);
                    self.line(&line);
                }
            }
            Event::ClaimJudged { claim, verdict, .. } => {
                self.sample = None;
                self.verdict(claim, verdict);
            }
            Event::LabEnded { seconds, error } => {
                self.steps.clear();
                self.sample = None;
                if let Some(lab) = self.labs.last_mut() {
                    (lab.seconds, lab.error) = (*seconds, error.is_some());
                }
                if let Some(error) = error {
                    self.line(&format!("  stopped: {error}"));
                }
            }
            Event::Diagnosis { verdict, folder } => {
                self.line(&format!("  at fault: {verdict}"));
                if let Some(folder) = folder {
                    self.line(&format!("  gathered in {folder}"));
                }
            }
            Event::RunEnded { holds, fails, skipped, errors, exit_code, seconds, .. } => {
                self.summary();
                for line in std::mem::take(&mut self.fails) {
                    self.line(&line);
                }
                for error in errors {
                    self.line(&format!("error: {error}"));
                }
                let how = match exit_code {
                    130 => "interrupted, cleaned up",
                    _ if *fails > 0 => "a claim fails",
                    0 => "every claim holds",
                    _ => "the environment failed",
                };
                let how = if *skipped > 0 && *exit_code == 0 {
                    "every claim that could be checked holds"
                } else {
                    how
                };
                self.line(&format!(
                    "{how}: {holds} hold, {fails} fail, {skipped} skipped, {seconds:.1} s in all"
                ));
            }
        }
    }

    fn tick(&mut self) {
        self.draw();
    }
}

/// A sample as a bar: each version its own sign, so that it can be read without colour.
fn bar(sample: &SampleProgress) -> String {
    const WIDTH: u64 = 32;
    const SIGNS: [char; 4] = ['█', '░', '▓', '▒'];
    let done: u64 = sample.counts.values().sum();
    let mut text = format!("{}: {}", sample.what, done + sample.failures);
    if sample.planned > 0 {
        text += &format!(" of {}", sample.planned);
    }
    if done > 0 {
        text += "  ";
        let (mut counted, mut drawn) = (0, 0);
        for (count, sign) in sample.counts.values().zip(SIGNS.into_iter().cycle()) {
            counted += count;
            let to = (counted * WIDTH).checked_div(done).unwrap_or(0);
            text.extend((drawn..to).map(|_| sign));
            drawn = to;
        }
        for ((version, count), sign) in sample.counts.iter().zip(SIGNS.into_iter().cycle()) {
            let share = 100.0 * *count as f64 / done as f64;
            text += &format!("  {sign} {version} {share:.1}%");
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
    use crate::event::Band;

    fn text(events: Vec<Event>, live: bool, colour: bool) -> String {
        let mut terminal = Terminal::new(Vec::new(), live, colour);
        for event in events {
            terminal.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
        }
        String::from_utf8(terminal.out).unwrap()
    }

    fn run() -> Vec<Event> {
        let judged = |claim, verdict| Event::ClaimJudged { claim, sentence: "", verdict };
        vec![
            Event::RunStarted { version: "0", provider: "kind".into(), labs: vec!["phase4"] },
            Event::LabStarted { title: "The canary", claims: 3 },
            Event::StepStarted { step: "roll out".into() },
            Event::Progress { text: "1 of 3".into() },
            Event::SampleProgress(sample()),
            Event::StepEnded { step: "roll out".into(), seconds: 1.25 },
            judged("a-claim", Verdict::holds("7 of 7")),
            judged("another", Verdict::fails("6 of 7")),
            judged("third", Verdict::skipped("not here")),
            Event::LabEnded { seconds: 2.0, error: None },
            Event::RunEnded {
                claims: Default::default(),
                holds: 1,
                fails: 1,
                skipped: 1,
                errors: Vec::new(),
                exit_code: 1,
                seconds: 2.04,
            },
        ]
    }

    fn sample() -> SampleProgress {
        let counts = [("1.0".to_owned(), 30), ("2.0".to_owned(), 10)].into();
        let band = Band { version: "2.0".into(), share: 0.25, low: 10, high: 30 };
        let what = "load balancer".to_owned();
        SampleProgress { what, planned: 80, counts, failures: 1, band: Some(band) }
    }

    #[test]
    fn without_a_terminal_it_is_plain_lines() {
        assert_eq!(
            text(run(), false, false),
            "labs 0 on kind: phase4

phase4  The canary  (3 claims)
  · roll out  1.2 s
  holds    a-claim                  7 of 7
  fails    another                  6 of 7
  skipped  third                    not here

lab       title       holds  fails  skipped     time
phase4    The canary      1      1        1    2.0 s
  fails    another                  6 of 7
a claim fails: 1 hold, 1 fail, 1 skipped, 2.0 s in all
"
        );
    }

    #[test]
    fn colour_and_live_lines_only_where_asked_for() {
        let plain = text(run(), false, false);
        assert!(!plain.contains('\x1b'));
        let live = text(run(), true, false);
        assert!(live.contains("\x1b[K") && !live.contains("\x1b[32m"));
        assert!(text(run(), true, true).contains("\x1b[32mholds"));
    }

    #[test]
    fn a_bar_shows_split_and_band() {
        assert_eq!(
            bar(&sample()),
            "load balancer: 41 of 80  ████████████████████████░░░░░░░░  █ 1.0 75.0%  ░ 2.0 25.0%  \
             (2.0 may take 12.5 to 37.5%)  1 failed"
        );
    }
}
