//! `--html FILE`: one self-contained page, with plots as inline SVG, that a CI job can leave behind.

use super::reporter::{Output, Reporter};
use super::text::{escape, html};
use crate::claim::Verdict;
use crate::event::{Event, SampleEnded, Stamped};
use history::History;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

mod history;
mod plots;

/// Writes the page at the end of the run.
pub(super) struct Html<W> {
    out: Output<W>,
    provider: String,
    version: &'static str,
    labs: Vec<Lab>,
    samples: Vec<SampleEnded>,
    history: History,
}

struct Lab {
    name: String,
    title: &'static str,
    claims: Vec<(&'static str, &'static str, Verdict)>,
    diagnoses: Vec<Diagnosis>,
    error: Option<String>,
    seconds: f64,
}

struct Diagnosis {
    layer: &'static str,
    reason: String,
    command: Option<String>,
    folder: Option<String>,
}

/// The end of a run.
struct Ended<'a> {
    counts: [usize; 3],
    errors: &'a [String],
    exit_code: u8,
    seconds: f64,
}

const STYLE: &str = include_str!("html/style.css");

impl<W: Write> Html<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: Output::new(out),
            provider: String::new(),
            version: "",
            labs: Vec::new(),
            samples: Vec::new(),
            history: History::default(),
        }
    }

    fn write(&self, ended: &Ended) -> Result<String, fmt::Error> {
        let mut page = String::new();
        let names: Vec<&str> = self.labs.iter().map(|lab| lab.name.as_str()).collect();
        let title = format!("Canary Labs: {} on {}", names.join(", "), self.provider);
        let title = escape(&title);
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        )?;
        let Ended { counts: [holds, fails, skipped], errors, exit_code, seconds } = ended;
        writeln!(
            page,
            "<p class=\"result {}\"><strong>{}</strong>: {holds} hold, {fails} fail, {skipped} skipped, \
             {seconds:.1} s in all. Labs {}, exit code {exit_code}.</p>",
            if *exit_code == 0 { "holds" } else { "fails" },
            super::terminal::result(*exit_code, *fails, *skipped),
            escape(self.version),
        )?;
        for error in *errors {
            writeln!(page, "<p class=\"fault\">{}</p>", html(error))?;
        }
        for lab in &self.labs {
            lab.write(&mut page)?;
        }
        self.measured(&mut page)?;
        page.push_str("</main>\n</body>\n</html>\n");
        Ok(page)
    }

    /// Everything that was measured.
    fn measured(&self, page: &mut String) -> fmt::Result {
        let history = &self.history;
        let splits: Vec<_> = history.splits().collect();
        if !splits.is_empty() {
            page.push_str("<h2>Shares against their bands</h2>\n<div class=\"plots\">\n");
            for split in splits {
                plots::split(page, split)?;
            }
            page.push_str("</div>\n");
        }
        page.push_str("<h2>Over time</h2>\n");
        plots::timeline(page, history)?;
        plots::pods(page, history)?;
        plots::latency(page, history)?;
        if self.samples.is_empty() {
            return Ok(());
        }
        page.push_str(
            "<h2>Samples</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Samples\">\n<table>\n\
             <thead><tr><th>sample<th>responses<th>failed<th>seconds<th>p50<th>p90<th>p99<th>slowest</tr></thead>\n<tbody>\n",
        );
        for sample in &self.samples {
            let counts = sample.counts.iter().map(|(version, n)| format!("{version}: {n}"));
            let counts = counts.collect::<Vec<_>>().join(", ");
            let latency = sample.latency.map(|l| [l.p50, l.p90, l.p99, l.max]);
            let latency = latency.map_or_else(
                || "<td><td><td><td>".to_owned(),
                |all| all.map(|s| format!("<td>{:.1} ms", 1000.0 * s)).concat(),
            );
            writeln!(
                page,
                "<tr><th scope=\"row\">{}<td>{}<td>{}<td>{:.2}{latency}</tr>",
                escape(&sample.what),
                escape(&counts),
                sample.failures,
                sample.seconds,
            )?;
        }
        page.push_str("</tbody>\n</table>\n</div>\n");
        Ok(())
    }
}

impl Lab {
    fn write(&self, page: &mut String) -> fmt::Result {
        let (name, title, seconds) = (escape(&self.name), escape(self.title), self.seconds);
        writeln!(page, "<h2>{name}: {title} <small>{seconds:.1} s</small></h2>")?;
        for Diagnosis { layer, reason, command, folder } in &self.diagnoses {
            write!(page, "<div class=\"fault\"><p>At fault: <strong>{}</strong>: ", escape(layer))?;
            writeln!(page, "{}</p>", html(reason))?;
            if let Some(command) = command {
                writeln!(page, "<pre tabindex=\"0\">{}</pre>", escape(command))?;
            }
            if let Some(folder) = folder {
                writeln!(page, "<p>gathered in {}</p>", escape(folder))?;
            }
            page.push_str("</div>\n");
        }
        page.push_str("<ul class=\"claims\">\n");
        for (id, sentence, verdict) in &self.claims {
            let word = verdict.outcome.word();
            writeln!(
                page,
                "<li class=\"{word}\"><strong>{word}</strong> <span>{}<br><small><code>{}</code>: {}</small></span></li>",
                html(sentence),
                escape(id),
                html(&verdict.evidence),
            )?;
        }
        page.push_str("</ul>\n");
        if let Some(error) = &self.error {
            writeln!(page, "<p class=\"fault\">stopped: {}</p>", html(error))?;
        }
        Ok(())
    }
}

impl<W: Write> Reporter for Html<W> {
    fn event(&mut self, stamped: &Stamped) {
        self.history.event(stamped);
        let lab = self.labs.last_mut();
        match (&stamped.event, lab) {
            (Event::RunStarted { provider, version, .. }, _) => {
                (self.provider, self.version) = (provider.clone(), version);
            }
            (Event::LabStarted { title, .. }, _) => self.labs.push(Lab {
                name: stamped.lab.unwrap_or("?").to_owned(),
                title,
                claims: Vec::new(),
                diagnoses: Vec::new(),
                error: None,
                seconds: 0.0,
            }),
            (Event::ClaimJudged { claim, sentence, verdict }, Some(lab)) => {
                lab.claims.push((claim, sentence, verdict.clone()));
            }
            (Event::Diagnosis { layer, reason, command, folder }, Some(lab)) => {
                lab.diagnoses.push(Diagnosis {
                    layer: layer.map_or("unknown", |layer| layer.word()),
                    reason: reason.clone(),
                    command: command.clone(),
                    folder: folder.clone(),
                });
            }
            (Event::SampleEnded(sample), _) => self.samples.push(sample.clone()),
            (Event::LabEnded { seconds, error }, Some(lab)) => {
                (lab.seconds, lab.error) = (*seconds, error.clone());
            }
            (Event::RunEnded { holds, fails, skipped, errors, exit_code, seconds, .. }, _) => {
                let counts = [*holds, *fails, *skipped];
                let ended = Ended { counts, errors, exit_code: *exit_code, seconds: *seconds };
                // Writing to a string does not fail.
                if let Ok(page) = self.write(&ended) {
                    self.out.write(page.as_bytes());
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PodObserved, PodState, SampleProgress};
    use crate::fixture;

    fn page(events: impl IntoIterator<Item = Event>) -> String {
        let mut html = Html::new(Vec::new());
        for (at, event) in events.into_iter().enumerate() {
            html.event(&Stamped { at: at as f64 / 4.0, lab: Some("phase4"), event });
        }
        html.finish().unwrap();
        String::from_utf8(html.out.writer).unwrap()
    }

    /// A run whose share converges and during which a pod becomes ready.
    fn run() -> Vec<Event> {
        let mut events = fixture::events();
        let mut more = Vec::new();
        for part in 1..=8 {
            let counts = [("1.0".to_owned(), 7 * part), ("2.0".to_owned(), 3 * part)].into();
            let sample = SampleProgress { counts, failures: 0, ..fixture::sample_progress() };
            more.push(Event::SampleProgress(sample));
        }
        more.push(Event::PodObserved(PodObserved {
            pod: "kubeapp-canary-1".into(),
            node: None,
            version: Some("2.0".into()),
            state: PodState::Ready,
            reason: None,
            restarts: 0,
        }));
        events.splice(4..4, more);
        events
    }

    #[test]
    fn report_is_a_page_with_plots() {
        insta::assert_snapshot!("html_report", page(run()));
    }

    #[test]
    fn report_is_self_contained_and_every_text_is_escaped() {
        let hostile = "<script>alert(1)</script>\"&";
        let mut events = run();
        events.insert(2, Event::StepStarted { id: "step", step: hostile.into() });
        events.push(Event::SampleEnded(SampleEnded {
            what: hostile.into(),
            seconds: 1.0,
            counts: [(hostile.to_owned(), 1)].into(),
            failures: 0,
            latency: None,
        }));
        // The page is written at the end of the run.
        let last = events.len() - 1;
        events.swap(last, last - 1);
        let page = page(events);
        for part in ["<script", "http://", "https://", "src=", "url("] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("crash") && page.contains("kubectl describe pod p"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
    }

    #[test]
    fn code_in_sentences_is_marked_up() {
        let code = "the `<app>` of it";
        let mut events = run();
        let verdict = Verdict::fails(code);
        events.insert(2, Event::StepStarted { id: "step", step: code.into() });
        events.insert(3, Event::ClaimJudged { claim: "a-claim", sentence: code, verdict });
        let (layer, reason) = (None, code.to_owned());
        events.insert(4, Event::Diagnosis { layer, reason, command: None, folder: None });
        events.insert(5, Event::LabEnded { seconds: 1.0, error: Some(code.into()) });
        for event in &mut events {
            match event {
                Event::LabEnded { error, .. } => *error = Some(code.into()),
                Event::RunEnded { errors, .. } => *errors = vec![code.into()],
                _ => {}
            }
        }
        let page = page(events);
        let marked = page.matches("the <code>&lt;app&gt;</code> of it").count();
        // Error of the run and of the lab, fault, sentence, evidence, and the step in the list.
        assert_eq!(marked, 6, "{page}");
        assert!(
            !page.contains('`') && page.contains("<title>the &lt;app&gt; of it</title>"),
            "{page}"
        );
    }

    #[test]
    fn run_that_measured_nothing_has_a_page() {
        let events: Vec<Event> = fixture::events()
            .into_iter()
            .filter(|event| matches!(event, Event::RunStarted { .. } | Event::RunEnded { .. }))
            .collect();
        let page = page(events);
        assert!(page.ends_with("</html>\n") && !page.contains("NaN"), "{page}");
    }
}
