use super::*;
use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};

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

fn planned(pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    plan(Some(&service()), pods, slices, None, Timestamp::UNIX_EPOCH)
}

fn created(actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
    let slices = actions.into_iter().filter_map(|action| match action {
        Action::Create(slice) => Some(Arc::from(slice)),
        _ => None,
    });
    slices.collect()
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.iter().flatten().count()
}

#[test]
fn slices_hold_a_hundred_and_settle() {
    let pods: Vec<Arc<Pod>> = (0..250).map(|n| pod(n, true)).collect();
    let slices = created(planned(&pods, &[]));
    assert_eq!(slices.iter().map(|slice| count(slice)).collect::<Vec<_>>(), [100, 100, 50]);
    let again = planned(&pods, &slices);
    assert!(!again.iter().any(|a| matches!(a, Action::Create(_) | Action::Update { .. })));
    // One pod less is a change of one slice.
    let fewer = planned(&pods[1..], &slices);
    assert_eq!(fewer.iter().filter(|a| matches!(a, Action::Update { .. })).count(), 1);
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let slices = created(planned(&[], &[]));
    assert_eq!((slices.len(), count(&slices[0])), (1, 0));
    let filled = planned(&[pod(1, true)], &slices);
    assert!(matches!(&filled[0], Action::Update { new, .. } if count(new) == 1), "{filled:?}");
}

#[test]
fn readiness_and_leaving_show() {
    let mut leaving = (*pod(3, true)).clone();
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let cases = [
        (pod(1, true), (true, true, false)),
        (pod(2, false), (false, false, false)),
        (Arc::new(leaving), (false, true, true)),
    ];
    for (pod, expected) in cases {
        let slice = created(planned(&[pod], &[])).remove(0);
        let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        let found = (conditions.ready, conditions.serving, conditions.terminating);
        assert_eq!(found, (Some(expected.0), Some(expected.1), Some(expected.2)));
    }
}

#[test]
fn a_service_without_selector_is_left_alone() {
    let mut service = service();
    service.spec.as_mut().unwrap().selector = None;
    assert_eq!(plan(Some(&service), &[], &[], None, Timestamp::UNIX_EPOCH), []);
}
