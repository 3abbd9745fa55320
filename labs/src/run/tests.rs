//! Failures on a cluster that is lost in the meantime: a lab of two claims on a scripted API server.

use super::*;
use crate::claim::Claim;
use crate::event::Stamped;
use crate::fixture::environment;
use futures::future::BoxFuture;
use kube::client::Body;
use std::sync::{Mutex, mpsc::Receiver};

/// A client of an API server that responds with the status last requested by `/respond/503`; with
/// `/respond/503/once` only to the next request.
fn client() -> kube::Client {
    let state = Arc::new(Mutex::new((200_u16, false)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let mut state = state.lock().unwrap();
        let path = request.uri().path();
        let mut status = state.0;
        if let Some(requested) = path.strip_prefix("/respond/") {
            let (code, once) =
                requested.split_once('/').map_or((requested, false), |(code, _)| (code, true));
            *state = (code.parse().unwrap(), once);
            status = 200;
        } else if state.1 {
            *state = (200, false);
        }
        let response = http::Response::builder().status(status).body(Body::empty());
        futures::future::ready(response)
    });
    kube::Client::new(service, "default")
}

/// Makes the API server respond with that status from now on.
async fn respond_with(client: &kube::Client, status: &str) {
    let request = http::Request::get(format!("/respond/{status}")).body(Vec::new()).unwrap();
    client.request_text(request).await.unwrap();
}

fn fails(context: &Context, claim: &str) {
    context.judge_now(claim, Verdict::fails("it does not")).unwrap();
}

async fn run(
    run: for<'a> fn(&'a Context) -> BoxFuture<'a, anyhow::Result<()>>,
) -> (Result<(), String>, Vec<&'static str>, Receiver<Stamped>) {
    const CLAIMS: &[Claim] =
        &[Claim::new("first", ""), Claim::new("second", "").needs(&["zeroth"])];
    let lab: &'static Lab = Box::leak(Box::new(Lab {
        name: "lab",
        title: "",
        summary: "",
        article: "",
        claims: CLAIMS,
        steps: &[],
        uses_namespace: false,
        run,
    }));
    let (events, receiver) = Events::channel();
    let environment = Arc::new(environment());
    let runner = Runner {
        environment,
        selection: Selection::default(),
        events,
        failures: None,
        keep: false,
        observe: false,
        step: false,
    };
    let context = runner.context(lab, client(), Arc::new(OwnedNamespace::default()), None);
    // A lab that does not end must not block the tests.
    let ended = tokio::time::timeout(DIAGNOSIS_TIMEOUT, runner.run_lab(lab, &context))
        .await
        .expect("an end");
    let outcomes = verdicts(&context).iter().map(|(_, verdict)| verdict.outcome.word()).collect();
    (ended, outcomes, receiver)
}

/// The verdicts and diagnoses that were published, in order.
fn published(events: &Receiver<Stamped>) -> Vec<String> {
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
#[tokio::test(start_paused = true)]
async fn failure_at_the_end_on_a_lost_cluster_is_skipped() {
    let (ended, outcomes, events) = run(|context| {
        Box::pin(async {
            context.judge_now("first", Verdict::holds("so it is"))?;
            respond_with(&context.client(), "503").await;
            fails(context, "second");
            Ok(())
        })
    })
    .await;
    assert!(ended.unwrap_err().starts_with("the cluster does not respond"));
    assert_eq!(outcomes, ["holds", "skipped"]);
    assert!(published(&events).starts_with(&["first holds".into(), "second skipped".into()]));
}

#[tokio::test(start_paused = true)]
async fn failure_before_the_cluster_is_lost_stands_and_later_ones_are_skipped() {
    let (ended, outcomes, events) = run(|context| {
        Box::pin(async {
            fails(context, "first");
            // Here the runner checks the cluster.
            tokio::task::yield_now().await;
            respond_with(&context.client(), "503").await;
            fails(context, "second");
            std::future::pending().await
        })
    })
    .await;
    assert!(ended.unwrap_err().starts_with("the cluster does not respond"), "nothing can follow");
    assert_eq!(outcomes, ["fails", "skipped"]);
    assert_eq!(published(&events), ["diagnosis", "first fails", "second skipped"]);
}

/// Rejections and a single failed response are no loss of the cluster.
#[tokio::test(start_paused = true)]
async fn probe_accepts_any_status_of_a_live_api_server() {
    for status in ["200", "403", "404", "429", "503/once"] {
        assert!(probe(status).await.is_ok(), "{status}");
    }
    for status in ["401", "500", "502", "503", "504"] {
        let why = probe(status).await.unwrap_err();
        assert!(why.contains("the cluster does not"), "{status}: {why}");
    }
}

async fn probe(status: &str) -> Result<(), String> {
    let client = client();
    respond_with(&client, status).await;
    probe_readyz(&client).await
}

#[tokio::test(start_paused = true)]
async fn verdict_after_a_failure_is_published_after_it() {
    let (ended, outcomes, events) = run(|context| {
        Box::pin(async {
            fails(context, "first");
            context.judge_now("second", Verdict::holds("so it is"))?;
            Ok(())
        })
    })
    .await;
    assert_eq!((ended, outcomes), (Ok(()), vec!["fails", "holds"]));
    assert_eq!(published(&events), ["diagnosis", "first fails", "second holds"]);
}

/// A claim that nobody checks would pass unnoticed, whether or not another fails.
#[tokio::test(start_paused = true)]
async fn claim_without_a_verdict_is_an_error() {
    let (ended, outcomes, _) = run(|context| {
        Box::pin(async {
            context.judge_now("first", Verdict::holds("so it is"))?;
            Ok(())
        })
    })
    .await;
    assert_eq!(ended, Err("a bug in these labs: no verdict on second".to_owned()));
    assert_eq!(outcomes, ["holds", "skipped"]);

    let (ended, outcomes, _) = run(|context| {
        Box::pin(async {
            fails(context, "first");
            Ok(())
        })
    })
    .await;
    assert_eq!(ended, Err("a bug in these labs: no verdict on second".to_owned()));
    assert_eq!(outcomes, ["fails", "skipped"]);
}

/// What the lab applied is at fault: its claim fails, and the others follow.
#[tokio::test(start_paused = true)]
async fn mistake_that_ends_a_lab_fails_the_claim_at_stake() {
    let (ended, outcomes, events) = run(|context| {
        Box::pin(async {
            context.checking("second");
            Err(Fault::new(Layer::Manifest, "no such field", "kubectl apply").into())
        })
    })
    .await;
    assert_eq!((ended, outcomes), (Ok(()), vec!["fails", "skipped"]));
    assert_eq!(published(&events), ["diagnosis", "second fails", "first skipped"]);
}

/// The same error from the cluster itself, or of a node, is none of a manifest.
#[tokio::test(start_paused = true)]
async fn error_that_is_no_mistake_ends_a_lab_without_a_verdict() {
    let (ended, outcomes, _) = run(|_| {
        Box::pin(async { Err(Fault::new(Layer::Node, "node-2 is not ready", "kubectl").into()) })
    })
    .await;
    assert_eq!((ended, outcomes), (Err("node-2 is not ready".into()), vec!["skipped", "skipped"]));
}

/// `openssl x509 -req` makes such a certificate without `-extfile`.
#[tokio::test]
async fn certificate_of_version_1_is_reported_with_kubeconfig_and_user() {
    const PEM: &str =
        include_str!("../../../crates/kube-embedded-proxy/src/http_proxy/tls_secret/version1.pem");
    let folder = std::env::temp_dir().join(format!("canary-v1-{:x}", rand::random::<u64>()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("admin.pem"), PEM).unwrap();
    let kubeconfig = serde_json::json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "admin",
            "user": {"client-certificate": "admin.pem", "client-key": "admin.pem"}}],
    });
    let path = folder.join("config");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let error = super::client(&path).await.err().unwrap().to_string();
    let expected = format!(
        "failed to use user `admin` of the kubeconfig {}: its client certificate is an X.509 certificate of version 1",
        path.display()
    );
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(error.starts_with(&expected), "{error}");
}
