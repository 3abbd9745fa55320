//! The board against streams of events.

use super::*;
use crate::fixture;
use proptest::prelude::*;

fn stamped(at: f64, event: Event) -> Stamped {
    Stamped { at, lab: Some("phase4"), event }
}

fn progress(what: &str, stable: u64, canary: u64, failures: u64) -> Event {
    let all = [("1.0".to_owned(), stable), ("2.0".to_owned(), canary)];
    let counts = all.into_iter().filter(|(_, count)| *count > 0).collect();
    let sample =
        SampleProgress { what: what.into(), counts, failures, ..fixture::sample_progress() };
    Event::SampleProgress(sample)
}

fn ended() -> Board {
    let mut board = Board::default();
    for (at, event) in fixture::events().into_iter().enumerate() {
        board.event(&stamped(at as f64, event));
    }
    board
}

#[test]
fn frame_has_every_section_and_then_only_what_changed() {
    let mut board = ended();
    let first = board.frame(0).unwrap();
    for section in [
        "run",
        "claims",
        "guide",
        "steps",
        "connection",
        "nodes",
        "pods",
        "sample",
        "totals",
        "diagnosis",
        "log",
    ] {
        assert!(first.get(section).is_some(), "{section}: {first}");
    }
    assert_eq!(first["claims"][2]["outcome"], "fails");
    assert_eq!(first["claims"][2]["evidence"], "6 of 7");
    assert_eq!(first["guide"]["lab"], "phase4");
    assert_eq!(first["guide"]["steps"][0]["proves"], json!(["a-claim"]));
    assert_eq!(first["nodes"], json!({"node-1": true}));
    assert_eq!(first["pods"][0]["reason"], "ImagePullBackOff");
    assert_eq!(first["connection"]["lost"]["reason"], "connection refused");
    assert_eq!(first["run"]["ended"]["exitCode"], 1);
    assert_eq!(first["totals"], json!({"counts": {"1.0": 59, "2.0": 20}, "failures": 1}));
    let since = board.change();
    assert_eq!(board.frame(since), None, "nothing changed");
    board.event(&stamped(20.0, Event::NodeObserved { node: "node-1".into(), ready: None }));
    let frame = board.frame(since).unwrap();
    assert_eq!(frame, json!({"at": 20.0, "nodes": {}}));
}

/// As when a person ends a cluster and starts another, which the page follows.
#[test]
fn another_cluster_takes_the_place_of_the_first() {
    let mut board = ended();
    let since = board.change();
    let (provider, version) = ("kind".to_owned(), "0");
    let started = Event::RunStarted { schema: 1, version, provider, labs: vec![] };
    board.event(&stamped(30.0, started));
    let frame = board.frame(since).unwrap();
    for (section, empty) in [
        ("nodes", json!({})),
        ("pods", json!([])),
        ("claims", json!([])),
        ("guide", json!({"lab": "", "steps": []})),
        ("diagnosis", Value::Null),
        ("connection", json!({"lost": null})),
    ] {
        assert_eq!(frame[section], empty, "{section}");
    }
    assert_eq!(frame["run"]["ended"], Value::Null);
}

#[test]
fn fault_that_is_repaired_is_no_longer_shown() {
    let mut board = ended();
    let repaired =
        Event::Diagnosis { layer: None, reason: String::new(), command: None, folder: None };
    board.event(&stamped(30.0, repaired));
    assert_eq!(board.frame(0).unwrap()["diagnosis"], Value::Null);
}

#[test]
fn removed_pod_disappears() {
    let mut board = ended();
    let pod = PodObserved {
        pod: "kubeapp-canary-1".into(),
        node: None,
        version: None,
        state: PodState::Removed,
        reason: None,
        restarts: 0,
    };
    board.event(&stamped(20.0, Event::PodObserved(pod)));
    assert_eq!(board.frame(0).unwrap()["pods"], json!([]));
}

/// An hour of 5,000 requests a second, reported every 100 ms.
#[test]
fn state_stays_small_at_5000_requests_a_second() {
    let mut board = Board::default();
    let frames = 36_000;
    for frame in 1..=frames {
        let at = frame as f64 / 10.0;
        board.event(&stamped(at, progress("load", frame * 375, frame * 125, frame / 1000)));
        board.event(&stamped(at, Event::StepStarted { id: "step", step: format!("step {frame}") }));
        board.event(&stamped(at, Event::StepEnded { step: format!("step {frame}"), seconds: 0.1 }));
    }
    let frame = board.frame(0).unwrap();
    assert_eq!(frame["totals"]["counts"], json!({"1.0": frames * 375, "2.0": frames * 125}));
    assert_eq!(frame["log"].as_array().unwrap().len(), LOG);
    let points = frame["sample"]["points"].as_array().unwrap();
    assert!((POINTS / 2..=POINTS).contains(&points.len()), "{}", points.len());
    assert_eq!(points.last().unwrap()[0], frames * 500 + frames / 1000, "the last point is kept");
    assert!(frame.to_string().len() < 64 << 10, "{}", frame.to_string().len());
    let next = board.frame(board.change() - 3).unwrap();
    assert!(next.get("claims").is_none() && next.to_string().len() < 16 << 10, "{next}");
}

proptest! {
    /// A page that misses any of the frames ends with the same counts as one that sees them all.
    #[test]
    fn counts_do_not_depend_on_which_frames_are_read(
        added in proptest::collection::vec((0u64..700, 0u64..300, 0u64..3, any::<bool>()), 1..60),
    ) {
        let mut board = Board::default();
        let (mut stable, mut canary, mut failures) = (0, 0, 0);
        let (mut shown, mut seen) = (Value::Null, 0);
        for (at, (more, hits, failed, read)) in added.into_iter().enumerate() {
            (stable, canary, failures) = (stable + more, canary + hits, failures + failed);
            board.event(&stamped(at as f64, progress("a", stable, canary, failures)));
            if read && let Some(frame) = board.frame(seen) {
                (shown, seen) = (frame["totals"].clone(), board.change());
            }
        }
        if let Some(frame) = board.frame(seen) {
            shown = frame["totals"].clone();
        }
        let count = |version: &str| shown["counts"][version].as_u64().unwrap_or(0);
        prop_assert_eq!((count("1.0"), count("2.0")), (stable, canary));
        prop_assert_eq!(shown["failures"].as_u64(), Some(failures));
    }
}
