//! Ingresses on the API, with HTTP servers of the test instead of pods.

use super::*;
use crate::{
    balancer::{self, Status},
    plane::Port,
    tests::{World, eventually, unprivileged},
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
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

const NEVER: &str = "404";
const NOT_NOW: &str = "503";

/// A server that answers every request with one letter.
async fn says(letter: char) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, letter));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, letter: char) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.drain(..end + 4);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{letter}");
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

/// The letter that answers, or the status if it is not 200.
async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A close of TLS without its alert is no error here: the length says what is whole.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.get(9..12).ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    Ok(if status == "200" { body.unwrap_or_default() } else { status }.to_owned())
}

async fn ask(at: SocketAddr, host: &str, path: &str) -> io::Result<String> {
    ask_over(TcpStream::connect(at).await?, host, path).await
}

async fn answers(at: SocketAddr, host: &str, path: &str, expected: &str) {
    let mut last = None;
    let wait = async {
        loop {
            let got = ask(at, host, path).await;
            if got.as_deref().ok() == Some(expected) {
                return;
            }
            last = Some(got);
            time::sleep(time::Duration::from_millis(1)).await;
        }
    };
    let done = time::timeout(time::Duration::from_secs(10), wait).await;
    assert!(done.is_ok(), "{host}{path} from {at}: {last:?}, not {expected}");
}

async fn refuses(at: SocketAddr) {
    eventually(&format!("{at} refuses"), async || {
        let error = TcpStream::connect(at).await.err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
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

impl World {
    fn ingresses(&self, namespace: &str) -> Api<Ingress> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn ingress(&self, name: &str, spec: Value) -> Ingress {
        self.ingress_of("default", name, spec).await
    }

    async fn ingress_of(&self, namespace: &str, name: &str, spec: Value) -> Ingress {
        let ingress = json!({ "metadata": { "name": name }, "spec": spec });
        let ingress = serde_json::from_value(ingress).unwrap();
        self.ingresses(namespace).create(&PostParams::default(), &ingress).await.unwrap()
    }

    async fn change(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.ingresses("default").patch(name, &params, &Patch::Merge(patch)).await.unwrap();
    }

    /// A Service with one endpoint, which says the letter of its name.
    async fn letter(&self, letter: char) {
        let name = letter.to_string();
        self.service(&name, json!({ "ports": [{ "port": 80 }] })).await;
        self.endpoints(&name, &[says(letter).await]).await;
    }

    /// Where HTTP and HTTPS are published, once they are.
    async fn published(&self, namespace: &str, name: &str) -> (SocketAddr, SocketAddr) {
        eventually("an address", async || {
            let ingress = self.ingresses(namespace).get(name).await.unwrap();
            let status = Status::of_ingress(&ingress);
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

    fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.addresses.block, 2, n)
    }

    /// Events about the Ingress, as `REASON MESSAGE`, and how often if more than once.
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

    async fn told(&self, ingress: &str, part: &str) -> String {
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

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_by_host_and_path_and_rules_may_change() {
    let world = World::new().await;
    for letter in ['a', 'b', 'd'] {
        world.letter(letter).await;
    }
    let spec = json!({
        "defaultBackend": backend("d"),
        "rules": [rule("a.foo", "/", "a"), rule("*.b.foo", "/", "b"), rule("fan.out", "/b", "b")],
    });
    world.ingress("app", spec).await;
    let (http, _) = world.published("default", "app").await;
    assert_eq!(http.ip(), world.address(1));
    for (host, path, expected) in [
        ("a.foo", "/", "a"),
        ("A.FOO:8080", "/x?y=/b", "a"),
        ("x.b.foo", "/", "b"),
        ("b.foo", "/", "d"),
        ("fan.out", "/b/x", "b"),
        ("fan.out", "/x", "d"),
        ("127.0.0.1", "/", "d"),
    ] {
        answers(http, host, path, expected).await;
    }
    assert!(world.events("app").await.contains(&"Sync Scheduled for sync".to_owned()));
    world.told("app", &format!("Sync Address {} assigned", world.address(1))).await;

    // The same address for all of a namespace, another one for another.
    let more = json!({ "rules": [rule("more.foo", "/", "b")] });
    world.ingress("more", more).await;
    assert_eq!(world.published("default", "more").await.0, http);
    answers(http, "more.foo", "/", "b").await;
    answers(http, "other", "/", "d").await;
    world.namespace("shop").await;
    let shop = json!({ "rules": [rule("a.foo", "/", "a")] });
    world.ingress_of("shop", "app", shop).await;
    let (theirs, _) = world.published("shop", "app").await;
    assert_eq!(theirs.ip(), world.address(2));
    answers(theirs, "a.foo", "/", NOT_NOW).await;
    answers(theirs, "other", "/", NEVER).await;
    answers(http, "a.foo", "/", "a").await;

    let rules = json!({ "spec": { "defaultBackend": null, "rules": [rule("a.foo", "/", "b")] } });
    world.change("app", rules).await;
    answers(http, "a.foo", "/", "b").await;
    answers(http, "other", "/", NEVER).await;
    answers(http, "more.foo", "/", "b").await;
    for name in ["app", "more"] {
        world.ingresses("default").delete(name, &DeleteParams::default()).await.unwrap();
    }
    refuses(http).await;
    answers(theirs, "other", "/", NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_503_for_its_route_and_heals() {
    let world = World::new().await;
    world.letter('a').await;
    let mut named = rule("c.foo", "/", "c");
    named["http"]["paths"][0]["backend"]["service"]["port"] = json!({ "name": "web" });
    let resource = json!({ "apiGroup": "x.io", "kind": "Bucket", "name": "b" });
    let mut bucket = rule("bucket.foo", "/", "");
    bucket["http"]["paths"][0]["backend"] = json!({ "resource": resource });
    let spec = json!({
        "defaultBackend": backend("a"),
        "rules": [rule("b.foo", "/", "b"), named, bucket],
    });
    world.ingress("app", spec).await;
    let (http, _) = world.published("default", "app").await;
    for host in ["b.foo", "c.foo", "bucket.foo"] {
        answers(http, host, "/", NOT_NOW).await;
    }
    answers(http, "other", "/", "a").await;
    world.told("app", "BackendNotFound Service \"b\" does not exist").await;
    world.told("app", "BackendNotSupported backend Bucket/b is no Service").await;

    // Without endpoints it still is not there.
    world.service("b", json!({ "ports": [{ "port": 80 }] })).await;
    let ports = json!([{ "name": "http", "port": 80 }]);
    world.service("c", json!({ "clusterIP": "None", "ports": ports })).await;
    world.told("app", "BackendNotFound Service \"c\" has no port \"web\"").await;
    answers(http, "b.foo", "/", NOT_NOW).await;
    world.endpoints("b", &[says('b').await]).await;
    answers(http, "b.foo", "/", "b").await;
    let patch = json!({ "spec": { "ports": [{ "name": "web", "port": 80 }] } });
    world.services().patch("c", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    world.endpoints_of_port("c", "web", &[says('c').await]).await;
    answers(http, "c.foo", "/", "c").await;

    world.endpoints("b", &[]).await;
    answers(http, "b.foo", "/", NOT_NOW).await;
    world.services().delete("c", &DeleteParams::default()).await.unwrap();
    answers(http, "c.foo", "/", NOT_NOW).await;
    let again = "Service \"c\" does not exist; until it does, the answer is 503 (Some(2) times)";
    world.told("app", again).await;
    answers(http, "other", "/", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ingresses_with_one_host_and_path_the_oldest_serves() {
    let world = World::new().await;
    for letter in ['a', 'b'] {
        world.letter(letter).await;
    }
    // Of one second; the name decides.
    let spec = |letter: &str| json!({ "defaultBackend": backend(letter), "rules": [rule("foo", "/", letter), rule(letter, "/", letter)] });
    world.ingress("one", spec("a")).await;
    let (http, _) = world.published("default", "one").await;
    world.ingress("two", spec("b")).await;
    answers(http, "b", "/", "b").await;
    answers(http, "foo", "/", "a").await;
    answers(http, "other", "/", "a").await;
    let conflict = world.told("two", "host foo").await;
    assert_eq!(
        conflict,
        "Conflict host foo, path / (Prefix) belongs to Ingress \"one\", which comes first (by age, then by name)"
    );
    world.told("two", "Conflict the default backend belongs to Ingress \"one\"").await;
    world.endpoints("b", &[says('B').await]).await;
    answers(http, "b", "/", "B").await;
    assert_eq!(world.events("two").await.iter().filter(|e| e.starts_with("Conflict")).count(), 2);
    assert!(!world.events("one").await.iter().any(|event| event.starts_with("Conflict")));

    world.ingresses("default").delete("one", &DeleteParams::default()).await.unwrap();
    answers(http, "foo", "/", "B").await;
    answers(http, "other", "/", "B").await;
    assert_eq!(world.published("default", "two").await.0, http);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ingresses_of_our_classes_are_served() {
    let world = World::new().await;
    world.letter('a').await;
    let class = |name: &str, controller: &str| -> IngressClass {
        let class = json!({ "metadata": { "name": name }, "spec": { "controller": controller } });
        serde_json::from_value(class).unwrap()
    };
    let classes: Api<IngressClass> = Api::all(world.client.clone());
    for class in [class("ours", CONTROLLER), class("theirs", "example.com/other")] {
        classes.create(&<_>::default(), &class).await.unwrap();
    }
    let theirs =
        json!({ "ingressClassName": "theirs", "defaultBackend": backend("a"), "rules": [] });
    world.ingress("theirs", theirs).await;
    let ours = json!({ "ingressClassName": "ours", "rules": [rule("a", "/", "a")] });
    world.ingress("ours", ours).await;
    let (http, _) = world.published("default", "ours").await;
    answers(http, "a", "/", "a").await;
    answers(http, "other", "/", NEVER).await;
    let theirs = world.ingresses("default").get("theirs").await.unwrap();
    assert_eq!(Status::of_ingress(&theirs), Status::default());
    assert_eq!(world.events("theirs").await, [""; 0]);

    world.change("ours", json!({ "spec": { "ingressClassName": "theirs" } })).await;
    refuses(http).await;
    eventually("neither address nor annotation", async || {
        let ingress = world.ingresses("default").get("ours").await.unwrap();
        (Status::of_ingress(&ingress) == Status::default()).then_some(())
    })
    .await;
    // The class may come after the Ingress.
    world.change("ours", json!({ "spec": { "ingressClassName": "late" } })).await;
    classes.create(&<_>::default(), &class("late", CONTROLLER)).await.unwrap();
    answers(world.published("default", "ours").await.0, "a", "/", "a").await;
    let annotated = json!({
        "metadata": { "annotations": { "kubernetes.io/ingress.class": "ours" } },
        "spec": { "ingressClassName": null },
    });
    world.change("theirs", annotated).await;
    let (http, _) = world.published("default", "theirs").await;
    answers(http, "other", "/", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_kept_and_ports_that_may_not_be_bound_are_moved() {
    let mut world = World::with(Sandbox::Plain, unprivileged).await;
    world.letter('a').await;
    world.namespace("first").await;
    world.ingress_of("first", "app", json!({ "defaultBackend": backend("a") })).await;
    assert_eq!(world.published("first", "app").await.0.ip(), world.address(1));
    world.ingress("app", json!({ "defaultBackend": backend("a") })).await;
    let (http, https) = world.published("default", "app").await;
    assert_eq!(http, SocketAddr::from((world.address(2), 10_080)));
    assert_eq!(https, SocketAddr::from((world.address(2), 10_443)));
    answers(http, "any", "/", "a").await;
    let ingress = world.ingresses("default").get("app").await.unwrap();
    assert_eq!(ingress.annotations()[balancer::PUBLISHED_PORT], "80=10080,443=10443");
    let point = &ingress.status.unwrap().load_balancer.unwrap().ingress.unwrap()[0];
    let ports: Vec<i32> = point.ports.iter().flatten().map(|port| port.port).collect();
    assert_eq!(ports, [10_080, 10_443]);
    world.told("app", "PortNotBound").await;

    world.ingresses("first").delete("app", &DeleteParams::default()).await.unwrap();
    refuses(SocketAddr::from((world.address(1), 10_080))).await;
    world.restart().await;
    answers(http, "any", "/", "a").await;
    world.ingress_of("first", "app", json!({ "defaultBackend": backend("a") })).await;
    assert_eq!(world.published("first", "app").await.0.ip(), world.address(1));
}

/// Every request is answered by a or b, whatever becomes of the rules and endpoints meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_rules_and_endpoints_change() {
    let world = World::new().await;
    for letter in ['a', 'b'] {
        world.letter(letter).await;
    }
    let another_a = says('a').await;
    world.ingress("app", json!({ "rules": [rule("foo", "/", "a")] })).await;
    let (http, _) = world.published("default", "app").await;
    answers(http, "foo", "/", "a").await;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, asked) = (over.clone(), asked.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let got = ask(http, "foo", "/").await.unwrap();
                    assert!(["a", "b"].contains(&&*got), "{got}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 0..30 {
        let letter = ["b", "a"][turn % 2];
        let before = asked.load(Ordering::Relaxed);
        world.change("app", json!({ "spec": { "rules": [rule("foo", "/", letter)] } })).await;
        if turn % 3 == 0 {
            world.endpoints("a", &[another_a]).await;
        }
        eventually("more requests", async || {
            (asked.load(Ordering::Relaxed) > before + 8).then_some(())
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

/// Takes every certificate, as what is shown is what is tested.
#[derive(Debug)]
struct TakesAll;

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn hello(at: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAll))
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(at).await?).await
}

/// The certificate that is shown for a name.
async fn shown(at: SocketAddr, name: &str) -> Vec<u8> {
    let stream = hello(at, name).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn shows(at: SocketAddr, name: &str, certificate: &str) {
    let expected = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    eventually(&format!("the certificate of {name}"), async || {
        (shown(at, name).await == *expected).then_some(())
    })
    .await;
}

/// Certificate and key for some names, PEM.
fn certificate(names: &[&str]) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl World {
    async fn secret(&self, name: &str, (certificate, key): &(String, String)) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "type": "kubernetes.io/tls", "stringData": { "tls.crt": certificate, "tls.key": key },
        });
        let params = PatchParams::apply("test").force();
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        secrets.patch(name, &params, &Patch::Apply(secret)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_chosen_by_name_and_reloaded() {
    let world = World::new().await;
    world.letter('a').await;
    let (foo, wild) = (certificate(&["foo.bar"]), certificate(&["*.wild.bar"]));
    world.secret("foo", &foo).await;
    world.secret("wild", &wild).await;
    let tls = json!([
        { "hosts": ["foo.bar"], "secretName": "foo" },
        { "hosts": ["*.wild.bar"], "secretName": "wild" },
    ]);
    world.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = world.published("default", "app").await;
    shows(https, "foo.bar", &foo.0).await;
    shows(https, "FOO.bar", &foo.0).await;
    shows(https, "x.wild.bar", &wild.0).await;
    let default = shown(https, "other.bar").await;
    assert_eq!(shown(https, "x.y.wild.bar").await, default);
    assert_eq!(shown(https, "wild.bar").await, default);
    assert_eq!(shown(https, "127.0.0.1").await, default, "no name is sent");
    let stream = hello(https, "foo.bar").await.unwrap();
    assert_eq!(ask_over(stream, "foo.bar", "/").await.unwrap(), "a");

    // A connection from before the reload goes on.
    let before = hello(https, "foo.bar").await.unwrap();
    let renewed = certificate(&["foo.bar"]);
    world.secret("foo", &renewed).await;
    shows(https, "foo.bar", &renewed.0).await;
    assert_eq!(ask_over(before, "foo.bar", "/").await.unwrap(), "a");
    assert_eq!(world.events("app").await.len(), 2, "{:?}", world.events("app").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_takes_over_without_a_gap() {
    let world = World::new().await;
    world.letter('a').await;
    let both = ["one", "two"].map(|name| (name, certificate(&["foo.bar"])));
    for (name, certificate) in &both {
        world.secret(name, certificate).await;
    }
    let tls = |secret| json!([{ "hosts": ["foo.bar"], "secretName": secret }]);
    world.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls("one") })).await;
    let (_, https) = world.published("default", "app").await;
    let [one, two] = both.map(|(_, (certificate, _))| {
        CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap().to_vec()
    });
    assert_eq!(shown(https, "foo.bar").await, one);
    for (secret, before, after) in
        [("two", &one, &two), ("one", &two, &one), ("two", &one, &two), ("one", &two, &one)]
    {
        world.change("app", json!({ "spec": { "tls": tls(secret) } })).await;
        eventually("the other certificate", async || {
            let shown = shown(https, "foo.bar").await;
            assert!(shown == *before || shown == *after, "the default certificate was shown");
            (shown == *after).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_secret_is_told_and_harms_no_other_host() {
    let world = World::new().await;
    world.letter('a').await;
    let good = certificate(&["good.bar"]);
    world.secret("good", &good).await;
    world.secret("text", &("nothing".into(), "nothing".into())).await;
    world.secret("foreign", &(good.0.clone(), certificate(&["x"]).1)).await;
    let tls: Vec<Value> = ["good", "none", "text", "foreign", "other"]
        .iter()
        .map(|name| json!({ "hosts": [format!("{name}.bar")], "secretName": name }))
        .collect();
    world.secret("other", &good).await;
    world.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = world.published("default", "app").await;
    for told in [
        "TLSSecretNotFound Secret \"none\" does not exist; the default certificate is served for none.bar",
        "TLSSecretInvalid Secret \"text\" holds no certificate (PEM) in tls.crt",
        "TLSSecretInvalid Secret \"foreign\" holds a tls.key that does not fit",
        "CertificateHostMismatch Secret \"other\" holds a certificate whose alternative names do \
         not cover other.bar",
    ] {
        world.told("app", told).await;
    }
    shows(https, "good.bar", &good.0).await;
    let default = shown(https, "whatever.bar").await;
    for name in ["none.bar", "text.bar", "foreign.bar", "other.bar"] {
        assert_eq!(shown(https, name).await, default, "{name}");
    }
    let late = certificate(&["none.bar"]);
    world.secret("none", &late).await;
    shows(https, "none.bar", &late.0).await;
    let secrets: Api<Secret> = Api::default_namespaced(world.client.clone());
    secrets.delete("none", &DeleteParams::default()).await.unwrap();
    eventually("the default certificate", async || {
        (shown(https, "none.bar").await == default).then_some(())
    })
    .await;
    shows(https, "good.bar", &good.0).await;
}

/// The certificate of an entry without hosts is for all that have none of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_hosts_is_for_all_others() {
    let world = World::with(Sandbox::Plain, Port::bind).await;
    let (any, foo) = (certificate(&["any.bar"]), certificate(&["foo.bar"]));
    world.secret("any", &any).await;
    world.secret("foo", &foo).await;
    let tls = json!([{ "secretName": "any" }, { "hosts": ["foo.bar"], "secretName": "foo" }]);
    world.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = world.published("default", "app").await;
    shows(https, "foo.bar", &foo.0).await;
    shows(https, "any.bar", &any.0).await;
    shows(https, "127.0.0.1", &any.0).await;
}
