//! Fixtures of the unit tests.

use crate::claim::{Outcome, Verdict};
use crate::event::{Band, Event, Latency, PodObserved, PodState, SampleEnded, SampleProgress};
use crate::fault::Layer;
use crate::statistics::{Ratio, Split};
use crate::step::ListedStep;
use lab_environment::{Alternative, Environment, Image, IngressClass, Timeouts};
use std::path::PathBuf;

/// An environment with this repository's manifests and no cluster.
pub(crate) fn environment() -> Environment {
    let image = |version: &str| Image {
        version: version.into(),
        manifest_name: format!("kubeapp:{version}"),
        name: format!("kubeapp:{version}"),
        archive: PathBuf::new(),
        rebuilt: PathBuf::new(),
        binary: PathBuf::new(),
        build_input: format!("KUBEAPP_VERSION={version}"),
    };
    Environment {
        provider: "test".into(),
        kubeconfig: PathBuf::new(),
        started_in: None,
        manifests: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests")),
        images: vec![image("1.0"), image("2.0")],
        pull_policy: "IfNotPresent".into(),
        architecture: None,
        pull_secret: None,
        ingress_class: IngressClass::Unnamed,
        gateway_class: None,
        app: PathBuf::new(),
        docker: false,
        timeouts: Timeouts { rollout: 1, address: 1, request: 1, propagation: 0 },
        alternative: Alternative::NearestReplica,
        unsupported: vec![],
    }
}

/// The events of a short run with every kind of event.
pub(crate) fn events() -> Vec<Event> {
    let judged = |claim, verdict| Event::ClaimJudged { claim, sentence: "It is so.", verdict };
    let split = Split::against(Ratio::new(3, 1), Ratio::new(4, 1)).unwrap();
    vec![
        Event::RunStarted {
            schema: crate::event::SCHEMA,
            version: "0",
            provider: "kind".into(),
            labs: vec!["phase4"],
        },
        Event::LabStarted {
            title: "The canary",
            claims: vec!["a-claim", "a-share", "another", "third", "fourth"],
        },
        Event::StepsListed {
            steps: vec![ListedStep {
                id: "roll-out",
                title: "roll out",
                shows: "It rolls.",
                commands: vec!["kubectl apply -f lb/app-lb.yml".into()],
                look: "it is there",
                hints: ["Roll.".into(), "Roll out.".into()],
                proves: &["a-claim"],
            }],
        },
        Event::StepStarted { id: "roll-out", step: "roll out".into() },
        Event::Command { command: "apply -f lb/app-lb.yml".into() },
        Event::Progress { text: "1 of 3".into() },
        Event::SampleProgress(sample_progress()),
        Event::SampleEnded(sample_ended()),
        Event::NodeObserved { node: "node-1".into(), ready: Some(true) },
        Event::PodObserved(PodObserved {
            pod: "kubeapp-canary-1".into(),
            node: Some("node-1".into()),
            version: Some("2.0".into()),
            state: PodState::Pending,
            reason: Some("ImagePullBackOff".into()),
            restarts: 0,
        }),
        Event::ClusterEvent {
            severity: "Warning".into(),
            object: "Pod/kubeapp-canary-1".into(),
            reason: "Unhealthy".into(),
            message: "Readiness probe failed".into(),
        },
        Event::ClusterConnection { connected: false, reason: Some("connection refused".into()) },
        Event::StepEnded { step: "roll out".into(), seconds: 1.25 },
        judged("a-claim", Verdict::holds("7 of 7").with([1, 2])),
        judged("a-share", split.judge("2.0", 1113, 4460)),
        Event::Diagnosis {
            layer: Some(Layer::Pod),
            reason: "it crashes".into(),
            command: Some("kubectl describe pod p".into()),
            folder: Some("lab-failures/1".into()),
        },
        judged("another", Verdict::fails("6 of 7")),
        judged("third", Verdict::skipped("not here")),
        judged("fourth", Verdict::follows("another")),
        Event::LabEnded { seconds: 2.0, error: Some("no address".into()) },
        Event::RunEnded {
            claims: [("a-claim", Outcome::Holds), ("another", Outcome::Fails)].into(),
            holds: 2,
            fails: 1,
            skipped: 1,
            errors: vec!["phase4: no address".into()],
            exit_code: 1,
            seconds: 2.04,
        },
    ]
}

/// A sample of 80 requests, half done.
pub(crate) fn sample_progress() -> SampleProgress {
    let counts = [("1.0".to_owned(), 30), ("2.0".to_owned(), 10)].into();
    let band = Band { version: "2.0".into(), share: 0.25, low: 10, high: 30 };
    let what = "load balancer".to_owned();
    let (pods, latency) = ([("kubeapp-canary-1".to_owned(), 10)].into(), Some(LATENCY));
    SampleProgress { what, planned: 80, counts, failures: 1, band: Some(band), pods, latency }
}

const LATENCY: Latency = Latency { p50: 0.001, p90: 0.002, p99: 0.004, max: 0.25 };

/// The end of that sample.
fn sample_ended() -> SampleEnded {
    let counts = [("1.0".to_owned(), 59), ("2.0".to_owned(), 20)].into();
    let what = "load balancer".to_owned();
    SampleEnded { what, seconds: 0.5, counts, failures: 1, latency: Some(LATENCY) }
}
