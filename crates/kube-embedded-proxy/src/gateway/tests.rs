//! Gateways on a real API, with HTTP servers of the test instead of pods.

use crate::{
    data_plane::BoundPort,
    testing::{ClusterFixture, connect_tls, eventually},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    client::Body,
};
use kube_embedded_core::network::Sandbox;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Requests whose shares are compared with the weights.
const REQUESTS: usize = 400;

/// Starts an endpoint that responds with its letter and the head that it got.
async fn endpoint(fixture: &ClusterFixture, host: u8, letter: char) -> SocketAddr {
    let listener = fixture.pod_listener(host, 0).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                    while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                        let head = String::from_utf8(request.drain(..end + 4).collect()).unwrap();
                        let body = format!("{letter} {head}");
                        let length = body.len();
                        let response =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                        if stream.write_all(response.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Returns the whole response.
async fn get(at: SocketAddr, host: &str, path: &str, fields: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(at).await else { return "refused".into() };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    let _ = stream.read_to_string(&mut response).await;
    response
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let (group, version) = ("gateway.networking.k8s.io".into(), "v1".into());
    let api_version = format!("{group}/{version}");
    ApiResource { group, version, api_version, kind: kind.into(), plural: plural.into() }
}

struct Applied<'a>(&'a ClusterFixture);

impl Applied<'_> {
    async fn class(&self) {
        let classes: Api<DynamicObject> =
            Api::all_with(self.0.client.clone(), &resource("GatewayClass", "gatewayclasses"));
        eventually("the class", async || {
            let class = classes.get_opt(super::GATEWAY_CLASS).await.ok()??;
            condition(&class.data["status"]["conditions"], "Accepted")
        })
        .await;
    }

    fn api(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        Api::default_namespaced_with(self.0.client.clone(), &resource(kind, plural))
    }

    async fn apply(&self, api: &Api<DynamicObject>, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("test").force();
        api.patch(name, &params, &Patch::Apply(object)).await.unwrap();
    }

    /// Applies a Gateway, and waits for the address of its first listener.
    async fn gateway(&self, listeners: Value) -> IpAddr {
        let api = self.api("Gateway", "gateways");
        let spec = json!({ "gatewayClassName": super::GATEWAY_CLASS, "listeners": listeners });
        self.apply(&api, "Gateway", "gateway", spec).await;
        eventually("a programmed Gateway", async || {
            let gateway = api.get("gateway").await.unwrap();
            let programmed = condition(&gateway.data["status"]["conditions"], "Programmed")?;
            let current = programmed["observedGeneration"] == json!(gateway.metadata.generation);
            let address = gateway.data["status"]["addresses"][0]["value"].as_str()?;
            (current && programmed["status"] == "True").then(|| address.parse().unwrap())
        })
        .await
    }

    async fn route(&self, rules: Value) {
        let api = self.api("HTTPRoute", "httproutes");
        let spec = json!({ "parentRefs": [{ "name": "gateway" }], "rules": rules });
        self.apply(&api, "HTTPRoute", "route", spec).await;
        eventually("an accepted route", async || {
            let route = api.get("route").await.unwrap();
            let accepted =
                condition(&route.data["status"]["parents"][0]["conditions"], "Accepted")?;
            let current = accepted["observedGeneration"] == json!(route.metadata.generation);
            (current && accepted["status"] == "True").then_some(())
        })
        .await;
    }
}

fn condition(conditions: &Value, r#type: &str) -> Option<Value> {
    conditions.as_array()?.iter().find(|condition| condition["type"] == r#type).cloned()
}

async fn service(fixture: &ClusterFixture, name: &str, host: u8, letter: char) {
    fixture.service(name, json!({ "ports": [{ "port": 80 }] })).await;
    fixture.endpoints(name, &[endpoint(fixture, host, letter).await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_weights_matches_and_filters() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    service(&fixture, "stable", 1, 's').await;
    service(&fixture, "canary", 2, 'c').await;
    let address =
        applied.gateway(json!([{ "name": "http", "port": 8080, "protocol": "HTTP" }])).await;
    let at = SocketAddr::new(address, 8080);
    let backends = |canary: u32| {
        json!([{ "name": "stable", "port": 80, "weight": 100 - canary },
               { "name": "canary", "port": 80, "weight": canary }])
    };
    let tester = json!([{ "headers": [{ "name": "tester", "value": "yes" }] }]);
    let rewrite = json!([
        { "type": "URLRewrite", "urlRewrite": { "hostname": "inner",
            "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2" } } },
        { "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "x", "value": "1" }] } },
        { "type": "ResponseHeaderModifier", "responseHeaderModifier": { "add": [{ "name": "y", "value": "2" }] } },
    ]);
    let rules = |canary| {
        json!([
            { "backendRefs": backends(canary) },
            { "matches": tester, "backendRefs": [{ "name": "canary", "port": 80 }] },
            { "matches": [{ "path": { "value": "/old" } }], "filters": rewrite,
              "backendRefs": [{ "name": "stable", "port": 80 }] },
            { "matches": [{ "path": { "value": "/gone" } }], "backendRefs": [{ "name": "absent", "port": 80 }] },
            { "matches": [{ "path": { "value": "/away" } }], "filters": [{ "type": "RequestRedirect",
                "requestRedirect": { "hostname": "other.org", "scheme": "https", "statusCode": 301 } }] },
        ])
    };
    applied.route(rules(25)).await;
    let mut canary = 0;
    for _ in 0..REQUESTS {
        let response = get(at, "a.com", "/", "").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        canary += usize::from(response.contains("\r\n\r\nc "));
    }
    // Six standard deviations of a binomial: 52.
    assert!(canary.abs_diff(REQUESTS / 4) < 52, "{canary} of {REQUESTS}");
    for _ in 0..20 {
        assert!(get(at, "a.com", "/", "Tester: yes\r\n").await.contains("\r\n\r\nc "));
    }
    let rewritten = get(at, "a.com", "/old/x?q=1", "").await;
    for part in ["s GET /v2/x?q=1 ", "host: inner\r\n", "x: 1\r\n", "y: 2\r\n"] {
        assert!(rewritten.contains(part), "{part:?} in {rewritten}");
    }
    assert!(get(at, "a.com", "/gone", "").await.starts_with("HTTP/1.1 500"));
    let away = get(at, "a.com", "/away/x", "").await;
    assert!(away.starts_with("HTTP/1.1 301"), "{away}");
    assert!(away.contains("location: https://other.org/away/x\r\n"), "{away}");

    // A weight of 0 gets nothing, from the first request that any client sends after it is live.
    applied.route(rules(0)).await;
    for _ in 0..50 {
        assert!(get(at, "a.com", "/", "").await.contains("\r\n\r\ns "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_weight_loses_no_request() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    service(&fixture, "stable", 1, 's').await;
    service(&fixture, "canary", 2, 'c').await;
    let address =
        applied.gateway(json!([{ "name": "http", "port": 8080, "protocol": "HTTP" }])).await;
    let at = SocketAddr::new(address, 8080);
    let rules = |canary: u32| {
        json!([{ "backendRefs": [
        { "name": "stable", "port": 80, "weight": 100 - canary },
        { "name": "canary", "port": 80, "weight": canary },
    ] }])
    };
    applied.route(rules(0)).await;
    let client = tokio::spawn(async move {
        let mut responses = 0;
        loop {
            let response = get(at, "a.com", "/", "").await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            responses += 1;
            if response.contains("\r\n\r\nc ") && responses > 100 {
                return;
            }
        }
    });
    for canary in (1..=10).chain([50, 100]) {
        applied.route(rules(canary)).await;
    }
    client.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn https_listener_serves_the_certificate_of_its_secret_once_it_exists() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    service(&fixture, "app", 1, 'a').await;
    let listeners = json!([
        { "name": "http", "port": 8080, "protocol": "HTTP" },
        { "name": "https", "port": 8443, "protocol": "HTTPS", "hostname": "*.a.com",
          "tls": { "certificateRefs": [{ "name": "certificate" }] } },
    ]);
    let address = applied.gateway(listeners).await;
    applied.route(json!([{ "backendRefs": [{ "name": "app", "port": 80 }] }])).await;
    let at = SocketAddr::new(address, 8443);
    assert_eq!(get(at, "x.a.com", "/", "").await, "refused", "there is no certificate");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["*.a.com".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": "certificate" },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() },
    }))
    .unwrap();
    let api: Api<Secret> = Api::default_namespaced(fixture.client.clone());
    api.create(&PostParams::default(), &secret).await.unwrap();
    let mut stream = eventually("the certificate", async || {
        let stream = connect_tls(at, "x.a.com").await.ok()?;
        let served = stream.get_ref().1.peer_certificates()?.first()?.clone();
        (served == *certificate.der()).then_some(stream)
    })
    .await;
    let request = b"GET / HTTP/1.1\r\nHost: x.a.com\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    assert!(response.starts_with(b"HTTP/1.1 200"));
    assert!(connect_tls(at, "b.com").await.is_err(), "no listener has this name");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_stays_with_its_backend_until_that_is_gone() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    service(&fixture, "stable", 1, 's').await;
    service(&fixture, "canary", 2, 'c').await;
    let address =
        applied.gateway(json!([{ "name": "http", "port": 8080, "protocol": "HTTP" }])).await;
    let at = SocketAddr::new(address, 8080);
    let rules = |canary: u32| {
        let backends = json!([
            { "name": "stable", "port": 80, "weight": 100 - canary },
            { "name": "canary", "port": 80, "weight": canary },
        ]);
        let session = json!({
            "sessionName": "user", "absoluteTimeout": "1h", "cookieConfig": { "lifetimeType": "Permanent" },
        });
        json!([{ "matches": [{ "path": { "value": "/shop" } }],
                 "backendRefs": backends, "sessionPersistence": session }])
    };
    applied.route(rules(50)).await;
    let letter = |response: &str| response.split("\r\n\r\n").nth(1)?.chars().next();
    let mut cookies = std::collections::BTreeMap::new();
    while cookies.len() < 2 {
        let response = get(at, "a.com", "/shop/cart", "").await;
        let cookie = response.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        let (cookie, attributes) = cookie.unwrap().split_once("; ").unwrap();
        assert!(cookie.starts_with("user="), "{cookie}");
        assert_eq!(attributes, "Path=/shop; HttpOnly; SameSite=Strict; Max-Age=3600");
        cookies.insert(letter(&response).unwrap(), cookie.to_owned());
    }
    // Whatever the weights become: at 0 a backend gets no new session, and keeps those it has.
    for canary in [50, 0, 100] {
        applied.route(rules(canary)).await;
        for (backend, cookie) in &cookies {
            for _ in 0..20 {
                let response =
                    get(at, "a.com", "/shop", &format!("Cookie: a=b; {cookie}\r\n")).await;
                assert_eq!(letter(&response), Some(*backend), "{response}");
                assert!(!response.contains("set-cookie"), "{response}");
            }
        }
    }
    // A pod that is replaced leaves the session with its Service, and the client with a new cookie.
    fixture.endpoints("canary", &[endpoint(&fixture, 3, 'C').await]).await;
    applied.route(rules(0)).await;
    let cookie = format!("Cookie: {}\r\n", cookies[&'c']);
    let response = eventually("the new endpoint", async || {
        let response = get(at, "a.com", "/shop", &cookie).await;
        (letter(&response) == Some('C')).then_some(response)
    })
    .await;
    assert!(response.contains("set-cookie: user="), "{response}");
}

/// Starts an endpoint that responds 503 as often as the path says, `/<times>`, and then 200.
async fn flaky_endpoint(fixture: &ClusterFixture) -> SocketAddr {
    let listener = fixture.pod_listener(1, 0).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut failed = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 1024];
            let Ok(length) = stream.read(&mut request).await else { continue };
            let head = String::from_utf8_lossy(&request[..length]).into_owned();
            let times: usize = head[head.find('/').unwrap() + 1..][..1].parse().unwrap();
            let status = if failed < times { "503 Service Unavailable" } else { "200 OK" };
            failed = if failed < times { failed + 1 } else { 0 };
            let response =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(response.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_request_is_sent_again_as_often_as_its_rule_says() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    fixture.service("flaky", json!({ "ports": [{ "port": 80 }] })).await;
    fixture.endpoints("flaky", &[flaky_endpoint(&fixture).await]).await;
    let address =
        applied.gateway(json!([{ "name": "http", "port": 8080, "protocol": "HTTP" }])).await;
    let at = SocketAddr::new(address, 8080);
    let rules = |codes: Value| {
        json!([{ "backendRefs": [{ "name": "flaky", "port": 80 }],
                 "filters": [{ "type": "CORS", "cors": { "allowOrigins": ["https://*.a.com"], "allowMethods": ["GET"] } }],
                 "retry": { "codes": codes, "attempts": 2, "backoff": "1ms" } }])
    };
    applied.route(rules(json!([503]))).await;
    for (path, status) in [("/0", 200), ("/1", 200), ("/2", 200), ("/3", 503)] {
        let response = eventually("the endpoints", async || {
            let response = get(at, "a.com", path, "").await;
            (!response.contains("no endpoint")).then_some(response)
        })
        .await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {response}");
    }
    // The third failure was the last that the endpoint had for that path.
    assert!(get(at, "a.com", "/3", "").await.starts_with("HTTP/1.1 200"));
    applied.route(rules(json!([500]))).await;
    assert!(get(at, "a.com", "/1", "").await.starts_with("HTTP/1.1 503"), "another status");
    let fields = "Origin: https://x.a.com\r\n";
    let response = get(at, "a.com", "/1", fields).await;
    assert!(response.contains("access-control-allow-origin: https://x.a.com\r\n"), "{response}");
}

/// Starts an endpoint that speaks TLS with a certificate for `app.com`, which is returned.
async fn tls_endpoint(fixture: &ClusterFixture) -> (SocketAddr, rcgen::Certificate) {
    use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
    let listener = fixture.pod_listener(1, 0).await;
    let address = listener.local_addr().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["app.com".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 1024]).await;
                let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(response).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_is_spoken_to_over_tls_as_its_policy_says() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    let (endpoint, certificate) = tls_endpoint(&fixture).await;
    fixture.service("app", json!({ "ports": [{ "port": 443 }] })).await;
    fixture.endpoints("app", &[endpoint]).await;
    let map: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "authority" }, "data": { "ca.crt": certificate.pem() },
    }))
    .unwrap();
    let maps = Api::default_namespaced(fixture.client.clone());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let listeners = json!([
        { "name": "http", "port": 8080, "protocol": "HTTP" },
        { "name": "tls", "port": 8443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
    ]);
    let address = applied.gateway(listeners).await;
    applied.route(json!([{ "backendRefs": [{ "name": "app", "port": 443 }] }])).await;
    let api = applied.api("BackendTLSPolicy", "backendtlspolicies");
    let at = SocketAddr::new(address, 8080);
    for (hostname, status) in [("app.com", 200), ("other.com", 502), ("app.com", 200)] {
        let spec = json!({
            "targetRefs": [{ "group": "", "kind": "Service", "name": "app" }],
            "validation": { "hostname": hostname,
                "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "authority" }] },
        });
        applied.apply(&api, "BackendTLSPolicy", "policy", spec).await;
        eventually("the policy", async || {
            let response = get(at, "a.com", "/", "").await;
            response.starts_with(&format!("HTTP/1.1 {status}")).then_some(())
        })
        .await;
    }
    // Past the proxy, the client sees the endpoint's own certificate.
    let route = applied.api("TLSRoute", "tlsroutes");
    let spec = json!({ "parentRefs": [{ "name": "gateway", "sectionName": "tls" }], "hostnames": ["app.com"],
                       "rules": [{ "backendRefs": [{ "name": "app", "port": 443 }] }] });
    applied.apply(&route, "TLSRoute", "tls", spec).await;
    let at = SocketAddr::new(address, 8443);
    let stream = eventually("the TLS route", async || connect_tls(at, "app.com").await.ok()).await;
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], *certificate.der());
    assert!(connect_tls(at, "other.com").await.is_err(), "no route has this name");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_route_forwards_bytes_to_the_oldest_route() {
    let fixture = ClusterFixture::new().await;
    let applied = Applied(&fixture);
    applied.class().await;
    service(&fixture, "one", 1, '1').await;
    service(&fixture, "two", 2, '2').await;
    let address =
        applied.gateway(json!([{ "name": "tcp", "port": 9000, "protocol": "TCP" }])).await;
    let at = SocketAddr::new(address, 9000);
    let api = applied.api("TCPRoute", "tcproutes");
    let spec = |service: &str| {
        json!({ "parentRefs": [{ "name": "gateway" }],
                "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }] })
    };
    // The endpoint leaves the connection open.
    let first = async || {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.ok()?;
        let (mut response, end) = (Vec::new(), "\r\n\r\n");
        while stream.read_buf(&mut response).await.ok()? > 0 {
            let text = String::from_utf8_lossy(&response);
            if let Some(letter) = text.split(end).nth(1).and_then(|body| body.chars().next()) {
                return Some(letter);
            }
        }
        None
    };
    assert_eq!(first().await, None, "there is no route");
    applied.apply(&api, "TCPRoute", "a", spec("one")).await;
    eventually("the route", async || first().await.filter(|letter| *letter == '1')).await;
    applied.apply(&api, "TCPRoute", "b", spec("two")).await;
    eventually("the second route", async || {
        let route = api.get("b").await.unwrap();
        condition(&route.data["status"]["parents"][0]["conditions"], "Accepted")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(first().await, Some('1'));
    }
}

/// As while the API server is ending, or away.
#[tokio::test(flavor = "multi_thread")]
async fn status_that_is_refused_is_not_written_without_end() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = attempts.clone();
    let refusing = move |client: Client| {
        let serve = tower::service_fn(move |request: http::Request<Body>| {
            let (client, seen) = (client.clone(), seen.clone());
            async move {
                if request.uri().path().ends_with("/status") {
                    seen.lock().unwrap().push(Instant::now());
                    let refusal = http::Response::builder().status(500);
                    return Ok::<_, kube::Error>(refusal.body(Body::from(vec![])).unwrap());
                }
                client.send(request).await
            }
        });
        Client::new(serve, "default")
    };
    let _fixture = ClusterFixture::with_client(Sandbox::Plain, BoundPort::bind, refusing).await;
    let later = eventually("another attempt", async || {
        let attempts = attempts.lock().unwrap();
        let (first, last) = (attempts.first()?, attempts.last()?);
        (last.duration_since(*first) > Duration::from_secs(1)).then_some(attempts.len())
    });
    // One for each list that is complete meanwhile, and one after the delay.
    assert!(later.await < 50);
}
