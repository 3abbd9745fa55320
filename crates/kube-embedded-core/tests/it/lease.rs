//! Candidates for one Lease. The clock is paused, so that whole seconds cost nothing.

use crate::api;
use jiff::Timestamp;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kube_embedded_core::lease::{LeaderLease, LeaseError, LeaseTimings};
use serde_json::json;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{self, Instant};

const NAME: &str = "leader";
const NAMESPACE: &str = "kube-system";
/// The identity of a holder that this process does not run.
const OTHER: &str = "process 1 on elsewhere";
const TIMINGS: LeaseTimings = LeaseTimings {
    duration: Duration::from_secs(9),
    renew_interval: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(300),
    request_timeout: Duration::from_secs(15),
};
const DEADLINE: Duration = Duration::from_secs(600);

async fn client() -> Client {
    let client = api::client();
    let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // It may exist from the start.
    let _ = namespaces.create(&PostParams::default(), &namespace).await;
    client
}

async fn acquire(client: &Client) -> Result<LeaderLease, LeaseError> {
    LeaderLease::acquire(client.clone(), NAMESPACE, NAME, TIMINGS).await
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn holder(client: &Client) -> Option<String> {
    leases(client).get_opt(NAME).await.unwrap()?.spec?.holder_identity
}

/// Creates or replaces the Lease as another holder would.
async fn write_as_other(client: &Client, seconds: i32) {
    let api = leases(client);
    let spec = json!({
        "holderIdentity": OTHER, "leaseDurationSeconds": seconds,
        "renewTime": MicroTime(Timestamp::now()),
    });
    let lease = json!({ "metadata": { "name": NAME }, "spec": spec });
    let mut lease: Lease = serde_json::from_value(lease).unwrap();
    let params = PostParams::default();
    match api.get_opt(NAME).await.unwrap() {
        None => api.create(&params, &lease).await.unwrap(),
        Some(current) => {
            lease.metadata = current.metadata;
            api.replace(NAME, &params, &lease).await.unwrap()
        }
    };
}

/// Waits until the Lease is held as expected, which is due at the next renewal.
async fn wait_for_holder(client: &Client, expected: Option<&str>) {
    let held = async {
        while holder(client).await.as_deref() != expected {
            time::sleep(TIMINGS.renew_interval / 10).await;
        }
    };
    time::timeout(DEADLINE, held).await.expect("it is held as expected");
}

fn other_holder(result: Result<LeaderLease, LeaseError>) -> String {
    match result {
        Err(LeaseError::HeldByOther(holder)) => holder,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn abandoned_lease_is_acquired_after_it_expires() {
    let client = client().await;
    write_as_other(&client, 9).await;
    let started = Instant::now();
    let lease = acquire(&client).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 9, "its holder might be alive");
    assert_eq!(holder(&client).await.as_deref(), Some(lease.identity()));
    // One that was dropped is abandoned, too.
    drop(lease);
    let next = acquire(&client).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 18);
    assert_eq!(holder(&client).await.as_deref(), Some(next.identity()));
}

#[tokio::test(start_paused = true)]
async fn absurd_lease_duration_is_capped() {
    let client = client().await;
    write_as_other(&client, i32::MAX).await;
    let started = Instant::now();
    acquire(&client).await.unwrap();
    assert_eq!(started.elapsed(), 2 * TIMINGS.duration);
}

#[tokio::test(start_paused = true)]
async fn renewed_lease_is_not_taken_over() {
    let client = client().await;
    let first = acquire(&client).await.unwrap();
    assert_eq!(other_holder(acquire(&client).await), first.identity());
    assert_eq!(holder(&client).await.as_deref(), Some(first.identity()));
    assert!(!first.is_held_by_other().await);
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_deleted_and_acquired_at_once() {
    let client = client().await;
    let started = Instant::now();
    acquire(&client).await.unwrap().release().await;
    assert_eq!(holder(&client).await, None);
    acquire(&client).await.unwrap().release().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    time::sleep(10 * TIMINGS.renew_interval).await;
    assert_eq!(holder(&client).await, None, "a released lease is not renewed");
}

#[tokio::test(start_paused = true)]
async fn concurrent_acquire_has_a_single_winner() {
    let client = client().await;
    let all = futures::future::join_all((0..8).map(|_| acquire(&client))).await;
    let (acquired, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let [Ok(lease)] = &acquired[..] else { panic!("{acquired:?}") };
    assert_eq!(holder(&client).await.as_deref(), Some(lease.identity()));
    for refused in refused {
        assert_eq!(other_holder(refused), lease.identity());
    }
}

#[tokio::test(start_paused = true)]
async fn deleted_lease_is_created_again() {
    let client = client().await;
    let mut lease = acquire(&client).await.unwrap();
    leases(&client).delete(NAME, &DeleteParams::default()).await.unwrap();
    let identity = lease.identity().to_owned();
    tokio::select! {
        () = wait_for_holder(&client, Some(&identity)) => {}
        error = lease.lost() => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn lease_without_holder_is_acquired_again() {
    let client = client().await;
    let mut lease = acquire(&client).await.unwrap();
    let patch = kube::api::Patch::Merge(json!({ "spec": { "holderIdentity": "" } }));
    leases(&client).patch(NAME, &Default::default(), &patch).await.unwrap();
    let identity = lease.identity().to_owned();
    tokio::select! {
        () = wait_for_holder(&client, Some(&identity)) => {}
        error = lease.lost() => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn lease_taken_by_other_is_lost_and_left_alone() {
    let client = client().await;
    let mut lease = acquire(&client).await.unwrap();
    write_as_other(&client, 1).await;
    assert!(matches!(lease.lost().await, LeaseError::HeldByOther(holder) if holder == OTHER));
    assert!(lease.is_held_by_other().await);
    lease.release().await;
    assert_eq!(holder(&client).await.as_deref(), Some(OTHER));
}

#[tokio::test(start_paused = true)]
async fn refused_lease_is_reported() {
    let client = api::client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(namespaces.get_opt(NAMESPACE).await.unwrap().is_none());
    let error = acquire(&client).await.unwrap_err().to_string();
    assert!(error.starts_with("failed to acquire the lease: "), "{error}");
}

type Response = io::Result<http::Response<kube::client::Body>>;

/// Returns a client whose requests all get `response` once the flag is set.
async fn failing(response: fn() -> Response) -> (Client, Arc<AtomicBool>) {
    let (fails, inner) = (Arc::new(AtomicBool::new(false)), client().await);
    let flag = fails.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (inner, fails) = (inner.clone(), flag.load(Ordering::Relaxed));
        async move {
            match fails {
                false => inner.send(request).await.map_err(io::Error::other),
                true => response(),
            }
        }
    });
    (Client::new(service, "default"), fails)
}

#[tokio::test(start_paused = true)]
async fn lease_that_cannot_be_renewed_is_lost_after_the_deadline() {
    let silent = || Err(io::ErrorKind::ConnectionRefused.into());
    let refuses = || {
        let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized",
            "message":"Unauthorized","code":401}"#;
        let response = http::Response::builder().status(401);
        response.body(body.as_bytes().to_vec().into()).map_err(io::Error::other)
    };
    for (response, expected) in
        [(silent as fn() -> Response, "ConnectionRefused"), (refuses, "Unauthorized")]
    {
        let (client, fails) = failing(response).await;
        let mut lease = acquire(&client).await.unwrap();
        fails.store(true, Ordering::Relaxed);
        let started = Instant::now();
        let lost = lease.lost().await;
        assert!(started.elapsed() > TIMINGS.renew_deadline, "{:?}", started.elapsed());
        let LeaseError::RenewalFailed { cause: Some(cause), .. } = &lost else { panic!("{lost}") };
        assert!(format!("{cause:?}").contains(expected), "{cause:?}");
        // There is nothing to release, and that does not hold up shutdown.
        let started = Instant::now();
        lease.release().await;
        assert!(started.elapsed() <= TIMINGS.request_timeout);
    }
}
