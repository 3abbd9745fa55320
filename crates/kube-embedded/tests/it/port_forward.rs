//! Port-forward, by kube-rs and by kubectl.

use crate::{
    clients::tls_client,
    fixture::{
        eventually, get, in_time,
        kubectl::Kubectl,
        pods::{cluster, run, sandboxes, tool},
        post,
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube_embedded::{Cluster, Sandbox};
use serde_json::json;
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

/// Runs a pod that echoes on port 8080: of its own loopback address, if its sandbox has one.
async fn run_echo_pod(cluster: &Cluster) {
    let plain = cluster.sandbox() == Sandbox::Plain;
    let address = if plain { "$(IP):8080" } else { "127.0.0.1:8080" };
    let mut spec = tool(&["answer", address]);
    spec["containers"][0]["env"] = json!([
        { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
    ]);
    run(cluster, "web", spec).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let follow = kube::api::LogParams { follow: true, ..Default::default() };
    let mut log = in_time(pods.log_stream("web", &follow)).await.unwrap();
    let mut line = [0; 10];
    in_time(futures::AsyncReadExt::read_exact(&mut log, &mut line)).await.unwrap();
    assert_eq!(&line, b"listening\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_forwards_ports_of_a_pod_and_reports_closed_ones() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run_echo_pod(&cluster).await;
        for client in [cluster.client(), tls_client(&cluster).await] {
            let pods: Api<Pod> = Api::default_namespaced(client);
            let mut forward = in_time(pods.portforward("web", &[8080, 9])).await.unwrap();
            let stream = forward.take_stream(8080).unwrap();
            let error = forward.take_error(9).unwrap();
            let text = "x".repeat(200_000);
            let mut echo = vec![0; text.len()];
            let (mut read, mut write) = tokio::io::split(stream);
            let (written, read) = in_time(async {
                tokio::join!(write.write_all(text.as_bytes()), read.read_exact(&mut echo))
            })
            .await;
            assert!(written.is_ok() && read.is_ok() && echo == text.as_bytes());
            let error = in_time(error).await.expect("no error was sent");
            assert!(error.starts_with("error forwarding port 9 to pod web, uid "), "{error}");
        }
        let result =
            Api::<Pod>::default_namespaced(cluster.client()).portforward("no", &[80]).await;
        let Err(kube::Error::Api(status)) = result.map(drop) else { panic!("it was not rejected") };
        assert_eq!((status.code, &*status.message), (404, "pods \"no\" not found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_concurrent_connections_to_pod_and_service() {
    let cluster = cluster(None).await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    run_echo_pod(&cluster).await;
    in_time(kubectl.run(&["expose", "pod", "web", "--port=80", "--target-port=8080"], ""))
        .await
        .unwrap();
    // Tunneled through a WebSocket, and plain SPDY as in versions before 1.31.
    for (what, ports, tunnel) in
        [("pod/web", ":8080", "true"), ("svc/web", ":80", "true"), ("pod/web", ":8080", "false")]
    {
        let mut command = kubectl.command(&["port-forward", what, ports]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", tunnel);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = in_time(lines.next_line()).await.unwrap().unwrap();
        // `Forwarding from 127.0.0.1:41234 -> 8080`
        let address = line.split(' ').nth(2).unwrap().to_owned();
        let all = (0..20).map(|n| {
            let address = address.clone();
            async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let text = n.to_string().repeat(10_000);
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut echo = String::new();
                stream.read_to_string(&mut echo).await.unwrap();
                assert_eq!(echo, format!("{text}goodbye"));
            }
        });
        in_time(futures::future::join_all(all)).await;
        child.kill().await.unwrap();
    }
}

/// Sends random bytes on upgraded connections: each is closed, and nothing else is affected.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_frames_close_only_their_connection() {
    let cluster = cluster(Some(Sandbox::Plain)).await;
    run_echo_pod(&cluster).await;
    let client = tls_client(&cluster).await;
    let path = "/api/v1/namespaces/default/pods/web";
    let exec = format!("{path}/exec?command=/tool&command=copy&stdin=true&stdout=true");
    let forward = format!("{path}/portforward?ports=8080");
    let (protocol, stream) = ("sec-websocket-protocol", "x-stream-protocol-version");
    for (path, upgrade, header, name) in [
        (&exec, "websocket", protocol, "v5.channel.k8s.io"),
        (&exec, "SPDY/3.1", stream, "v4.channel.k8s.io"),
        (&forward, "websocket", protocol, "v4.channel.k8s.io"),
        (&forward, "websocket", protocol, "SPDY/3.1+portforward.k8s.io"),
        (&forward, "SPDY/3.1", stream, "portforward.k8s.io"),
    ] {
        for round in 0..20 {
            let request = http::Request::get(path)
                .header("connection", "Upgrade")
                .header("upgrade", upgrade)
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header(header, name)
                .body(kube::client::Body::empty())
                .unwrap();
            let response = in_time(client.send(request)).await.unwrap();
            assert_eq!(response.status(), 101, "{upgrade} {name}");
            let upgraded = in_time(hyper::upgrade::on(response)).await.unwrap();
            let mut io = hyper_util::rt::TokioIo::new(upgraded);
            let mut bytes: Vec<u8> =
                (0..rand::random_range(1..4096)).map(|_| rand::random()).collect();
            // Every other time they begin with a valid header: a masked message, or a control frame.
            if round % 2 == 0 {
                let header: &[u8] = match upgrade {
                    "websocket" => &[0x82, 0xfe, 0, 200, 0, 0, 0, 0],
                    _ => &[0x80, 3, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1],
                };
                bytes.splice(0..0, header.iter().copied());
            }
            // The server may close the connection before all is written.
            let _ = in_time(io.write_all(&bytes)).await;
            let _ = in_time(io.shutdown()).await;
            let mut rest = Vec::new();
            let _ = in_time(io.read_to_end(&mut rest)).await;
        }
    }
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut forward = in_time(pods.portforward("web", &[8080])).await.unwrap();
    let mut stream = forward.take_stream(8080).unwrap();
    in_time(stream.write_all(b"still")).await.unwrap();
    let mut echo = [0; 5];
    in_time(stream.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"still");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_proxied_to_pods_and_services() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let mut spec = tool(&["name", "8080"]);
        spec["containers"][0]["env"] = json!([
            { "name": "POD_NAME", "value": "web" },
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        ]);
        run(&cluster, "web", spec).await;
        let namespace = "/api/v1/namespaces/default";
        let service = json!({
            "metadata": { "name": "web" },
            "spec": {
                "selector": { "app": "web" },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
            },
        });
        assert_eq!(post(&cluster, &format!("{namespace}/services"), &service).await.code, 201);
        for target in
            ["pods/web:8080", "pods/http:web:8080", "services/web:http", "services/web:80"]
        {
            eventually(target, async || {
                let response = get(&cluster, &format!("{namespace}/{target}/proxy/path")).await;
                if (response.code, &*response.text) == (200, "web") {
                    Ok(())
                } else {
                    Err(response.text)
                }
            })
            .await;
        }
        let closed = get(&cluster, &format!("{namespace}/pods/web:9/proxy/")).await;
        assert_eq!(closed.code, 503, "{}", closed.text);
        let unknown = get(&cluster, &format!("{namespace}/pods/no:80/proxy/")).await;
        assert_eq!(unknown.code, 404, "{}", unknown.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_of_a_pod_is_not_proxied() {
    if !sandboxes().await.contains(&Sandbox::Namespaced) {
        return;
    }
    let cluster = cluster(Some(Sandbox::Namespaced)).await;
    run_echo_pod(&cluster).await;
    let response = get(&cluster, "/api/v1/namespaces/default/pods/web:8080/proxy/").await;
    assert_eq!(response.code, 503, "{}", response.text);
    assert!(response.text.contains("refused"), "{}", response.text);
}

/// Serves one response over TLS on each connection, with a certificate that nothing trusts.
async fn serve_tls(listener: TcpListener) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["unknown".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth();
    let acceptor =
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /secure?a=b HTTP/1.1\r\n"));
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
        stream.write_all(response).await.unwrap();
        stream.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_proxied_over_tls() {
    // A pod whose address the test can listen on.
    let cluster = cluster(Some(Sandbox::Plain)).await;
    let pod = run(&cluster, "web", tool(&["wait"])).await;
    let ip: std::net::IpAddr = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(serve_tls(listener));
    let path = format!("/api/v1/namespaces/default/pods/https:web:{port}/proxy/secure?a=b");
    let response = get(&cluster, &path).await;
    assert_eq!((response.code, &*response.text), (200, "secret"));
    server.abort();
}
