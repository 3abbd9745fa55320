//! The command line of `labs`: what was asked for, or what to type instead.

use crate::event::Events;
use crate::lab::{LABS, Lab, nearest};
use crate::report::{self, Form};
use crate::run::{Exit, Runner};
use anyhow::Context as _;
use lab_environment::Environment;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

mod bench;

/// What `labs --help` prints after the list of labs.
const USAGE: &str = "\
labs: every claim of the article on canary deployments, proved with numbers

  labs run <lab…|all> --environment FILE   play labs on the cluster the file describes
  labs list [--json]                       the labs and their claims
  labs explain <lab>                       what a lab does and what it stands for in the article

Options of run
  --json            events as JSON, one a line; the last is the summary
  --failures DIR    where to put what is gathered when a lab goes wrong (default: lab-failures)
  --keep            leave the namespace as it is at the end
  --exit-with-stdin stop, as if interrupted, when standard input ends

Exit codes
  0 every claim holds, or was skipped with a reason   1 a claim fails   2 wrong usage
  3 the environment failed   130 interrupted, after cleaning up
";

/// Runs the command with these arguments, program name excluded.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let exit = match Command::parse(arguments) {
        Ok(command) => command.run(),
        Err(wrong) => {
            _ = writeln!(std::io::stderr(), "error: {wrong}\nrun `labs --help` for the usage");
            Exit::Usage
        }
    };
    ExitCode::from(exit as u8)
}

/// A command that was understood.
#[derive(Debug, PartialEq)]
enum Command {
    Help,
    Version,
    List {
        json: bool,
    },
    Explain(&'static str),
    Run(Run),
    /// Not in the help: measures the sampler itself.
    BenchSampler {
        url: String,
        seconds: f64,
    },
}

#[derive(Debug, PartialEq)]
struct Run {
    labs: Vec<&'static str>,
    environment: PathBuf,
    json: bool,
    failures: PathBuf,
    keep: bool,
    exit_with_stdin: bool,
}

impl Command {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = Vec::new();
        for argument in arguments {
            let word = argument.into_string();
            words.push(word.map_err(|word| format!("{word:?} is not valid Unicode"))?);
        }
        let mut words = words.into_iter();
        let Some(command) = words.next() else { return Ok(Self::Help) };
        match command.as_str() {
            "help" | "--help" | "-h" => Ok(Self::Help),
            "--version" | "-V" => Ok(Self::Version),
            "list" => match words.next().as_deref() {
                None => Ok(Self::List { json: false }),
                Some("--json") => Ok(Self::List { json: true }),
                Some(other) => Err(format!("`labs list` knows no `{other}`, only `--json`")),
            },
            "explain" => {
                let name = words.next().ok_or("`labs explain` needs the name of a lab")?;
                Ok(Self::Explain(named(&name)?.name))
            }
            "run" => Run::parse(words).map(Self::Run),
            "bench-sampler" => {
                let usage = "`labs bench-sampler` needs a URL and a number of seconds";
                let (url, seconds) = words.next().zip(words.next()).ok_or(usage)?;
                Ok(Self::BenchSampler { url, seconds: seconds.parse().map_err(|_| usage)? })
            }
            other => {
                let known = ["run", "list", "explain", "help"];
                Err(unknown("command", other, known.into_iter()))
            }
        }
    }

    fn run(self) -> Exit {
        match self {
            Self::Help => print(&help()),
            Self::Version => print(&format!("labs {}\n", env!("CARGO_PKG_VERSION"))),
            Self::List { json: true } => print(&(list_as_json() + "\n")),
            Self::List { json: false } => print(&list()),
            Self::Explain(name) => match named(name) {
                Ok(lab) => print(&explain(lab)),
                Err(_) => Exit::Usage,
            },
            Self::Run(run) => run.run(),
            Self::BenchSampler { url, seconds } => {
                ended(in_runtime(async move { Ok(print(&bench::sampler(&url, seconds).await?)) }))
            }
        }
    }
}

impl Run {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut labs: Vec<&'static str> = Vec::new();
        let (mut environment, mut failures) = (None, PathBuf::from("lab-failures"));
        let (mut json, mut keep, mut exit_with_stdin) = (false, false, false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
            match word.as_str() {
                "--environment" => environment = Some(PathBuf::from(value()?)),
                "--failures" => failures = PathBuf::from(value()?),
                "--json" => json = true,
                "--keep" => keep = true,
                "--exit-with-stdin" => exit_with_stdin = true,
                "all" => labs.extend(LABS.iter().map(|lab| lab.name)),
                option if option.starts_with('-') => {
                    let known =
                        ["--environment", "--failures", "--json", "--keep", "--exit-with-stdin"];
                    return Err(unknown("option", option, known.into_iter()));
                }
                name => labs.push(named(name)?.name),
            }
        }
        // In the order of the article, each once, whatever was typed.
        let labs = LABS.iter().map(|lab| lab.name).filter(|name| labs.contains(name)).collect();
        let run = Self {
            labs,
            environment: environment.ok_or("`labs run` needs `--environment FILE`")?,
            json,
            failures,
            keep,
            exit_with_stdin,
        };
        if run.labs.is_empty() {
            return Err(format!("`labs run` needs the name of a lab: {}, or all", names()));
        }
        Ok(run)
    }

    fn run(self) -> Exit {
        let environment = match read_environment(&self.environment) {
            Ok(environment) => environment,
            Err(error) => return ended(Err(error)),
        };
        let labs: Vec<_> = LABS.iter().filter(|lab| self.labs.contains(&lab.name)).collect();
        let (events, receiver) = Events::channel();
        let reporting =
            report::start(if self.json { Form::Json } else { Form::Terminal }, receiver);
        let runner = Runner {
            environment: Arc::new(environment),
            events,
            failures: Some(self.failures),
            keep: self.keep,
        };
        let exit = in_runtime(async move {
            let interrupted = interruption(self.exit_with_stdin)?;
            Ok(runner.run(&labs, interrupted).await.exit)
        });
        // The senders are gone by now, so the report ends after the last event.
        _ = reporting.join();
        ended(exit)
    }
}

fn in_runtime(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().build().context("starting the runtime")?;
    runtime.block_on(work)
}

/// Ends when the process is to stop. The next signal ends it at once, without cleaning up.
fn interruption(with_stdin: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("listening for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (first, told) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut first = Some(first);
        let mut input = with_stdin.then(end_of_input);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                () = ended_input(&mut input) => {}
            }
            if first.take().is_none() {
                std::process::exit(Exit::Interrupted as i32);
            }
            _ = writeln!(
                std::io::stderr(),
                "interrupted; cleaning up (again to leave all as it is)"
            );
        }
    });
    Ok(async move { _ = told.await })
}

/// Closes when standard input ends. On a thread of its own, since a read of the runtime's would keep
/// the process from ending.
fn end_of_input() -> oneshot::Receiver<()> {
    let (open, ended) = oneshot::channel();
    std::thread::spawn(move || {
        _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop::<oneshot::Sender<()>>(open);
    });
    ended
}

/// Ends once, when the input does; never if there is none.
async fn ended_input(input: &mut Option<oneshot::Receiver<()>>) {
    match input {
        Some(receiver) => {
            _ = receiver.await;
            *input = None;
        }
        None => std::future::pending().await,
    }
}

fn read_environment(path: &Path) -> anyhow::Result<Environment> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the environment {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} does not describe an environment, as `cargo xtask` writes it", path.display())
    })
}

/// The exit of what may have failed before it could tell of itself in events.
fn ended(exit: anyhow::Result<Exit>) -> Exit {
    exit.unwrap_or_else(|error| {
        _ = writeln!(std::io::stderr(), "error: {error:#}");
        Exit::Infrastructure
    })
}

fn named(name: &str) -> Result<&'static Lab, String> {
    let found = LABS.iter().find(|lab| lab.name == name);
    found.ok_or_else(|| unknown("lab", name, LABS.iter().map(|lab| lab.name).chain(["all"])))
}

/// Says that there is no such thing, and which was probably meant.
fn unknown<'a>(what: &str, word: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(word, known) {
        Some(near) => format!("there is no {what} `{word}`; did you mean `{near}`?"),
        None if what == "lab" => {
            format!("there is no lab `{word}`; there are {}, and all", names())
        }
        None => format!("there is no {what} `{word}`"),
    }
}

fn names() -> String {
    LABS.iter().map(|lab| lab.name).collect::<Vec<_>>().join(", ")
}

fn help() -> String {
    let labs = LABS.iter().map(|lab| format!("  {:<10}{}\n", lab.name, lab.title));
    format!("{USAGE}\nLabs\n{}", labs.collect::<String>())
}

fn list() -> String {
    let mut text = String::new();
    for lab in LABS {
        text += &format!("{}  {}\n", lab.name, lab.title);
        for claim in lab.claims {
            text += &format!("  {:<28}{}\n", claim.id, claim.sentence);
        }
    }
    text
}

fn list_as_json() -> String {
    let labs = LABS.iter().map(|lab| {
        serde_json::json!({
            "name": lab.name, "title": lab.title, "summary": lab.summary,
            "article": lab.article, "claims": lab.claims,
        })
    });
    serde_json::Value::from(labs.collect::<Vec<_>>()).to_string()
}

fn explain(lab: &Lab) -> String {
    let claims = lab.claims.iter().map(|claim| format!("  {:<28}{}\n", claim.id, claim.sentence));
    format!(
        "{}: {}\n\n{}\n\nIn the article: {}\n\nClaims\n{}",
        lab.name,
        lab.title,
        lab.summary,
        lab.article,
        claims.collect::<String>()
    )
}

/// Prints to standard output. A reader that has left, such as `head`, is no failure.
fn print(text: &str) -> Exit {
    _ = std::io::stdout().write_all(text.as_bytes());
    Exit::Holds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest() {
        for (line, near) in [
            ("run phase44 --environment e", "phase4"),
            ("run fase3 --environment e", "phase3"),
            ("run al --environment e", "all"),
            ("explain pahse2", "phase2"),
            ("rnu phase4", "run"),
            ("run phase4 --enviroment e", "--environment"),
        ] {
            let wrong = parse(line).unwrap_err();
            assert!(wrong.contains(&format!("`{near}`")), "{line}: {wrong}");
        }
        let wrong = parse("run something-else --environment e").unwrap_err();
        assert!(wrong.contains("phase0, phase1"), "{wrong}");
    }

    #[test]
    fn labs_run_in_order_and_once() {
        let Ok(Command::Run(run)) = parse("run phase4 phase3 phase4 --environment e --json") else {
            panic!("not understood");
        };
        assert_eq!(run.labs, ["phase3", "phase4"]);
        assert!(run.json && !run.keep);
        let Ok(Command::Run(run)) = parse("run all --environment e --keep --failures f") else {
            panic!("not understood");
        };
        assert_eq!(run.labs.len(), LABS.len());
        assert_eq!(run.failures, Path::new("f"));
    }

    #[test]
    fn wrong_usage_says_what_is_missing() {
        for (line, part) in [
            ("run phase4", "--environment FILE"),
            ("run --environment e", "the name of a lab"),
            ("run phase4 --environment", "needs a value"),
            ("explain", "name of a lab"),
            ("list --yaml", "--json"),
            ("bench-sampler x", "seconds"),
        ] {
            let wrong = parse(line).unwrap_err();
            assert!(wrong.contains(part), "{line}: {wrong}");
        }
    }

    #[test]
    fn every_lab_is_in_list_help_and_explanation() {
        for lab in LABS {
            assert!(help().contains(lab.title));
            assert!(explain(lab).contains(lab.summary));
            for claim in lab.claims {
                assert!(list().contains(claim.id) && list_as_json().contains(claim.id));
            }
        }
    }
}
