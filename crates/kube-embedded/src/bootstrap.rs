//! The objects that every cluster has from the start: system namespaces, and the Services `kubernetes` and
//! `kube-dns`, which route to the API server and the DNS server.

use kube_embedded_apiserver::api::Api;
use kube_embedded_core::network::{Addresses, DNS_PORT, DNS_SERVER_PORT};
#[cfg(feature = "proxy")]
use kube_embedded_proxy::{INGRESS_CLASS, INGRESS_CONTROLLER};
use serde_json::json;
use std::net::Ipv4Addr;

/// Stores them directly, so that they exist before any controller runs.
pub(crate) fn run(
    api: &Api,
    addresses: &Addresses,
    authority: &str,
    #[cfg_attr(
        not(feature = "proxy"),
        expect(unused_variables, reason = "nobody serves Ingresses")
    )]
    load_balancers: bool,
) -> Result<(), String> {
    namespaces(api)?;
    // The namespace controller copies it into every namespace.
    api.seed(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": "kube-system", "name": "kube-root-ca.crt" },
        "data": { "ca.crt": authority },
    }))?;
    #[cfg(feature = "proxy")]
    if load_balancers {
        // Not the default one: an Ingress without a class is served as well.
        api.seed(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": { "name": INGRESS_CLASS },
            "spec": { "controller": INGRESS_CONTROLLER },
        }))?;
    }
    api_service(api, addresses)?;
    dns_service(api, addresses)
}

fn namespaces(api: &Api) -> Result<(), String> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        api.seed(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
            "spec": { "finalizers": ["kubernetes"] },
            "status": { "phase": "Active" },
        }))?;
        // Created here so that the first pods need not wait for the service account controller.
        api.seed(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "namespace": name, "name": "default" },
        }))?;
    }
    Ok(())
}

/// Stores the `kubernetes` Service with its Endpoints and EndpointSlice, which the API server itself maintains in
/// Kubernetes.
fn api_service(api: &Api, addresses: &Addresses) -> Result<(), String> {
    let own = first_service_address(addresses).to_string();
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    api.seed(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "default", "name": "kubernetes", "labels": labels },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": own,
            "clusterIPs": [own],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443 }],
        },
        "status": { "loadBalancer": {} },
    }))?;
    api.seed(json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "namespace": "default",
            "name": "kubernetes",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": addresses.api().to_string() }],
            "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
        }],
    }))?;
    api.seed(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": "kubernetes",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [addresses.api().to_string()],
            "conditions": { "ready": true },
        }],
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    }))
}

/// Stores the `kube-dns` Service with its EndpointSlice. It has no selector: the DNS server is no pod.
fn dns_service(api: &Api, addresses: &Addresses) -> Result<(), String> {
    let own = addresses.dns().to_string();
    let port = |name: &str, protocol: &str, port: u16| json!({ "name": name, "port": port, "protocol": protocol });
    let service_port = |name: &str, protocol: &str| {
        let mut port = port(name, protocol, DNS_PORT);
        port["targetPort"] = DNS_SERVER_PORT.into();
        port
    };
    api.seed(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": own,
            "clusterIPs": [own],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [service_port("dns", "UDP"), service_port("dns-tcp", "TCP")],
        },
        "status": { "loadBalancer": {} },
    }))?;
    api.seed(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/service-name": "kube-dns" },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [addresses.dns_server().to_string()],
            "conditions": { "ready": true },
        }],
        "ports": [
            port("dns", "UDP", DNS_SERVER_PORT),
            port("dns-tcp", "TCP", DNS_SERVER_PORT),
        ],
    }))
}

/// Returns the cluster IP of the `kubernetes` Service.
pub(crate) fn first_service_address(addresses: &Addresses) -> Ipv4Addr {
    let (base, _) = addresses.services();
    Ipv4Addr::from(u32::from(base) + 1)
}
