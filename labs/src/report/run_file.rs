//! `--run-file FILE`: what a participant hands in. Two lines of JSON: the run (who ran what where, the plan and
//! the counts of each claim and sample, the verdicts), and a signature of the bytes of the first line.

use super::reporter::{Output, Reporter};
use crate::claim::Verdict;
use crate::event::{Event, SampleEnded, Stamped};
use crate::signature::SigningKey;
use serde::Serialize;
use std::io::{self, Write};

/// The format of run files.
pub(crate) const FORMAT: &str = "canary-labs-run/1";

/// Writes the file at the end of the run.
pub(super) struct RunFile<W> {
    out: Output<W>,
    key: Option<SigningKey>,
    run: Run,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    format: &'static str,
    /// Differs between any two runs, so that copies are found.
    id: String,
    /// The participant, from `--participant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    started: String,
    version: &'static str,
    provider: String,
    labs: Vec<&'static str>,
    claims: Vec<Claim>,
    samples: Vec<Sample>,
    errors: Vec<String>,
    exit_code: u8,
    seconds: f64,
}

#[derive(Serialize)]
struct Claim {
    lab: &'static str,
    id: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Serialize)]
struct Sample {
    lab: Option<&'static str>,
    #[serde(flatten)]
    sample: SampleEnded,
}

impl<W: Write> RunFile<W> {
    pub(super) fn new(out: W, key: Option<SigningKey>, name: Option<String>) -> Self {
        let run = Run {
            format: FORMAT,
            id: format!("{:032x}", rand::random::<u128>()),
            name,
            started: jiff::Timestamp::now().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            provider: String::new(),
            labs: Vec::new(),
            claims: Vec::new(),
            samples: Vec::new(),
            errors: Vec::new(),
            exit_code: 0,
            seconds: 0.0,
        };
        Self { out: Output::new(out), key, run }
    }

    fn write(&mut self) {
        // Everything in it can be represented in JSON.
        let Ok(line) = serde_json::to_string(&self.run) else { return };
        let mut text = format!("{line}\n");
        if let Some(key) = &self.key {
            text += &key.sign(line.as_bytes());
            text.push('\n');
        }
        self.out.write(text.as_bytes());
    }
}

impl<W: Write> Reporter for RunFile<W> {
    fn event(&mut self, stamped: &Stamped) {
        let run = &mut self.run;
        match &stamped.event {
            Event::RunStarted { provider, labs, .. } => {
                run.provider.clone_from(provider);
                run.labs.clone_from(labs);
            }
            Event::ClaimJudged { claim, verdict, .. } => {
                let lab = stamped.lab.unwrap_or("?");
                run.claims.push(Claim { lab, id: claim, verdict: verdict.clone() });
            }
            Event::SampleEnded(sample) => {
                run.samples.push(Sample { lab: stamped.lab, sample: sample.clone() });
            }
            Event::RunEnded { errors, exit_code, seconds, .. } => {
                run.errors.clone_from(errors);
                (run.exit_code, run.seconds) = (*exit_code, *seconds);
                self.write();
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
    use crate::fixture;
    use crate::signature::{self, tests::key_pair};

    fn file(key: Option<SigningKey>) -> String {
        let mut file = RunFile::new(Vec::new(), key, Some("Ada".into()));
        for event in fixture::events() {
            file.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
        }
        file.finish().unwrap();
        String::from_utf8(file.out.writer).unwrap()
    }

    #[test]
    fn signed_run_verifies_and_an_edited_one_does_not() {
        let (signing, public) = key_pair();
        let text = file(Some(signing));
        let run = signature::verify(&text, &public).unwrap();
        assert_eq!((&run["format"], &run["name"]), (&FORMAT.into(), &"Ada".into()));
        assert_eq!(run["claims"][1]["data"]["split"]["plan"]["n"], 4460);
        assert_eq!(run["samples"][0]["counts"]["2.0"], 20);
        let error = |text: &str, key: &str| signature::verify(text, key).unwrap_err().to_string();
        let edited = text.replacen("\"fails\"", "\"holds\"", 1);
        assert!(error(&edited, &public).contains("was changed"), "{}", error(&edited, &public));
        let (_, other) = key_pair();
        assert!(error(&text, &other).contains("another key"), "{}", error(&text, &other));
        assert!(error(&file(None), &public).contains("not signed"));
        for bad in ["", "\n", "{}\n{}\n", "{}\nnothing\n", "{}\n{\"publicKey\":1}"] {
            assert!(signature::verify(bad, &public).is_err(), "{bad:?}");
        }
        assert!(error(&text, "abc").contains("64 hexadecimal digits"));
    }
}
