//! Names of Services and pods, by the resolvers of real programs: glibc's (linked into the test tool,
//! and into busybox' wget) and busybox' own.

use crate::{
    exec::exec,
    fixture::{
        eventually, get, in_time,
        pods::{cluster, run, sandboxes, tool},
        post, request,
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube_embedded::{Cluster, Sandbox};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Starts a cluster whose pods have networks of their own, where this machine allows that.
async fn namespaced() -> Option<Cluster> {
    let can = sandboxes().await.contains(&Sandbox::Namespaced);
    if can { Some(cluster(Some(Sandbox::Namespaced)).await) } else { None }
}

/// Creates a Service and returns its cluster IP.
async fn service(cluster: &Cluster, name: &str, spec: Value) -> String {
    let service = json!({ "metadata": { "name": name }, "spec": spec });
    let response = post(cluster, SERVICES, &service).await;
    assert_eq!(response.code, 201, "{}", response.text);
    response.json()["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned()
}

/// The output of a program in a container.
async fn output(cluster: &Cluster, pod: &str, command: &[&str]) -> String {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let (out, err, _) = exec(&pods, pod, command).await;
    (out + &err).trim().to_owned()
}

async fn resolve(cluster: &Cluster, pod: &str, name: &str) -> String {
    output(cluster, pod, &["/tool", "resolve", name]).await
}

/// Waits until a name resolves to this.
async fn resolves(cluster: &Cluster, pod: &str, name: &str, expected: &str) {
    let what = format!("{name} is {expected}");
    eventually(&what, async || {
        let found = resolve(cluster, pod, name).await;
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().unwrap().pod_ip.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_resolve_services_pods_and_aliases() {
    let Some(cluster) = namespaced().await else { return };
    let mut server = tool(&["name", "8080"]);
    server["hostname"] = "db-0".into();
    server["subdomain"] = "db".into();
    let server = run(&cluster, "server", server).await;
    run(&cluster, "client", tool(&["wait"])).await;
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    let selector = json!({ "app": "server" });
    let web = service(&cluster, "web", json!({ "selector": selector, "ports": ports })).await;
    let headless = json!({ "selector": selector, "ports": ports, "clusterIP": "None" });
    service(&cluster, "db", headless).await;
    let alias = json!({ "type": "ExternalName", "externalName": "web.default.svc.cluster.local" });
    service(&cluster, "alias", alias).await;

    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "WEB.Default.svc",
    ] {
        resolves(&cluster, "client", name, &web).await;
    }
    let address = ip(&server);
    for name in ["db", "db-0.db", "db-0.db.default.svc.cluster.local"] {
        resolves(&cluster, "client", name, &address).await;
    }
    let pod = format!("{}.default.pod.cluster.local", address.replace('.', "-"));
    resolves(&cluster, "client", &pod, &address).await;
    resolves(&cluster, "client", "alias", &web).await;
    resolves(&cluster, "client", "kubernetes.default", "10.96.0.1").await;
    let unknown = resolve(&cluster, "client", "nope.default.svc.cluster.local").await;
    assert!(unknown.contains("Name or service not known"), "{unknown}");

    // A pod that is not ready leaves the headless Service, unless that publishes all addresses.
    in_time(Api::<Pod>::default_namespaced(cluster.client()).delete("server", &Default::default()))
        .await
        .unwrap();
    let gone = "failed to lookup address information: Name or service not known";
    resolves(&cluster, "client", "db-0.db", gone).await;
    resolves(&cluster, "client", "web", &web).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_not_ready_are_published_on_request() {
    let Some(cluster) = namespaced().await else { return };
    run(&cluster, "client", tool(&["wait"])).await;
    let mut spec = tool(&["wait"]);
    let never = json!({ "exec": { "command": ["/tool", "exit", "1"] } });
    spec["containers"][0]["readinessProbe"] = never;
    let pod = json!({ "metadata": { "name": "slow", "labels": { "app": "slow" } }, "spec": spec });
    let created = post(&cluster, "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let path = "/api/v1/namespaces/default/pods/slow";
    let address = eventually("an address", async || {
        get(&cluster, path).await.json()["status"]["podIP"].as_str().map(str::to_owned)
    })
    .await;
    let headless = |publish: bool| {
        json!({
            "selector": { "app": "slow" }, "ports": [{ "port": 80 }], "clusterIP": "None",
            "publishNotReadyAddresses": publish,
        })
    };
    service(&cluster, "all", headless(true)).await;
    service(&cluster, "ready", headless(false)).await;
    resolves(&cluster, "client", "all", &address).await;
    let found = resolve(&cluster, "client", "ready").await;
    assert!(found.contains("not known"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_addresses_are_resolved_over_tcp() {
    let Some(cluster) = namespaced().await else { return };
    run(&cluster, "client", tool(&["wait"])).await;
    service(&cluster, "many", json!({ "clusterIP": "None", "ports": [{ "port": 80 }] })).await;
    let endpoints: Vec<Value> = (1..=60)
        .map(|n| json!({ "addresses": [format!("10.244.9.{n}")], "conditions": { "ready": true } }))
        .collect();
    let slice = json!({
        "metadata": { "name": "many", "labels": { "kubernetes.io/service-name": "many" } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 80 }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let created = post(&cluster, slices, &slice).await;
    assert_eq!(created.code, 201, "{}", created.text);
    // More than 512 bytes: glibc asks again over TCP, which comes through the Service.
    eventually("60 addresses", async || {
        let found = resolve(&cluster, "client", "many").await;
        if found.split(' ').count() == 60 { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn busybox_finds_services_by_name() {
    let Some(cluster) = namespaced().await else { return };
    if test_support::busybox().is_none() {
        return test_support::missing("busybox", test_support::BUSYBOX_HINT);
    }
    let env = json!([{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
    let mut server = tool(&["name", "8080"]);
    server["containers"][0]["env"] = env;
    run(&cluster, "server", server).await;
    let shell = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "app", "image": "busybox:1.0", "command": ["/bin/sleep", "1000"] }],
    });
    run(&cluster, "client", shell).await;
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    let web =
        service(&cluster, "web", json!({ "selector": { "app": "server" }, "ports": ports })).await;
    eventually("the page of the Service", async || {
        let page =
            output(&cluster, "client", &["/bin/busybox", "wget", "-qO-", "http://web/"]).await;
        if page == "server" { Ok(()) } else { Err(page) }
    })
    .await;
    let nslookup = async |arguments: &[&str]| {
        let command = [&["/bin/busybox", "nslookup"], arguments].concat();
        output(&cluster, "client", &command).await
    };
    let found = nslookup(&["web.default.svc.cluster.local"]).await;
    assert!(found.contains("10.96.0.10:53") && found.contains(&web), "{found}");
    let reverse = nslookup(&[&web]).await;
    assert!(reverse.contains("name = web.default.svc.cluster.local"), "{reverse}");
    let ports = nslookup(&["-type=srv", "_http._tcp.web.default.svc.cluster.local"]).await;
    assert!(ports.contains("0 100 80 web.default.svc.cluster.local"), "{ports}");
    let missing = nslookup(&["nope.default.svc.cluster.local"]).await;
    assert!(missing.contains("NXDOMAIN"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_hosts_hostname_and_resolv_conf() {
    let Some(cluster) = namespaced().await else { return };
    let mut spec = tool(&["wait"]);
    spec["hostname"] = "db-0".into();
    spec["subdomain"] = "db".into();
    spec["setHostnameAsFQDN"] = true.into();
    spec["hostAliases"] = json!([{ "ip": "10.1.2.3", "hostnames": ["foo", "foo.example"] }]);
    spec["dnsPolicy"] = "None".into();
    spec["dnsConfig"] = json!({
        "nameservers": ["10.96.0.10"],
        "searches": ["default.svc.cluster.local"],
        "options": [{ "name": "ndots", "value": "2" }],
    });
    let pod = run(&cluster, "one", spec).await;
    let read = async |path: &str| output(&cluster, "one", &["/tool", "cat", path]).await;
    let hosts = read("/etc/hosts").await;
    let own = format!("{}\tdb-0.db.default.svc.cluster.local\tdb-0\n", ip(&pod));
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n"), "{hosts}");
    assert!(hosts.contains(&own), "{hosts}");
    assert!(
        hosts.ends_with("# Entries added by HostAliases.\n10.1.2.3\tfoo\tfoo.example"),
        "{hosts}"
    );
    let resolver = "search default.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:2";
    assert_eq!(read("/etc/resolv.conf").await, resolver);
    let qualified = "db-0.db.default.svc.cluster.local";
    assert_eq!(read("/etc/hostname").await, qualified);
    assert_eq!(read("/proc/sys/kernel/hostname").await, qualified);
    resolves(&cluster, "one", "foo.example", "10.1.2.3").await;
    resolves(&cluster, "one", "kubernetes", "10.96.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_has_the_service_kube_dns_and_answers_on_the_host() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let path = "/api/v1/namespaces/kube-system/services/kube-dns";
        let found = get(&cluster, path).await.json();
        let own: Ipv4Addr = found["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert_eq!(own.octets()[3], 10, "{found}");
        let IpAddr::V4(api) = cluster.api_address().ip() else { panic!("IPv6") };
        let [_, block, ..] = api.octets();
        let server = (Ipv4Addr::new(127, block, 0, 10), 10053);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
            \x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
        let mut response = [0; 512];
        let length = eventually("a response", async || {
            socket.send_to(query, server).await.ok()?;
            let read = socket.recv(&mut response);
            tokio::time::timeout(std::time::Duration::from_secs(1), read).await.ok()?.ok()
        })
        .await;
        let address = &response[length - 4..length];
        let expected = if sandbox == Sandbox::Plain { [127, block, 96, 1] } else { [10, 96, 0, 1] };
        assert_eq!(address, expected);
        // Its UDP port is served, not like that of other Services.
        let events = get(&cluster, "/api/v1/namespaces/kube-system/events").await;
        assert!(!events.text.contains("UnsupportedProtocol"), "{}", events.text);
        let taken = json!({
            "metadata": { "name": "other" },
            "spec": { "clusterIP": own.to_string(), "ports": [{ "port": 80 }] },
        });
        let refused = request(
            &cluster,
            "POST",
            SERVICES,
            &[("content-type", "application/json")],
            taken.to_string(),
        )
        .await;
        assert_eq!(refused.code, 422, "{}", refused.text);
    }
}
