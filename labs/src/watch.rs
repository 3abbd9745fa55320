//! `labs watch`: checks a participant's namespace at every change of it, and reports each claim whose state
//! is another than before. Keys give hints and start over.

use crate::check::{Check, Judgment, State, check};
use crate::kubernetes::{apply, namespace_client::NamespaceClient};
use crate::lab::Lab;
use crate::names::in_terms_of_program;
use crate::reset;
use crate::run::Exit;
use crate::step::{Command, Step, Target};
use changes::{changes, ended};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use keys::Keys;
use kube::Client;
use lab_environment::Environment;
use std::collections::BTreeMap;
use std::io::Write as _;
use traffic::Traffic;

mod changes;
mod keys;
mod report;
mod traffic;

pub(crate) use report::report;

const HELP: &str = "keys: h hint, n next step, p predict, r reset, q quit";

/// What is shown to a participant.
struct Watch<'a> {
    lab: &'static Lab,
    environment: &'a Environment,
    client: Client,
    namespace: NamespaceClient,
    /// The state of each claim, as it was reported. One that holds stays so: the participant goes on.
    states: BTreeMap<&'static str, State>,
    trouble: Option<String>,
    step: usize,
    depth: usize,
}

/// Watches until `q`, or until every claim holds.
///
/// # Errors
/// If the lab is not done by hand.
pub async fn watch(
    lab: &'static Lab,
    environment: &Environment,
    client: Client,
    name: &str,
) -> anyhow::Result<Exit> {
    let namespace = NamespaceClient::new(client.clone(), name, &environment.timeouts);
    let mut changes = changes(&client, name);
    let mut watch = Watch {
        lab,
        environment,
        client: client.clone(),
        namespace,
        states: BTreeMap::new(),
        trouble: None,
        step: 0,
        depth: 0,
    };
    let mut keys = Keys::open();
    let mut traffic = Traffic::default();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    say(&format!("{}: {} in namespace `{name}`\n{HELP}", lab.name, lab.title));
    watch.show_step();
    let begin = || Box::pin(check(lab, environment, client.clone(), name));
    let mut checking = Some(begin());
    loop {
        if let Some(seen) = traffic.observe(&watch.namespace).await {
            watch.judge(seen);
        }
        tokio::select! {
            // A change during a check starts another: what was sampled is of the past.
            _ = changes.next() => checking = Some(begin()),
            checked = ended(&mut checking) => {
                checking = None;
                watch.report(checked);
            }
            key = keys.next() => if watch.key(key, &mut keys).await? { return Ok(Exit::Holds) },
            _ = &mut interrupt => return Ok(Exit::Interrupted),
        }
        if lab.claims.iter().all(|claim| watch.states.get(claim.id) == Some(&State::Holds)) {
            say("every claim holds");
            return Ok(Exit::Holds);
        }
    }
}

impl Watch<'_> {
    fn target(&self) -> Target<'_> {
        Target { namespace: self.namespace.name(), environment: Some(self.environment) }
    }

    fn current(&self) -> Option<&'static Step> {
        self.lab.steps.get(self.step)
    }

    fn show_step(&self) {
        if let Some(step) = self.current() {
            let (number, all) = (self.step + 1, self.lab.steps.len());
            say(&format!(
                "\nstep {number} of {all}: {}\n  {}\n  look at: {}",
                step.title, step.shows, step.look
            ));
        }
    }

    /// Reports the claims whose state has changed.
    fn report(&mut self, checked: anyhow::Result<Check>) {
        let check = match checked {
            Ok(check) => check,
            Err(error) => return self.report_trouble(Some(format!("{error:#}"))),
        };
        let trouble = check.fault.as_ref().map(|(why, command)| format!("{why}\n  $ {command}"));
        self.report_trouble(trouble);
        for judgment in check.judgments {
            self.judge(judgment);
        }
        self.go_on();
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
            State::Holds => say(&format!("✓ {claim}: {evidence}")),
            _ => say(&format!("✗ {claim}: {evidence}\n  $ {command}")),
        }
    }

    fn report_trouble(&mut self, trouble: Option<String>) {
        if let Some(why) = trouble.as_ref().filter(|why| self.trouble.as_ref() != Some(*why)) {
            say(&format!("! {why}"));
        }
        self.trouble = trouble;
    }

    /// Goes on to the next step once all that the current one proves holds.
    fn go_on(&mut self) {
        let holds = |claim: &&str| self.states.get(*claim) == Some(&State::Holds);
        let mut moved = false;
        while self
            .current()
            .is_some_and(|step| !step.proves.is_empty() && step.proves.iter().all(holds))
        {
            (self.step, self.depth, moved) = (self.step + 1, 0, true);
        }
        if moved {
            self.show_step();
        }
    }

    /// Returns true if the participant quits.
    async fn key(&mut self, key: u8, keys: &mut Keys) -> anyhow::Result<bool> {
        match key {
            b'q' => return Ok(true),
            b'h' => {
                if let Some(step) = self.current() {
                    say(&format!(
                        "hint {}: {}",
                        self.depth.min(2) + 1,
                        step.hint(self.depth, self.target())
                    ));
                    self.depth += 1;
                }
            }
            b'n' => {
                self.step = (self.step + 1).min(self.lab.steps.len().saturating_sub(1));
                self.depth = 0;
                self.show_step();
            }
            b'r' => {
                if let Err(error) = self.reset().await {
                    say(&format!("! failed to reset: {error:#}"));
                }
            }
            b'p' => self.predict(keys).await,
            b'\n' | b'\r' => {}
            _ => say(HELP),
        }
        Ok(false)
    }

    /// Deletes what is in the namespace, and applies what the steps before the first claim apply.
    async fn reset(&mut self) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        let namespace = &self.namespace;
        reset::create_namespace(&self.client, namespace.name()).await?;
        reset::empty(namespace).await?;
        let first = self.lab.steps.iter().take_while(|step| step.proves.is_empty());
        for command in first.flat_map(|step| step.commands) {
            if let Command::Apply(file) = command {
                for manifest in apply::manifests(self.environment, file)? {
                    namespace.apply(&manifest).await?;
                }
            }
        }
        (self.step, self.depth) = (0, 0);
        self.states.clear();
        say(&format!(
            "reset to the start of {} in {:.2} s",
            self.lab.name,
            started.elapsed().as_secs_f64()
        ));
        self.show_step();
        Ok(())
    }

    /// Asks for the canary's share before it is measured.
    async fn predict(&self, keys: &mut Keys) {
        const REQUESTS: u64 = 1000;
        say(&format!(
            "how many of {REQUESTS} requests will the canary get? type a number and Enter"
        ));
        let mut text = String::new();
        loop {
            match keys.next().await {
                b'\n' | b'\r' => break,
                digit @ b'0'..=b'9' if text.len() < 6 => text.push(char::from(digit)),
                _ => {}
            }
        }
        let Ok(predicted) = text.parse::<u64>() else {
            return say("that was no number; press p to try again");
        };
        let Some(version) = self.environment.images.get(1).map(|image| image.version.clone())
        else {
            return;
        };
        let measured = async {
            let external = self.namespace.wait_external_address::<Service>("app-lb", 80).await?;
            self.namespace.sampler(&external).take(REQUESTS, |_| {}).await
        };
        match measured.await {
            Ok(sample) => say(&format!(
                "you said {predicted}; {} of {} got {version}",
                sample.hits(&version),
                sample.total()
            )),
            Err(error) => say(&format!("! nothing to measure: {error:#}")),
        }
    }
}

/// Prints a line. A closed pipe is no failure.
fn say(text: &str) {
    _ = writeln!(std::io::stdout(), "{}", in_terms_of_program(text));
}
