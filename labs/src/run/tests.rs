//! Failures on a cluster that is lost meanwhile: a lab of two claims on an API that does as it is told.

use super::*;
use crate::claim::Claim;
use crate::event::Stamped;
use crate::kubernetes::fit::tests::environment;
use futures::future::BoxFuture;
use kube::client::Body;
use std::sync::{Mutex, mpsc::Receiver};

/// Answers with the last status that it was asked for: `/says/503`. A
/// status with `/once` goes with the next answer.
fn client() -> kube::Client {
    let state = Arc::new(Mutex::new((200_u16, false)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let mut state = state.lock().unwrap();
        let path = request.uri().path();
        let mut status = state.0;
        if let Some(says) = path.strip_prefix("/says/") {
            let (says, once) = says.split_once('/').map_or((says, false), |(says, _)| (says, true));
            *state = (says.parse().unwrap(), once);
            status = 200;
        } else if state.1 {
            *state = (200, false);
        }
        let answer = http::Response::builder().status(status).body(Body::empty());
        futures::future::ready(answer)
    });
    kube::Client::new(service, "default")
}

/// Has the API say that from now on.
async fn says(context: &Context, status: &str) {
    let asked = http::Request::get(format!("/says/{status}")).body(Vec::new()).unwrap();
    context.client().request_text(asked).await.unwrap();
}

fn fails(context: &Context, claim: &str) {
    context.judge(claim, Verdict::fails("it does not")).unwrap();
}

async fn play(
    run: for<'a> fn(&'a Context) -> BoxFuture<'a, anyhow::Result<()>>,
) -> (Result<(), String>, Vec<&'static str>, Receiver<Stamped>) {
    const CLAIMS: &[Claim] =
        &[Claim { id: "first", sentence: "" }, Claim { id: "second", sentence: "" }];
    let lab: &'static Lab = Box::leak(Box::new(Lab {
        name: "lab",
        title: "",
        summary: "",
        article: "",
        claims: CLAIMS,
        run,
    }));
    let (events, told) = Events::channel();
    let environment = Arc::new(environment());
    let production = Arc::new(Production::default());
    let context = Context::new(lab, environment.clone(), client(), &events, production);
    let runner = Runner { environment, events, failures: None, keep: false };
    // A lab that nobody ends must not keep the tests waiting.
    let ended = tokio::time::timeout(GATHER, runner.lab(&context)).await.expect("an end");
    let outcomes = verdicts(&context).iter().map(|(_, verdict)| verdict.outcome.word()).collect();
    (ended, outcomes, told)
}

/// What the reports were told of claims, in order.
fn told(events: &Receiver<Stamped>) -> Vec<String> {
    let judged = events.try_iter().filter_map(|stamped| match stamped.event {
        Event::ClaimJudged { claim, verdict, .. } => {
            Some(format!("{claim} {}", verdict.outcome.word()))
        }
        Event::Diagnosis { .. } => Some("diagnosis".to_owned()),
        _ => None,
    });
    judged.collect()
}

/// Nothing is awaited between the failure and the end.
#[tokio::test]
async fn the_last_claim_is_not_failed_by_a_cluster_that_died() {
    let (ended, outcomes, events) = play(|context| {
        Box::pin(async {
            context.judge("first", Verdict::holds("so it is"))?;
            says(context, "503").await;
            fails(context, "second");
            Ok(())
        })
    })
    .await;
    assert!(ended.unwrap_err().starts_with("the cluster does not answer"));
    assert_eq!(outcomes, ["holds", "skipped"]);
    assert!(told(&events).starts_with(&["first holds".into(), "second skipped".into()]));
}

#[tokio::test]
async fn what_fails_before_a_cluster_dies_stands_and_what_fails_after_does_not() {
    let (ended, outcomes, events) = play(|context| {
        Box::pin(async {
            fails(context, "first");
            // Here the runner asks whether the cluster is there.
            tokio::task::yield_now().await;
            says(context, "503").await;
            fails(context, "second");
            std::future::pending().await
        })
    })
    .await;
    assert!(ended.unwrap_err().starts_with("the cluster does not answer"), "nothing can follow");
    assert_eq!(outcomes, ["fails", "skipped"]);
    assert_eq!(told(&events), ["first fails", "diagnosis", "second skipped"]);
}

/// Also where the API refuses what it was asked, and where one answer goes wrong.
#[tokio::test]
async fn a_claim_fails_on_a_cluster_that_is_there() {
    for status in ["200", "403", "404", "429", "503/once"] {
        assert!(says_of_the_cluster(status).await.is_ok(), "{status}");
    }
    for status in ["401", "500", "502", "503", "504"] {
        let why = says_of_the_cluster(status).await.unwrap_err();
        assert!(why.contains("the cluster does not"), "{status}: {why}");
    }
}

async fn says_of_the_cluster(status: &str) -> Result<(), String> {
    let client = client();
    let asked = http::Request::get(format!("/says/{status}")).body(Vec::new()).unwrap();
    client.request_text(asked).await.unwrap();
    silence(&client).await.map_or(Ok(()), Err)
}

/// Reports learn of verdicts in the order in which they were given.
#[tokio::test]
async fn what_is_judged_after_a_failure_is_told_after_it() {
    let (ended, outcomes, events) = play(|context| {
        Box::pin(async {
            fails(context, "first");
            context.judge("second", Verdict::holds("so it is"))?;
            Ok(())
        })
    })
    .await;
    assert_eq!((ended, outcomes), (Ok(()), vec!["fails", "holds"]));
    assert_eq!(told(&events), ["first fails", "second holds", "diagnosis"]);
}
