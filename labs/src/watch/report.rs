//! What the page shows of a lab that is done by hand: its steps, and each claim as its state changes.

use super::changes::{changes, ended};
use super::traffic::Traffic;
use crate::check::{Judgment, State, check};
use crate::claim::Verdict;
use crate::event::{Event, Events};
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::lab::Lab;
use crate::step::Target;
use futures::stream::StreamExt as _;
use kube::Client;
use lab_environment::Environment;
use std::collections::BTreeMap;

/// Sends the steps of a lab, and its claims' verdicts at every change of the namespace. One that holds stays
/// so: the participant goes on. Never returns.
pub(crate) async fn report(
    lab: &'static Lab,
    environment: &Environment,
    client: Client,
    name: &str,
    events: &Events,
) {
    let events = events.of_lab(lab.name);
    let claims = lab.claims.iter().map(|claim| claim.id).collect();
    events.send(Event::LabStarted { title: lab.title, claims });
    let target = Target { namespace: name, environment: Some(environment) };
    let steps = lab.steps.iter().map(|step| step.listed(target)).collect();
    events.send(Event::StepsListed { steps });
    let namespace = NamespaceClient::new(client.clone(), name, &environment.timeouts);
    let mut changes = changes(&client, name);
    let mut traffic = Traffic::default();
    let mut judged = Judged { lab, events, states: BTreeMap::new(), fault: None };
    let begin = || Box::pin(check(lab, environment, client.clone(), name));
    let mut checking = Some(begin());
    loop {
        if let Some(seen) = traffic.observe(&namespace).await {
            judged.claim(seen);
        }
        tokio::select! {
            // A change during a check starts another: what was sampled is of the past.
            _ = changes.next() => checking = Some(begin()),
            checked = ended(&mut checking) => {
                checking = None;
                match checked {
                    Ok(check) => {
                        judged.fault(check.fault);
                        check.judgments.into_iter().for_each(|judgment| judged.claim(judgment));
                        judged.progress(String::new());
                    }
                    Err(error) => judged.progress(format!("{error:#}")),
                }
            }
        }
    }
}

/// What has been reported.
struct Judged {
    lab: &'static Lab,
    events: Events,
    states: BTreeMap<&'static str, State>,
    fault: Option<(String, String)>,
}

impl Judged {
    fn claim(&mut self, judgment: Judgment) {
        let Judgment { claim, state, evidence, .. } = judgment;
        let before = self.states.get(claim).copied();
        if state == State::NotYet || before == Some(State::Holds) || before == Some(state) {
            return;
        }
        self.states.insert(claim, state);
        let known = self.lab.claims.iter().find(|known| known.id == claim);
        let sentence = known.map_or("", |known| known.sentence);
        let verdict = Verdict::of(state == State::Holds, evidence);
        self.events.send(Event::ClaimJudged { claim, sentence, verdict });
    }

    fn fault(&mut self, fault: Option<(String, String)>) {
        if self.fault != fault {
            let (reason, command) = fault.clone().unzip();
            let reason = reason.unwrap_or_default();
            self.events.send(Event::Diagnosis { layer: None, reason, command, folder: None });
            self.fault = fault;
        }
    }

    fn progress(&self, text: String) {
        self.events.send(Event::Progress { text });
    }
}
