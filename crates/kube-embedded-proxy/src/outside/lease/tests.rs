//! Edges that want the same Lease, on an API in the process.

use super::*;
use k8s_openapi::api::core::v1::Namespace;
use kube_embedded_apiserver::{api, store::Store};
use kube_embedded_core::network::{Addresses, Sandbox};
use serde_json::json;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What belongs to nobody in particular, as somebody else would write it.
const OTHER: &str = "process 1 on elsewhere";

/// As fast as whole seconds allow.
const FAST: Pace = Pace {
    lasts: Duration::from_secs(1),
    renew: Duration::from_millis(100),
    gone: Duration::from_millis(300),
};
const PATIENCE: Duration = Duration::from_secs(60);

async fn client() -> Client {
    let client = bare();
    let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // It may be there from the start.
    let _ = namespaces.create(&PostParams::default(), &namespace).await;
    client
}

fn bare() -> Client {
    let addresses = Addresses { block: 77, sandbox: Sandbox::Plain };
    api::Api::new(Store::default(), addresses).client()
}

fn leases(client: &Client) -> Api<Object> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn held_by(client: &Client) -> Option<String> {
    leases(client).get_opt(NAME).await.unwrap().map(|lease| holder(&lease).to_owned())
}

/// Writes it over, or anew, in the name of somebody else.
async fn write_over(client: &Client, seconds: i32) {
    let api = leases(client);
    let renewed = MicroTime(Timestamp::now());
    let spec = json!({
        "holderIdentity": OTHER, "leaseDurationSeconds": seconds, "renewTime": renewed,
    });
    let lease = json!({ "metadata": { "name": NAME }, "spec": spec });
    let mut lease: Object = serde_json::from_value(lease).unwrap();
    let params = PostParams::default();
    match api.get_opt(NAME).await.unwrap() {
        None => api.create(&params, &lease).await.unwrap(),
        Some(there) => {
            lease.metadata = there.metadata;
            api.replace(NAME, &params, &lease).await.unwrap()
        }
    };
}

/// Until it is held as expected, which is due at the next renewal.
async fn until_held_by(client: &Client, expected: Option<&str>) {
    let held = async {
        while held_by(client).await.as_deref() != expected {
            time::sleep(FAST.renew / 10).await;
        }
    };
    time::timeout(PATIENCE, held).await.expect("it is held as expected");
}

fn taken(result: Result<Lease, EdgeError>) -> String {
    match result {
        Err(EdgeError::Taken(by)) => by,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_that_was_left_behind_is_taken_once_it_has_run_out() {
    let client = client().await;
    write_over(&client, 1).await;
    let begun = Instant::now();
    let lease = Lease::acquire(client.clone(), FAST).await.unwrap();
    assert!(begun.elapsed() >= FAST.lasts, "its holder might have lived");
    assert_eq!(held_by(&client).await.as_ref(), Some(&lease.me));
    // One that was dropped is no other case.
    drop(lease);
    let next = Lease::acquire(client.clone(), FAST).await.unwrap();
    assert_eq!(held_by(&client).await.as_ref(), Some(&next.me));
}

#[tokio::test]
async fn one_that_says_it_lasts_for_years_is_not_waited_for() {
    let client = client().await;
    write_over(&client, i32::MAX).await;
    let acquired = Lease::acquire(client.clone(), FAST);
    time::timeout(PATIENCE, acquired).await.expect("in time").unwrap();
}

#[tokio::test]
async fn one_that_is_renewed_stays_whose_it_is() {
    let client = client().await;
    let first = Lease::acquire(client.clone(), FAST).await.unwrap();
    assert_eq!(taken(Lease::acquire(client.clone(), FAST).await), first.me);
    assert_eq!(held_by(&client).await.as_ref(), Some(&first.me));
    assert!(!first.is_taken().await);
    first.release().await;
    assert_eq!(held_by(&client).await, None);
    let second = Lease::acquire(client.clone(), FAST).await.unwrap();
    second.release().await;
    assert_eq!(held_by(&client).await, None, "nobody renews what was released");
}

#[tokio::test]
async fn of_many_at_once_one_gets_it() {
    let client = client().await;
    let all = futures::future::join_all((0..8).map(|_| Lease::acquire(client.clone(), FAST))).await;
    let (got, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let [Ok(lease)] = &got[..] else { panic!("{got:?}") };
    assert_eq!(held_by(&client).await.as_ref(), Some(&lease.me));
    for refused in refused {
        assert_eq!(taken(refused), lease.me);
    }
}

#[tokio::test]
async fn one_that_was_deleted_by_hand_comes_back() {
    let client = client().await;
    let mut lease = Lease::acquire(client.clone(), FAST).await.unwrap();
    leases(&client).delete(NAME, &DeleteParams::default()).await.unwrap();
    let me = lease.me.clone();
    tokio::select! {
        () = until_held_by(&client, Some(&me)) => {}
        error = lease.lost() => panic!("{error}"),
    }
}

#[tokio::test]
async fn one_that_was_taken_away_is_told_and_left_alone() {
    let client = client().await;
    let mut lease = Lease::acquire(client.clone(), FAST).await.unwrap();
    write_over(&client, 1).await;
    let EdgeError::Taken(by) = lease.lost().await else { panic!("it goes on") };
    assert_eq!(by, OTHER);
    assert!(lease.is_taken().await);
    lease.release().await;
    assert_eq!(held_by(&client).await.as_deref(), Some(OTHER));
}

#[tokio::test]
async fn where_none_can_be_made_it_says_so() {
    let client = bare();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(namespaces.get_opt(NAMESPACE).await.unwrap().is_none());
    let error = Lease::acquire(client, FAST).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot take the Lease of edges: "), "{error}");
}

/// A client whose requests are answered so once it is told to.
async fn failing(
    how: fn() -> io::Result<http::Response<kube::client::Body>>,
) -> (Client, Arc<AtomicBool>) {
    let (fails, inner) = (Arc::new(AtomicBool::new(false)), client().await);
    let told = fails.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (inner, fails) = (inner.clone(), told.load(Ordering::Relaxed));
        async move {
            match fails {
                false => inner.send(request).await.map_err(io::Error::other),
                true => how(),
            }
        }
    });
    (Client::new(service, "default"), fails)
}

#[tokio::test]
async fn a_cluster_that_takes_no_renewal_is_gone() {
    let silent = || Err(io::ErrorKind::ConnectionRefused.into());
    let refuses = || {
        let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized",
            "message":"Unauthorized","code":401}"#;
        let answer = http::Response::builder().status(401);
        answer.body(body.as_bytes().to_vec().into()).map_err(io::Error::other)
    };
    for (how, why) in [
        (silent as fn() -> io::Result<http::Response<kube::client::Body>>, "connection refused"),
        (refuses, "Unauthorized (HTTP 401)"),
    ] {
        let (client, fails) = failing(how).await;
        let mut lease = Lease::acquire(client, FAST).await.unwrap();
        fails.store(true, Ordering::Relaxed);
        let lost = time::timeout(PATIENCE, lease.lost()).await.expect("in time");
        assert!(matches!(&lost, EdgeError::Gone(_, said) if said == why), "{lost}");
        // Nothing is there to be let go of; it does not hold up whoever ends.
        time::timeout(PATIENCE, lease.release()).await.expect("in time");
    }
}
