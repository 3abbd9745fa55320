use super::*;

fn service(spec: Value) -> Value {
    let mut service = json!({ "metadata": { "name": "s" }, "spec": spec });
    defaults(&mut service);
    service
}

#[test]
fn defaults_depend_on_type() {
    for (service_type, external, allocates, internal) in [
        ("ClusterIP", json!(null), json!(null), json!("Cluster")),
        ("NodePort", json!("Cluster"), json!(null), json!("Cluster")),
        ("LoadBalancer", json!("Cluster"), json!(true), json!("Cluster")),
        ("ExternalName", json!(null), json!(null), json!(null)),
    ] {
        let spec = &service(json!({ "type": service_type, "ports": [{ "port": 80 }] }))["spec"];
        assert_eq!(spec["externalTrafficPolicy"], external, "{service_type}");
        assert_eq!(spec["allocateLoadBalancerNodePorts"], allocates, "{service_type}");
        assert_eq!(spec["internalTrafficPolicy"], internal, "{service_type}");
        assert_eq!(spec["ports"], json!([{ "port": 80, "protocol": "TCP", "targetPort": 80 }]));
    }
}

#[test]
fn session_affinity_defaults_to_three_hours() {
    let spec = &service(json!({ "sessionAffinity": "ClientIP" }))["spec"];
    assert_eq!(spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    let spec = &service(json!({ "sessionAffinityConfig": { "clientIP": {} } }))["spec"];
    assert!(spec["sessionAffinityConfig"].is_null());
}

/// Returns the fields with errors.
fn fields(spec: &Value) -> Vec<String> {
    let errors = validate(&service(spec.clone()), None).into_iter();
    errors.map(|error| error.field).collect()
}

#[test]
fn field_of_another_type_and_unknown_policy_are_reported() {
    for (spec, expected) in [
        (
            json!({ "ports": [{ "port": 80, "appProtocol": "a b" }] }),
            vec!["spec.ports[0].appProtocol"],
        ),
        (
            json!({ "ports": [{ "port": 80 }], "loadBalancerClass": "a/b" }),
            vec!["spec.loadBalancerClass"],
        ),
        (
            json!({
                "type": "LoadBalancer", "ports": [{ "port": 10250 }],
                "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1"],
            }),
            vec!["spec.LoadBalancerSourceRanges[1]", "spec.ports[0]"],
        ),
        (
            json!({ "ports": [{ "port": 80 }], "externalTrafficPolicy": "Local" }),
            vec!["spec.externalTrafficPolicy"],
        ),
        (
            json!({ "ports": [{ "port": 80 }], "healthCheckNodePort": 30000 }),
            vec!["spec.healthCheckNodePort"],
        ),
        (
            json!({ "ports": [{ "port": 80 }], "trafficDistribution": "Near" }),
            vec!["spec.trafficDistribution"],
        ),
        (json!({ "ports": [{ "port": 80 }], "ipFamilies": ["IPX"] }), vec!["spec.ipFamilies[0]"]),
    ] {
        assert_eq!(fields(&spec), expected, "{spec}");
    }
}

#[test]
fn invalid_fields_are_reported() {
    for (spec, expected) in [
        (
            json!({ "ports": [{ "port": 0 }] }),
            vec!["spec.ports[0].port", "spec.ports[0].targetPort"],
        ),
        (
            json!({ "ports": [{ "port": 80 }, { "port": 81 }] }),
            vec!["spec.ports[0].name", "spec.ports[1].name"],
        ),
        (json!({ "ports": [{ "port": 80 }], "type": "Nope" }), vec!["spec.type"]),
        (json!({}), vec!["spec.ports"]),
        (json!({ "clusterIP": "None" }), vec![]),
        (
            json!({ "ports": [{ "port": 80 }], "sessionAffinity": "Cookie" }),
            vec!["spec.sessionAffinity"],
        ),
        (json!({ "type": "ExternalName" }), vec!["spec.externalName"]),
        (json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }), vec!["spec.ports[0].nodePort"]),
    ] {
        assert_eq!(fields(&spec), expected, "{spec}");
    }
}

#[test]
fn update_keeps_allocated_address_and_node_port() {
    let mut old =
        service(json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30123 }] }));
    prepare_create(&mut old);
    old["spec"]["clusterIP"] = "127.9.0.1".into();
    old["spec"]["clusterIPs"] = json!(["127.9.0.1"]);
    let mut new = service(json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] }));
    prepare_update(&mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "127.9.0.1");
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30123);
    assert_eq!(validate(&new, Some(&old)), []);
    new["spec"]["clusterIP"] = "127.9.0.2".into();
    assert_eq!(validate(&new, Some(&old))[0].field, "spec.clusterIPs[0]");
}

#[test]
fn external_ip_and_ports_columns_depend_on_type() {
    for (spec, status, shown_external, shown_ports) in [
        (
            json!({ "type": "LoadBalancer", "ports": [{ "port": 80, "nodePort": 30001 }] }),
            json!({}),
            "<pending>",
            "80:30001/TCP",
        ),
        (
            json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] }),
            json!({ "loadBalancer": { "ingress": [{ "ip": "127.1.0.9" }] } }),
            "127.1.0.9",
            "80/TCP",
        ),
        (
            json!({ "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }),
            json!({}),
            "<none>",
            "80/TCP,53/UDP",
        ),
        (
            json!({ "type": "ExternalName", "externalName": "example.com" }),
            json!({}),
            "example.com",
            "",
        ),
    ] {
        let mut service = service(spec);
        service["status"] = status;
        assert_eq!(external_ips(&service), shown_external);
        assert_eq!(ports(&service), shown_ports);
    }
}
