//! The Lease against an API server made of a function, with a paused clock where time is waited for.

use super::*;
use kube::client::Body;
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

/// A client whose every write is answered with that status, and 200 with the object that was sent.
fn client(status: &Arc<AtomicU16>) -> kube::Client {
    let status = status.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let status = status.load(Ordering::SeqCst);
        async move {
            let sent = request.into_body().collect_bytes().await.unwrap();
            let body = match status {
                200 => sent.to_vec(),
                code => serde_json::json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no",
                    "reason": "no", "code": code,
                })
                .to_string()
                .into_bytes(),
            };
            http::Response::builder().status(status).body(Body::from(body))
        }
    });
    kube::Client::new(service, "default")
}

/// The time until a renewed Lease is lost after the API server starts to respond with that status, and
/// the reason.
async fn lost_after(code: u16) -> (Duration, String) {
    let status = Arc::new(AtomicU16::new(200));
    let leases: Api<Lease> = Api::namespaced(client(&status), "default");
    let (report, mut lost) = watch::channel(None);
    let renewal = tokio::spawn(renew(leases, new_lease("one"), report));
    tokio::time::sleep(RENEW_INTERVAL * 10 + RENEW_INTERVAL / 2).await;
    assert_eq!(*lost.borrow(), None, "renewals succeed");
    let began = Instant::now();
    status.store(code, Ordering::SeqCst);
    let why = lost.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    renewal.await.unwrap();
    (began.elapsed(), why)
}

#[tokio::test(start_paused = true)]
async fn renewal_rejected_by_conflict_is_lost_at_once() {
    for code in [404, 409] {
        let (after, why) = lost_after(code).await;
        assert!(after <= RENEW_INTERVAL, "{after:?}");
        assert_eq!(why, TAKEN_OVER);
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_failing_until_expiry_is_lost_then() {
    let (after, why) = lost_after(500).await;
    assert!((RENEW_INTERVAL * 2..RENEW_INTERVAL * 4).contains(&after), "{after:?}");
    assert!(why.starts_with(UNRESPONSIVE), "{why}");
}

#[test]
fn lease_is_held_until_it_expires() {
    let lease = new_lease("one");
    let MicroTime(begun) = lease.spec.as_ref().unwrap().acquire_time.clone().unwrap();
    let at = |seconds| begun.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    assert!(active_holder(&lease, at(0)).unwrap().contains("one"));
    assert!(active_holder(&lease, at(14)).is_some());
    assert_eq!(active_holder(&lease, at(15)), None);
    assert_eq!(active_holder(&Lease::default(), at(0)), None);
}

#[test]
fn takeover_increments_lease_transitions() {
    let spec = with_holder(new_lease("one"), "two").spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(1));
    assert_eq!(spec.holder_identity.as_deref(), Some("two"));
}
