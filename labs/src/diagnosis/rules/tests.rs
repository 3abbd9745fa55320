//! Each rule alone, and that the first layer is blamed.

use super::*;

fn pod(name: &str) -> PodFacts {
    PodFacts { name: name.to_owned(), ready: true, ..PodFacts::default() }
}

fn healthy() -> Facts {
    let service =
        ServiceFacts { name: "app-lb".to_owned(), matching: 2, endpoints: 2, ..Default::default() };
    let sample = SampleFacts { what: "lb".into(), total: 9, ..SampleFacts::default() };
    let ingress = IngressFacts { name: "app-ingress".into(), ..IngressFacts::default() };
    let deployment = DeploymentFacts {
        name: "d".into(),
        replicas: 3,
        image: "kubeapp:1.0".into(),
        revision: 1,
        ..DeploymentFacts::default()
    };
    let probe = |kind, at: &str| ProbeFacts {
        kind,
        object: "app-lb".into(),
        at: at.into(),
        node: Some("n1".into()),
        failure: None,
    };
    Facts {
        deployments: vec![deployment],
        ingresses: vec![ingress],
        pods: vec![pod("a"), pod("b")],
        services: vec![service],
        samples: vec![sample],
        probes: vec![
            probe(Probed::NodePort, "10.0.0.1:30080"),
            probe(Probed::LoadBalancer, "127.1.1.1:80"),
            probe(Probed::Ingress, "127.1.1.2:80"),
        ],
        ..Facts::default()
    }
}

type Break = fn(&mut Facts);

/// From the last layer to the first: each hides those above it in this table.
const TABLE: &[(Break, Layer, &str)] = &[
    (
        |f| {
            (f.deployments[0].pinned, f.failing) =
                (Some("nodeName node-2".into()), Some("c".into()))
        },
        Layer::Schedule,
        "the pods of d may run on certain nodes only: nodeName node-2",
    ),
    (
        |f| (f.pods[0].restarted, f.failing) = (Some("its program ended".into()), Some("c".into())),
        Layer::Pod,
        "pod a was restarted, its program ended: it served nothing meanwhile",
    ),
    (|f| f.samples[0].wrong = 1, Layer::App, "lb: 1 of 9 responses wrong ()"),
    (|f| f.impostors = vec!["p runs 2.0".into()], Layer::App, "p runs 2.0"),
    (
        |f| (f.samples[0].by_ingress, f.samples[0].refused) = (true, 1),
        Layer::Route,
        "lb: 1 of 9 requests had no route ()",
    ),
    (
        |f| {
            f.pods[0].restarted = None;
            (f.samples[0].by_ingress, f.samples[0].lost) = (true, 1);
        },
        Layer::Route,
        "lb: 1 of 9 requests lost ()",
    ),
    (
        |f| (f.pods[0].restarted, f.samples[0].lost) = (Some("its program ended".into()), 1),
        Layer::Pod,
        "pod a was restarted, its program ended; lb: 1 of 9 requests lost ()",
    ),
    (
        |f| f.probes[2].failure = Some("refused".into()),
        Layer::Route,
        "app-lb does not respond at 127.1.1.2:80: refused",
    ),
    (|f| f.ingresses[0].awaits_address = true, Layer::Route, "app-ingress has no address"),
    (|f| f.ingresses[0].misroute = Some("no rule".into()), Layer::Route, "no rule"),
    (
        |f| f.ingresses[0].missing = vec!["canary:80 for foo.bar/".into()],
        Layer::Route,
        "app-ingress refers to a missing object: canary:80 for foo.bar/",
    ),
    (|f| f.ingresses[0].class_problem = Some("no class".into()), Layer::Route, "no class"),
    (
        |f| f.probes[1].failure = Some("refused".into()),
        Layer::LoadBalancer,
        "app-lb does not respond at 127.1.1.1:80: refused",
    ),
    (
        |f| f.services[0].pins_clients = true,
        Layer::LoadBalancer,
        "app-lb has `sessionAffinity: ClientIP`, so that a client keeps its pod",
    ),
    (|f| f.services[0].awaits_address = true, Layer::LoadBalancer, "app-lb has no address"),
    (
        |f| {
            f.services[0].other_type = Some("ClusterIP".into());
            f.services[0].expected_type = "LoadBalancer".into();
        },
        Layer::LoadBalancer,
        "app-lb is of type ClusterIP, where the article's is a LoadBalancer",
    ),
    (
        |f| {
            f.failing = Some("c".into());
            f.deployments[0].revision = 2;
            f.deployments[0].takes_all = Some("maxUnavailable 3 of 3".into());
        },
        Layer::Strategy,
        "d: maxUnavailable 3 of 3, so that a rollout may leave no pod to serve",
    ),
    (
        |f| f.probes[0].failure = Some("refused".into()),
        Layer::NodeProxy,
        "node n1 does not forward its port of app-lb (10.0.0.1:30080): refused",
    ),
    (
        |f| f.services[0].endpoints = 1,
        Layer::Endpoints,
        "app-lb has 1 ready endpoints for 2 ready pods",
    ),
    (
        |f| f.services[0].publishes_unready = true,
        Layer::Endpoints,
        "app-lb has `publishNotReadyAddresses`: it sends traffic to pods that are not ready",
    ),
    (|f| f.services[0].port_problem = Some("no port 80".into()), Layer::Port, "no port 80"),
    (|f| f.services[0].selector_problem = Some("selects 0".into()), Layer::Selector, "selects 0"),
    (|f| f.deployments[0].other_labels = Some("labels".into()), Layer::Selector, "labels"),
    (
        |f| f.deployments[0].expected_replicas = Some(2),
        Layer::Replicas,
        "d has `replicas: 3`, where the lab needs 2",
    ),
    (
        |f| (f.pods[1].ready, f.pods[1].probe) = (false, Some("status 503".into())),
        Layer::Readiness,
        "pod b runs but is not ready: status 503",
    ),
    (|f| f.deployments[0].replica_failure = Some("quota".into()), Layer::Pod, "quota"),
    (|f| f.pods[1].problem = Some("b crashes".into()), Layer::Pod, "b crashes"),
    (
        |f| f.pods[1].unscheduled = Some("too big".into()),
        Layer::Schedule,
        "pod b has no node: too big",
    ),
    (
        |f| f.deployments[0].expected_image = Some("kubeapp:2.0".into()),
        Layer::Image,
        "d runs kubeapp:1.0, where the article runs kubeapp:2.0",
    ),
    (|f| f.pods[0].image_problem = Some("no such image".into()), Layer::Image, "no such image"),
    (
        |f| {
            let fault =
                Fault::new(Layer::Node, "node n1 cannot create it", "kubectl describe pod a");
            f.pods[0].sandbox_failure = Some(fault);
        },
        Layer::Node,
        "node n1 cannot create it",
    ),
    (
        |f| f.lost_nodes = vec!["n2".into()],
        Layer::Node,
        "node n2 is not ready, and pods of the lab are on it",
    ),
    (
        |f| f.unreachable = Some("refused".into()),
        Layer::Cluster,
        "the API does not respond: refused",
    ),
];

#[test]
fn first_failing_layer_is_at_fault() {
    let mut all = healthy();
    for (break_it, layer, line) in TABLE {
        let mut alone = healthy();
        break_it(&mut alone);
        let found = alone.fault().unwrap();
        assert_eq!((found.layer, &*found.why), (*layer, *line));
        assert!(found.command.contains("kubectl ") || found.command.contains("curl "), "{found:?}");
        break_it(&mut all);
        assert_eq!(all.fault().unwrap().layer, *layer, "with all above it");
    }
    let blamed =
        |layer: &Layer| *layer == Layer::Manifest || TABLE.iter().any(|(_, l, _)| l == layer);
    assert!(Layer::ALL.iter().all(blamed), "every layer has a rule, but for that of rejections");
}

#[test]
fn no_layer_is_at_fault_without_a_finding() {
    assert_eq!(healthy().fault(), None);
    assert!(healthy().needs_probes());
    let mut restarted = healthy();
    restarted.pods[0].restarted = Some("its program ended".into());
    assert_eq!(restarted.fault(), None, "no request was lost");
    restarted.samples[0].lost = 1;
    assert!(restarted.needs_probes(), "a silent address would be the better reason");
    let mut unready = healthy();
    unready.pods.push(PodFacts { ready: false, terminating: true, ..pod("old") });
    unready.pods.push(PodFacts { ready: false, kept_unready: true, ..pod("on-purpose") });
    assert_eq!(unready.fault(), None, "these need not be ready");
    let mut recreated = healthy();
    recreated.deployments[0].takes_all = Some("Recreate".into());
    recreated.deployments[0].pinned = Some("nodeName".into());
    assert_eq!(recreated.fault(), None, "right as long as nothing fails");
}
