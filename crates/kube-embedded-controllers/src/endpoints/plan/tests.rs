//! Slices of Services.

use super::*;
use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus, ServicePort};

fn service() -> Service {
    let mut service = Service::default();
    service.metadata.name = Some("web".into());
    service.metadata.uid = Some("service".into());
    service.spec = Some(ServiceSpec {
        selector: Some([("app".to_owned(), "web".to_owned())].into()),
        ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
        ..Default::default()
    });
    service
}

fn pod(n: usize, ready: bool) -> Arc<Pod> {
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Default::default() };
    pod.metadata.name = Some(format!("web-{n}"));
    pod.metadata.uid = Some(format!("uid-{n:04}"));
    pod.status = Some(PodStatus {
        pod_ip: Some(format!("10.0.{}.{}", n / 250, n % 250 + 1)),
        conditions: Some(vec![PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    Arc::new(pod)
}

fn planned(pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Write<EndpointSlice>> {
    plan(Some(&service()), pods, slices, None, Timestamp::UNIX_EPOCH).slices
}

fn created(writes: Vec<Write<EndpointSlice>>) -> Vec<Arc<EndpointSlice>> {
    let slices = writes.into_iter().filter_map(|write| match write {
        Write::Create(slice) => Some(Arc::from(slice)),
        _ => None,
    });
    slices.collect()
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.iter().flatten().count()
}

#[test]
fn slices_hold_a_hundred_endpoints_and_change_one_at_a_time() {
    let pods: Vec<Arc<Pod>> = (0..250).map(|n| pod(n, true)).collect();
    let slices = created(planned(&pods, &[]));
    assert_eq!(slices.iter().map(|slice| count(slice)).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(planned(&pods, &slices), [], "nothing has changed");
    // One pod less changes one slice.
    let fewer = planned(&pods[1..], &slices);
    assert_eq!(fewer.iter().filter(|a| matches!(a, Write::Update { .. })).count(), 1);
}

#[test]
fn service_without_pods_has_one_empty_slice() {
    let slices = created(planned(&[], &[]));
    assert_eq!((slices.len(), count(&slices[0])), (1, 0));
    let filled = planned(&[pod(1, true)], &slices);
    assert!(matches!(&filled[0], Write::Update { new, .. } if count(new) == 1), "{filled:?}");
}

#[test]
fn conditions_show_readiness_and_termination() {
    let mut terminating = (*pod(3, true)).clone();
    terminating.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let cases = [
        (pod(1, true), (true, true, false)),
        (pod(2, false), (false, false, false)),
        (Arc::new(terminating), (false, true, true)),
    ];
    for (pod, expected) in cases {
        let slice = created(planned(&[pod], &[])).remove(0);
        let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        let found = (conditions.ready, conditions.serving, conditions.terminating);
        assert_eq!(found, (Some(expected.0), Some(expected.1), Some(expected.2)));
    }
}

#[test]
fn service_without_selector_is_not_managed() {
    let mut service = service();
    service.spec.as_mut().unwrap().selector = None;
    assert_eq!(plan(Some(&service), &[], &[], None, Timestamp::UNIX_EPOCH), Plan::default());
}
