//! Single claims: their phase runs only as far as they need it, and judges them alone.

use crate::fixture::{Fixture, LabRun};
use labs::{claim::Outcome, phases};
use std::collections::BTreeSet;

/// A claim and all that it needs.
fn closure(id: &'static str) -> BTreeSet<&'static str> {
    let claims = || phases::ALL.iter().flat_map(|lab| lab.claims);
    let (mut open, mut found) = (vec![id], BTreeSet::new());
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(claims().filter(|claim| claim.id == id).flat_map(|claim| claim.needs));
        }
    }
    found
}

fn judged(run: &LabRun) -> BTreeSet<&'static str> {
    [Outcome::Holds, Outcome::Fails, Outcome::Skipped].iter().flat_map(|o| run.claims(*o)).collect()
}

/// On a correct cluster none may fail for a step that was saved.
#[tokio::test(flavor = "multi_thread")]
async fn each_claim_holds_by_itself() {
    for lab in phases::ALL {
        for claim in lab.claims {
            let run = Fixture::new().with_claims(&[claim.id]).run_alone(lab.name).await;
            assert_eq!(run.claims(Outcome::Holds), closure(claim.id), "{}", run.evidence(claim.id));
            assert_eq!(judged(&run).len(), closure(claim.id).len(), "{}: no others", claim.id);
            assert_eq!(run.errors(), "", "{}", claim.id);
        }
    }
}

/// The second phase finds nothing of the first, which ended early.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_several_phases_do_not_affect_each_other() {
    let ids = ["readiness-gates", "quarter-to-canary"];
    let run = Fixture::new().with_claims(&ids).run_alone("phase3 phase4").await;
    let expected: BTreeSet<_> = ids.into_iter().flat_map(closure).collect();
    assert_eq!(run.claims(Outcome::Holds), expected, "{}", run.evidence("quarter-to-canary"));
}

/// A claim that is not selected, but that ends the phase, is reported.
#[tokio::test(flavor = "multi_thread")]
async fn claim_that_is_not_selected_is_judged_only_if_it_ends_the_phase() {
    let fixture =
        Fixture::new().with_timeouts(12).replace("lb/app-lb.yml", "app: kubeapp", "app: x");
    let run = fixture.with_claims(&["self-heals"]).run_alone("phase3").await;
    assert_eq!(judged(&run), closure("self-heals"), "lb-finds-pods fails unseen");
    assert_eq!(run.claims(Outcome::Fails).len(), 0, "{}", run.errors());

    let fixture = Fixture::new().with_timeouts(12).replace(
        "ingress/app-production.yml",
        "path: /health",
        "path: /healthy",
    );
    let run = fixture.with_claims(&["tls-terminates"]).run_alone("phase5").await;
    assert_eq!(run.claims(Outcome::Fails), ["backends-healthy-first"].into(), "{}", run.errors());
    assert_eq!(run.claims(Outcome::Skipped), closure("tls-terminates"));
}
