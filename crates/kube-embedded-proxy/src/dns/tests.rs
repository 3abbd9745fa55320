//! Tables of names, and whole messages through the resolver, with a name server of the host that
//! the test plays.

mod messages;
mod names;

use super::records::{Records, ServiceRecords};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube_embedded_core::{
    informer::ObjectKey,
    network::{Addresses, Sandbox},
};
use std::sync::Arc;

const ADDRESSES: Addresses = Addresses { block: 7, sandbox: Sandbox::Namespaced };

/// Services of the namespace `shop` with their slices, in YAML.
const SERVICES: &[(&str, &[&str])] = &[
    (
        "{metadata: {name: web}, spec: {clusterIP: 10.96.5.5, ports: [
            {name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]}}",
        &["{endpoints: [{addresses: [10.244.0.5]}, {addresses: [10.244.1.5]}],
            ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]}"],
    ),
    (
        "{metadata: {name: db}, spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}}",
        &[
            "{endpoints: [
                {addresses: [10.244.0.7], hostname: db-0},
                {addresses: [10.244.1.7], hostname: DB-1, conditions: {ready: true}},
                {addresses: [10.244.2.7], hostname: db-2, conditions: {ready: false}},
                {addresses: ['2001:db8::7'], hostname: db-0}], ports: [{name: sql, port: 5433}]}",
            "{endpoints: [{addresses: [10.244.0.9]}], ports: [{name: sql, port: 5434}]}",
        ],
    ),
    (
        "{metadata: {name: portless}, spec: {clusterIP: None}}",
        &["{endpoints: [{addresses: [10.244.0.4]}]}"],
    ),
    ("{metadata: {name: empty}, spec: {clusterIP: None, ports: [{port: 80}]}}", &[]),
    ("{metadata: {name: idle}, spec: {clusterIP: 10.96.5.6, ports: [{port: 80}]}}", &[]),
    (
        "{metadata: {name: outside}, spec: {type: ExternalName, externalName: WWW.Example.com.}}",
        &[],
    ),
    (
        "{metadata: {name: inside}, spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}}",
        &[],
    ),
    (
        "{metadata: {name: nowhere}, spec: {type: ExternalName, externalName: no.shop.svc.cluster.local}}",
        &[],
    ),
    (
        "{metadata: {name: circle}, spec: {type: ExternalName, externalName: circle.shop.svc.cluster.local}}",
        &[],
    ),
    ("{metadata: {name: numbers}, spec: {type: ExternalName, externalName: 192.0.2.1}}", &[]),
];

fn records() -> Records {
    let mut records = Records::new(ADDRESSES);
    for namespace in ["shop", "default"] {
        records.set_namespace(namespace, true);
    }
    for (service, slices) in SERVICES {
        let service: Service = serde_saphyr::from_str(service).unwrap();
        let slices = slices.iter().map(|slice| {
            let slice = format!("{{addressType: IPv4, {}", slice.strip_prefix('{').unwrap());
            Arc::new(serde_saphyr::from_str::<EndpointSlice>(&slice).unwrap())
        });
        let slices: Vec<_> = slices.collect();
        let key = ObjectKey::new("shop", service.metadata.name.as_deref().unwrap());
        records.set_service(&key, Some(ServiceRecords::new(&service, &slices)));
    }
    records
}
