//! Ingresses on a real API, with HTTP servers of the test instead of pods.

use super::*;
use crate::{
    load_balancer::{LbStatus, LoadBalanced, PUBLISHED_PORT},
    testing::{ClusterFixture, connect_tls, eventually, is_refused, unprivileged},
};
use k8s_openapi::api::{
    core::v1::{Event, Namespace, Secret},
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use kube_embedded_core::network::Sandbox;
use serde_json::{Value, json};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

mod routes;
mod tls;

/// The status if no rule matches.
const NO_RULE: &str = "404";
/// The status if there is no endpoint.
const NO_ENDPOINT: &str = "503";

/// Starts an endpoint that responds to every request with a letter.
async fn letter_endpoint(fixture: &ClusterFixture, letter: char) -> SocketAddr {
    let listener = fixture.pod_listener(1, 0).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(respond(stream, letter));
        }
    });
    address
}

async fn respond(mut stream: TcpStream, letter: char) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.drain(..end + 4);
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{letter}");
            stream.write_all(response.as_bytes()).await?;
        }
    }
}

/// Returns the letter in the response, or the status if it is not 200.
async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    // A TLS connection closed without an alert is no error: the length tells what is complete.
    let _ = stream.read_to_end(&mut response).await;
    let response = String::from_utf8_lossy(&response);
    let status = response.get(9..12).ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body);
    Ok(if status == "200" { body.unwrap_or_default() } else { status }.to_owned())
}

async fn ask(at: SocketAddr, host: &str, path: &str) -> io::Result<String> {
    ask_over(TcpStream::connect(at).await?, host, path).await
}

/// Waits until requests get this response.
async fn serves(at: SocketAddr, host: &str, path: &str, expected: &str) {
    eventually(&format!("{expected} for {host}{path} from {at}"), async || {
        ask(at, host, path).await.ok().filter(|got| got == expected)
    })
    .await;
}

fn rule(host: &str, path: &str, service: &str) -> Value {
    let mut rule = json!({ "http": { "paths": [{
        "path": path,
        "pathType": "Prefix",
        "backend": backend(service),
    }]}});
    if !host.is_empty() {
        rule["host"] = host.into();
    }
    rule
}

fn backend(service: &str) -> Value {
    json!({ "service": { "name": service, "port": { "number": 80 } } })
}

impl ClusterFixture {
    fn ingresses(&self, namespace: &str) -> Api<Ingress> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates an Ingress in the default namespace.
    async fn ingress(&self, name: &str, spec: Value) -> Ingress {
        self.ingress_of("default", name, spec).await
    }

    async fn ingress_of(&self, namespace: &str, name: &str, spec: Value) -> Ingress {
        let ingress = json!({ "metadata": { "name": name }, "spec": spec });
        let ingress = serde_json::from_value(ingress).unwrap();
        self.ingresses(namespace).create(&PostParams::default(), &ingress).await.unwrap()
    }

    /// Patches an Ingress.
    async fn patch(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.ingresses("default").patch(name, &params, &Patch::Merge(patch)).await.unwrap();
    }

    /// Creates a Service with one endpoint, which responds with the letter of its name.
    async fn letter(&self, letter: char) {
        let name = letter.to_string();
        self.service(&name, json!({ "ports": [{ "port": 80 }] })).await;
        self.endpoints(&name, &[letter_endpoint(self, letter).await]).await;
    }

    /// Waits for the addresses of HTTP and HTTPS.
    async fn published(&self, namespace: &str, name: &str) -> (SocketAddr, SocketAddr) {
        eventually("an address", async || {
            let ingress = self.ingresses(namespace).get(name).await.unwrap();
            let status = ingress.lb_status();
            let address = status.address()?;
            let port = |port: u16| {
                let moved = status.published_port.iter().flat_map(|moved| moved.split(','));
                let moved = moved.filter_map(|pair| pair.split_once('='));
                let mut moved = moved.filter(|(from, _)| *from == port.to_string());
                moved.next().map_or(port, |(_, to)| to.parse().unwrap())
            };
            Some((SocketAddr::from((address, port(80))), SocketAddr::from((address, port(443)))))
        })
        .await
    }

    /// Returns the address of an Ingress, counted from 1.
    fn ingress_address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.addresses.block, 2, n)
    }

    /// Returns the events of the Ingress as `REASON MESSAGE`, and their count if it is not 1.
    async fn events(&self, ingress: &str) -> Vec<String> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let about = events.into_iter().filter(|event| {
            let object = &event.involved_object;
            object.kind.as_deref() == Some("Ingress") && object.name.as_deref() == Some(ingress)
        });
        about
            .map(|event| {
                assert_eq!(event.source.unwrap().component.unwrap(), "ingress-controller");
                let text = format!("{} {}", event.reason.unwrap(), event.message.unwrap());
                match event.count {
                    Some(1) => text,
                    count => format!("{text} ({count:?} times)"),
                }
            })
            .collect()
    }

    /// Waits for an event that contains `part`.
    async fn reported(&self, ingress: &str, part: &str) -> String {
        eventually(part, async || {
            self.events(ingress).await.into_iter().find(|event| event.contains(part))
        })
        .await
    }

    async fn namespace(&self, name: &str) {
        let namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::<Namespace>::all(self.client.clone())
            .create(&<_>::default(), &namespace)
            .await
            .unwrap();
    }
}
