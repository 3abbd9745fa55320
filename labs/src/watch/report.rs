//! What the page shows of a lab that is done by hand: its steps, and each claim as its state changes.

use super::traffic::Traffic;
use super::view::{self, View};
use crate::check::{Judgment, State, check};
use crate::claim::Verdict;
use crate::event::{Event, Events};
use crate::fault::Fault;
use crate::lab::Lab;
use crate::step::Target;
use futures::stream::StreamExt as _;
use kube::Client;
use lab_environment::Environment;
use std::collections::BTreeMap;
use std::time::Duration;

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
    let mut changes = view::changes(&client, name);
    let (mut view, mut traffic) = (View::default(), Traffic::default());
    let timeout = Duration::from_secs(environment.timeouts.request);
    let mut judged = Judged { lab, events, states: BTreeMap::new(), fault: None };
    let begin = || Box::pin(check(lab, environment, client.clone(), name));
    let mut checking = Some(begin());
    loop {
        traffic.observe(&view, lab, timeout).into_iter().for_each(|seen| judged.claim(seen));
        tokio::select! {
            // A change during a check starts another: what was sampled is of the past.
            Some(change) = changes.next() => {
                view.apply(change);
                checking = Some(begin());
            }
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
    fault: Option<Fault>,
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

    fn fault(&mut self, fault: Option<Fault>) {
        if self.fault != fault {
            let (layer, command) = fault.as_ref().map(|f| (f.layer, f.command.clone())).unzip();
            let reason = fault.as_ref().map_or_else(String::new, |fault| fault.why.clone());
            self.events.send(Event::Diagnosis { layer, reason, command, folder: None });
            self.fault = fault;
        }
    }

    fn progress(&self, text: String) {
        self.events.send(Event::Progress { text });
    }
}

/// The result of a check in progress; never without one.
async fn ended<T>(checking: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match checking {
        Some(checking) => checking.await,
        None => std::future::pending().await,
    }
}
