//! `labs watch`: shows every change of a participant's namespace, checks it, and reports each claim whose state is
//! another than before. Keys give hints and start over.

use crate::check::{BY_HAND, Check, Judgment, State, check};
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::lab::Lab;
use crate::reset;
use crate::run::Exit;
use crate::sampler::Sampler;
use crate::step::{Step, Target};
use anyhow::{Context as _, ensure};
use futures::stream::StreamExt as _;
use keys::Keys;
use kube::Client;
use lab_environment::Environment;
use prompt::{Input, Prompt, Question};
use screen::Screen;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use traffic::Traffic;
use view::View;

mod keys;
mod prompt;
mod report;
mod screen;
mod traffic;
mod view;

pub(crate) use report::report;

const HELP: &str = "keys: h hint, n next step, p predict, r start over, q quit";
/// In place of [`HELP`] where standard input is neither a terminal nor a pipe.
const WITHOUT_KEYS: &str = "no keys without a terminal: ends once every claim holds, after --timeout SECONDS, or with Ctrl-C";
/// The interval of looking at the background traffic.
const TRAFFIC: Duration = Duration::from_millis(200);
/// A change during a check starts another: what was sampled is of the past. But not within this time, or none would
/// end while many things change.
const RESTART: Duration = Duration::from_secs(1);
/// The time between a change and its check: what is shown of it comes first, before requests take all cores.
const SETTLE: Duration = Duration::from_millis(100);
/// The requests of a prediction.
const PREDICTED: u64 = 1000;

/// What is shown to a participant.
struct Watch {
    lab: &'static Lab,
    environment: Arc<Environment>,
    client: Client,
    namespace: NamespaceClient,
    screen: Screen,
    view: View,
    /// The state of each claim, as it was reported. One that holds stays so: the participant goes on.
    states: BTreeMap<&'static str, State>,
    trouble: Option<String>,
    step: usize,
    depth: usize,
    prompt: Option<Prompt>,
    /// Whether the participant has agreed to lose what is in the namespace.
    may_delete: bool,
    /// The check in progress, since when, and whether something has changed since.
    checks: JoinSet<anyhow::Result<Check>>,
    since: Instant,
    changed: bool,
    /// When the next check begins.
    due: Option<Instant>,
    work: JoinSet<Done>,
}

/// The end of something that a key has started.
enum Done {
    Text(String),
    /// The namespace is not one that may be emptied without a question.
    Ask(&'static Lab),
    Reset(&'static Lab, Duration),
}

/// Watches until `q` or `interrupted`, until every claim holds, or for `timeout`.
///
/// # Errors
/// If the lab is not done by hand.
pub async fn watch(
    lab: &'static Lab,
    environment: Environment,
    client: Client,
    name: &str,
    timeout: Option<Duration>,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Exit> {
    ensure!(
        BY_HAND.contains(&lab.name),
        "{0} makes nothing in a namespace; prove it by `cargo xtask lab {0}`",
        lab.name
    );
    let mut changes = view::changes(&client, name);
    let mut watch = Watch::new(lab, environment, client, name);
    let mut keys = Keys::open();
    let mut traffic = Traffic::default();
    let mut interrupted = std::pin::pin!(interrupted);
    let mut pace = tokio::time::interval(TRAFFIC);
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let help = if keys.can_come() { HELP } else { WITHOUT_KEYS };
    watch.screen.say(&format!("{}: {} in namespace `{name}`\n{help}", lab.name, lab.title));
    watch.show_step();
    watch.begin();
    loop {
        tokio::select! {
            Some(change) = changes.next() => {
                watch.view.apply(change);
                watch.show_status();
                watch.begin_again();
            }
            () = reached(watch.due) => watch.begin(),
            Some(checked) = watch.checks.join_next() => {
                let checked = checked.context("the check panicked");
                watch.report(checked.and_then(|checked| checked));
            }
            Some(done) = watch.work.join_next() => watch.done(done.context("a task panicked")?),
            key = keys.next() => if watch.key(key) { return Ok(Exit::Holds) },
            _ = pace.tick() => {}
            () = reached(deadline) => return Ok(watch.timed_out()),
            () = &mut interrupted => return Ok(Exit::Interrupted),
        }
        let timeout = Duration::from_secs(watch.environment.timeouts.request);
        for seen in traffic.observe(&watch.view, watch.lab, timeout) {
            watch.judge(seen);
            watch.go_on();
        }
        if watch.open().is_empty() {
            watch.screen.say("every claim holds");
            return Ok(Exit::Holds);
        }
        if watch.screen.is_closed() {
            return Ok(Exit::Holds);
        }
    }
}

/// Completes at that time; never without one.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Watch {
    fn new(lab: &'static Lab, environment: Environment, client: Client, name: &str) -> Self {
        let namespace = NamespaceClient::new(client.clone(), name, &environment.timeouts);
        Self {
            lab,
            environment: Arc::new(environment),
            client,
            namespace,
            screen: Screen::open(),
            view: View::default(),
            states: BTreeMap::new(),
            trouble: None,
            step: 0,
            depth: 0,
            prompt: None,
            may_delete: false,
            checks: JoinSet::new(),
            since: Instant::now(),
            changed: false,
            due: None,
            work: JoinSet::new(),
        }
    }

    fn target(&self) -> Target<'_> {
        Target { namespace: self.namespace.name(), environment: Some(&self.environment) }
    }

    /// The claims that have not held.
    fn open(&self) -> Vec<&'static str> {
        let ids = self.lab.claims.iter().map(|claim| claim.id);
        ids.filter(|id| self.states.get(id) != Some(&State::Holds)).collect()
    }

    fn timed_out(&mut self) -> Exit {
        let open = self.open();
        let all = self.lab.claims.len();
        self.screen.say(&format!(
            "timed out: {} of {all} claims do not hold: {}",
            open.len(),
            open.join(", ")
        ));
        Exit::Fails
    }

    fn current(&self) -> Option<&'static Step> {
        self.lab.steps.get(self.step)
    }

    /// Starts a check instead of the one in progress.
    fn begin(&mut self) {
        let (lab, environment, client) = (self.lab, self.environment.clone(), self.client.clone());
        let name = self.namespace.name().to_owned();
        self.checks = JoinSet::new();
        (self.since, self.changed, self.due) = (Instant::now(), false, None);
        self.checks.spawn(async move { check(lab, &environment, client, &name).await });
    }

    /// Plans a check, soon or after the one in progress.
    fn begin_again(&mut self) {
        if self.checks.is_empty() || self.since.elapsed() > RESTART {
            self.due.get_or_insert_with(|| Instant::now() + SETTLE);
        } else {
            self.changed = true;
        }
    }

    fn show_step(&mut self) {
        let Some(step) = self.current() else { return };
        let (number, all) = (self.step + 1, self.lab.steps.len());
        let Step { title, shows, look, .. } = step;
        let next = if step.proves.is_empty() { "\n  n when you have done it" } else { "" };
        self.screen
            .say(&format!("\nstep {number} of {all}: {title}\n  {shows}\n  look at: {look}{next}"));
    }

    /// Shows the question that is open, or else what there is in the namespace.
    fn show_status(&mut self) {
        let line = match &self.prompt {
            Some(prompt) => prompt.text().1,
            None => self.view.status(),
        };
        self.screen.show(line);
    }

    /// Reports the claims whose state has changed.
    fn report(&mut self, checked: anyhow::Result<Check>) {
        match checked {
            // What was sampled may be of both before and after the change.
            Ok(_) if self.changed => {}
            Ok(check) => {
                let trouble = check
                    .fault
                    .map(|fault| format!("{}: {fault}\n  $ {}", fault.layer.word(), fault.command));
                self.report_trouble(trouble);
                check.judgments.into_iter().for_each(|judgment| self.judge(judgment));
                self.go_on();
            }
            Err(error) => self.report_trouble(Some(format!("{error:#}"))),
        }
        if self.changed {
            self.begin();
        }
    }

    /// Reports a claim unless its state is the one reported before, or it has held.
    fn judge(&mut self, judgment: Judgment) {
        let Judgment { claim, state, evidence, command } = judgment;
        let before = self.states.get(claim).copied();
        if state == State::NotYet || before == Some(State::Holds) || before == Some(state) {
            return;
        }
        self.states.insert(claim, state);
        match state {
            State::Holds => self.screen.say(&format!("✓ {claim}: {evidence}")),
            _ => self.screen.say(&format!("✗ {claim}: {evidence}\n  $ {command}")),
        }
    }

    fn report_trouble(&mut self, trouble: Option<String>) {
        if let Some(why) = trouble.as_ref().filter(|why| self.trouble.as_ref() != Some(*why)) {
            self.screen.say(&format!("! {why}"));
        }
        self.trouble = trouble;
    }

    /// Goes on to the next step once all that the current one proves holds. One that proves nothing is done when the
    /// next that does has been.
    fn go_on(&mut self) {
        let holds = |claim: &&str| self.states.get(*claim) == Some(&State::Holds);
        let before = self.step;
        let rest = |step: usize| self.lab.steps.iter().skip(step);
        while let Some(empty) = rest(self.step).position(|step| !step.proves.is_empty()) {
            let proves = self.lab.steps.get(self.step + empty).map_or(&[][..], |step| step.proves);
            if !proves.iter().all(holds) {
                break;
            }
            self.step += empty + 1;
        }
        if self.step != before {
            self.depth = 0;
            self.show_step();
        }
    }

    /// Returns true if the participant quits.
    fn key(&mut self, key: u8) -> bool {
        if let Some(mut prompt) = self.prompt.take() {
            match prompt.key(key) {
                Input::More => self.prompt = Some(prompt),
                Input::Cancelled => {}
                Input::Line(line) => self.respond(&prompt.question, &line),
            }
            self.show_status();
            return false;
        }
        match key {
            b'q' => return true,
            b'h' => self.hint(),
            b'n' => {
                self.step = (self.step + 1).min(self.lab.steps.len().saturating_sub(1));
                self.depth = 0;
                self.show_step();
            }
            b'r' => self.ask(Question::Phase(self.lab.name)),
            b'p' => self.ask(Question::Predict(PREDICTED)),
            b'\n' | b'\r' => {}
            _ => self.screen.say(HELP),
        }
        false
    }

    fn hint(&mut self) {
        let Some(step) = self.current() else { return };
        let hint = step.hint(self.depth, self.target());
        let text = match self.depth {
            0 | 1 => format!("hint {}: {hint}", self.depth + 1),
            _ => format!("hint 3:\n  $ {}", hint.replace('\n', "\n  $ ")),
        };
        self.screen.say(&text);
        self.depth += 1;
    }

    fn ask(&mut self, question: Question) {
        let prompt = Prompt::new(question);
        self.screen.say(&prompt.text().0);
        self.prompt = Some(prompt);
        self.show_status();
    }

    /// Does what the line asks for.
    fn respond(&mut self, question: &Question, line: &str) {
        match question {
            Question::Predict(requests) => match line.trim().parse::<u64>() {
                Ok(guess) if guess <= *requests => self.predict(guess, *requests),
                _ => self.screen.say(&format!("a number from 0 to {requests}; p to try again")),
            },
            Question::Phase(_) => match prompt::lab(line, self.lab) {
                Some(lab) => self.reset(lab, self.may_delete),
                None => self.screen.say("3, 4 or 5; r to try again"),
            },
            Question::Delete(phase, namespace) if line == *namespace => {
                self.may_delete = true;
                if let Some(lab) = prompt::lab(phase, self.lab) {
                    self.reset(lab, true);
                }
            }
            Question::Delete(..) => self.screen.say("nothing was deleted"),
        }
    }

    /// Starts over, after a question unless the namespace was created for that or `confirmed`.
    fn reset(&mut self, lab: &'static Lab, confirmed: bool) {
        let (environment, client) = (self.environment.clone(), self.client.clone());
        let namespace = self.namespace.clone();
        self.work.spawn(async move {
            let reset = async {
                if !confirmed && !reset::is_ours(&client, namespace.name()).await? {
                    return Ok(Done::Ask(lab));
                }
                let took = reset::to_the_start(lab, &environment, &client, &namespace).await?;
                anyhow::Ok(Done::Reset(lab, took))
            };
            let failed = |error| Done::Text(format!("! failed to start over: {error:#}"));
            reset.await.unwrap_or_else(failed)
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Text(text) => self.screen.say(&text),
            Done::Ask(lab) => {
                let namespace = self.namespace.name().to_owned();
                self.ask(Question::Delete(lab.name, namespace));
            }
            Done::Reset(lab, took) => {
                (self.lab, self.step, self.depth) = (lab, 0, 0);
                self.states.clear();
                self.trouble = None;
                let took = took.as_secs_f64();
                self.screen.say(&format!("at the start of {} after {took:.2} s", lab.name));
                self.show_step();
                self.begin();
            }
        }
    }

    /// Measures the canary's share, and compares it with the guess.
    fn predict(&mut self, guess: u64, requests: u64) {
        let Some(version) = self.environment.images.get(1).map(|image| image.version.clone())
        else {
            return;
        };
        let Some(at) = self.view.published(self.lab) else {
            return self.screen.say("there is no address to send requests to yet");
        };
        let ready = |env: &str| self.view.ready(&format!("app=kubeapp,env={env}"));
        let pods =
            format!("{} pods of stable, {} of the canary", ready("production"), ready("canary"));
        let timeout = Duration::from_secs(self.environment.timeouts.request);
        self.work.spawn(async move {
            let host = if at.host.contains(':') { format!("[{}]", at.host) } else { at.host };
            let measured = async {
                let url = format!("http://{host}:{}/version", at.port);
                let mut sampler = Sampler::to(&url, timeout).await?;
                if let Some(name) = at.names.first() {
                    sampler = sampler.host(name);
                }
                sampler.take(requests, |_| {}).await
            };
            Done::Text(match measured.await {
                Ok(sample) => format!(
                    "you said {guess}; {} of {} got {version} ({pods})",
                    sample.hits(&version),
                    sample.total()
                ),
                Err(error) => format!("! nothing to measure: {error:#}"),
            })
        });
    }
}
