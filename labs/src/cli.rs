//! The command line of `labs`.

use crate::calibration;
use crate::event::Events;
use crate::lab::Lab;
use crate::names::WITHOUT_CLUSTER;
use crate::phases;
use crate::report;
use crate::run::{self, Exit, Runner};
use crate::step;
use crate::wrap::columns;
use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use common::{block_on, exit_of, print, read_environment};
use interrupt::interruption;
use log::LogFlags;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use target::Target;

mod bench;
mod broken;
mod check;
mod common;
mod interrupt;
mod list;
mod log;
mod observe;
mod room;
mod run_file;
mod target;

/// What is explained without a cluster at hand.
const TARGET: step::Target<'static> =
    step::Target { namespace: crate::names::NAMESPACE, environment: None };

const EXIT_CODES: &str = "\
Exit codes:
  0    Every claim holds, or was skipped with a reason
  1    A claim fails
  2    Wrong usage
  3    The environment failed
  130  Interrupted, after cleaning up";

/// Prove every claim of the article on canary deployments, with numbers
#[derive(Debug, Parser)]
#[command(name = "labs", version, after_help = help_footer())]
struct Cli {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run labs on the cluster that an environment file describes
    #[command(after_help = EXIT_CODES)]
    Run(RunFlags),
    /// List the labs and their claims
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain a lab and its place in the article
    Explain {
        /// The lab
        #[arg(value_parser = PossibleValuesParser::new(target::lab_values()))]
        lab: String,
    },
    /// Show the progress of participants side by side, for a teacher
    Room(room::Flags),
    /// Show a cluster on a live page, while you work on it by hand
    Ui(observe::Flags),
    /// Create a key that signs run files: FILE to hand out to participants, and FILE.pub to verify with
    Keygen {
        /// The file to create
        file: PathBuf,
    },
    /// Verify the signature of a run file, and print its verdicts
    Verify {
        /// The run file
        file: PathBuf,
        /// The public key: 64 hexadecimal digits, or the file that holds them
        #[arg(long)]
        key: String,
    },
    /// Judge what was made by hand, without a change
    #[command(after_help = check::EXIT_CODES)]
    Check(check::CheckFlags),
    /// Judge what is being made by hand, at every change
    #[command(after_help = check::WATCH_EXIT_CODES)]
    Watch(check::WatchFlags),
    /// Start a release that is broken on purpose, and judge whether it is fixed
    #[command(after_help = check::EXIT_CODES)]
    Broken(broken::BrokenFlags),
    /// Simulate releases, and print how often this analysis and the rules of other tools are wrong
    #[command(hide = true)]
    Calibrate {
        /// Simulated releases a row
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        streams: u64,
        /// Seed of the simulation
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure the load generator itself
    #[command(hide = true)]
    BenchSampler {
        /// http://host[:port]/path
        url: String,
        /// Duration of the measurement in seconds
        seconds: f64,
    },
}

#[derive(Args, Debug)]
struct RunFlags {
    /// The labs to run, in the order of the article; `phase4/<claim>` is one claim, with those it needs
    #[arg(required = true, value_name = "LAB", value_parser = target::TargetParser)]
    labs: Vec<Target>,
    /// The environment file that describes the cluster (written by `cargo xtask`)
    #[arg(long, value_name = "FILE")]
    environment: PathBuf,
    /// Print events as JSON, one per line, by docs/labs-events.schema.json; the last is the summary
    #[arg(long)]
    json: bool,
    /// Print events of progress as well
    #[arg(long, requires = "json")]
    progress: bool,
    /// Write a JUnit report: a test suite per lab, a test case per claim
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a page with plots of everything that was measured
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a job summary and annotations for GitHub Actions; the default there
    #[arg(long)]
    github: bool,
    /// Write plan, counts and verdicts to a file to hand in, for `labs verify`
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Sign the run file with this key of `labs keygen`
    #[arg(long, value_name = "FILE", requires = "run_file")]
    key: Option<PathBuf>,
    /// The participant's name in the run file and in the room
    #[arg(long, value_name = "NAME")]
    participant: Option<String>,
    /// Report the progress to a teacher's room: the address that `labs room` printed
    #[arg(long, value_name = "URL", requires = "participant")]
    room: Option<report::RoomAddress>,
    /// Show the run on a live page in a browser on this machine, at this port if one is given
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true)]
    ui: Option<Option<u16>>,
    /// Apply the manifests of this folder, with `lb/`, `ingress/` and `gateway/` in it, instead of the environment's
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Directory for diagnostics of failed labs
    #[arg(long, value_name = "DIR", default_value = "lab-failures")]
    failures: PathBuf,
    /// Keep the namespace at the end
    #[arg(long)]
    keep: bool,
    /// Show each step with its commands, and wait for Enter before it
    #[arg(long, conflicts_with_all = ["json", "exit_with_stdin"])]
    step: bool,
    /// Stop, as if interrupted, when standard input is closed, e.g. because the parent process died
    #[arg(long)]
    exit_with_stdin: bool,
}

/// The end of the help: labs and exit codes.
fn help_footer() -> String {
    let labs = phases::ALL.iter().map(|lab| format!("  {:<9}{}\n", lab.name, lab.title));
    format!("Labs:\n{}\n{EXIT_CODES}", labs.collect::<String>())
}

/// Adds a suggestion for a misspelled subcommand where clap has none: its similarity measure fails for
/// short words with swapped letters (`rnu`).
fn with_suggestion(mut error: clap::Error) -> clap::Error {
    let suggested = ContextKind::SuggestedSubcommand;
    if let (Some(ContextValue::String(word)), None) =
        (error.get(ContextKind::InvalidSubcommand), error.get(suggested))
    {
        let command = Cli::command();
        let names = command.get_subcommands().filter(|command| !command.is_hide_set());
        let edits = |name: &&str| strsim::osa_distance(word, name);
        let nearest = names.map(clap::Command::get_name).min_by_key(edits);
        let nearest = nearest.filter(|name| edits(name) * 3 <= name.len().max(word.len()));
        if let Some(name) = nearest.map(str::to_owned) {
            error.insert(suggested, ContextValue::Strings(vec![name]));
        }
    }
    error
}

/// Returns the definitions of the commands [`WITHOUT_CLUSTER`].
pub fn without_cluster() -> Vec<clap::Command> {
    let commands = Cli::command();
    let commands = commands.get_subcommands();
    commands.filter(|command| WITHOUT_CLUSTER.contains(&command.get_name())).cloned().collect()
}

/// Runs the command with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let exit = match Cli::try_parse_from(arguments).map_err(with_suggestion) {
        Ok(cli) => cli.run(),
        Err(error) => {
            // A closed pipe is no failure.
            _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Holds }
        }
    };
    ExitCode::from(exit as u8)
}

impl Cli {
    fn run(self) -> Exit {
        if let Err(error) = self.log.init() {
            _ = writeln!(std::io::stderr(), "error: {error:#}");
            return Exit::Usage;
        }
        match self.command {
            None => print(&Self::command().render_help().to_string()),
            Some(Command::List { json: true }) => print(&(list::as_json() + "\n")),
            Some(Command::List { json: false }) => print(&list::as_text(columns())),
            Some(Command::Explain { lab }) => match phases::find(&lab) {
                Some(lab) => print(&list::explanation(lab, TARGET, columns())),
                None => Exit::Usage,
            },
            Some(Command::Run(flags)) => flags.run(),
            Some(Command::Ui(flags)) => exit_of(flags.run()),
            Some(Command::Room(flags)) => exit_of(flags.run()),
            Some(Command::Keygen { file }) => {
                exit_of(run_file::keygen(&file).map(|text| print(&text)))
            }
            Some(Command::Verify { file, key }) => {
                exit_of(run_file::verify(&file, &key).map(|text| print(&text)))
            }
            Some(Command::Check(flags)) => exit_of(flags.check()),
            Some(Command::Broken(flags)) => exit_of(flags.run()),
            Some(Command::Watch(flags)) => exit_of(flags.watch()),
            Some(Command::Calibrate { streams, seed }) => print(&calibration::table(streams, seed)),
            Some(Command::BenchSampler { url, seconds }) => {
                exit_of(block_on(async move { Ok(print(&bench::sampler(&url, seconds).await?)) }))
            }
        }
    }
}

impl RunFlags {
    /// The selected labs in the order of the article, each once.
    fn selected(&self) -> Vec<&'static Lab> {
        let is_selected = |lab: &&Lab| self.labs.iter().any(|target| target.is_in(lab));
        phases::ALL.iter().filter(is_selected).collect()
    }

    fn reports(&self) -> report::Options {
        report::Options {
            json: self.json,
            progress: self.progress,
            junit: self.junit.clone(),
            html: self.html.clone(),
            github: self.github || std::env::var("GITHUB_ACTIONS").is_ok_and(|set| set == "true"),
            run_file: self.run_file.clone(),
            key: self.key.clone(),
            name: self.participant.clone(),
            room: self.room.clone(),
            ui: self.ui,
        }
    }

    fn run(self) -> Exit {
        let labs = self.selected();
        let (events, receiver) = Events::channel();
        let options = self.reports();
        let reports = match report::Reports::start(&options, receiver) {
            Ok(reports) => reports,
            Err(error) => return exit_of(Err(error)),
        };
        let exit = self.run_labs(&labs, &events).unwrap_or_else(|error| {
            run::report_failure(&events, &labs, &error);
            Exit::Infrastructure
        });
        // Without senders, the report ends after the last event.
        drop(events);
        match reports.join() {
            Err(error) if exit == Exit::Holds => exit_of(Err(error)),
            Err(error) => {
                _ = exit_of(Err(error));
                exit
            }
            Ok(()) => exit,
        }
    }

    fn run_labs(&self, labs: &[&'static Lab], events: &Events) -> anyhow::Result<Exit> {
        let mut environment = read_environment(&self.environment)?;
        if let Some(manifests) = &self.manifests {
            anyhow::ensure!(manifests.is_dir(), "{} is not a folder", manifests.display());
            environment.manifests.clone_from(manifests);
        }
        let runner = Runner {
            environment: Arc::new(environment),
            selection: target::selection(&self.labs),
            events: events.clone(),
            failures: Some(self.failures.clone()),
            keep: self.keep,
            observe: self.reports().shows_cluster(),
            step: self.step,
        };
        block_on(async move {
            let interrupted = interruption(self.exit_with_stdin)?;
            Ok(runner.run(labs, interrupted).await.exit)
        })
    }
}

#[cfg(test)]
mod tests;
