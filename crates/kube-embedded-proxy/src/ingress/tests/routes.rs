//! Routing by host and path, classes, addresses.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn request_is_routed_by_host_and_path_as_rules_change() {
    let fixture = ClusterFixture::new().await;
    for letter in ['a', 'b', 'd'] {
        fixture.letter(letter).await;
    }
    let spec = json!({
        "defaultBackend": backend("d"),
        "rules": [rule("a.foo", "/", "a"), rule("*.b.foo", "/", "b"), rule("fan.out", "/b", "b")],
    });
    fixture.ingress("app", spec).await;
    let (http, _) = fixture.published("default", "app").await;
    assert_eq!(http.ip(), fixture.ingress_address(1));
    for (host, path, expected) in [
        ("a.foo", "/", "a"),
        ("A.FOO:8080", "/x?y=/b", "a"),
        ("x.b.foo", "/", "b"),
        ("b.foo", "/", "d"),
        ("fan.out", "/b/x", "b"),
        ("fan.out", "/x", "d"),
        ("127.0.0.1", "/", "d"),
    ] {
        serves(http, host, path, expected).await;
    }
    assert!(fixture.events("app").await.contains(&"Sync Scheduled for sync".to_owned()));
    fixture.reported("app", &format!("Sync Address {} assigned", fixture.ingress_address(1))).await;

    // Ingresses of a namespace share an address; another namespace has another.
    let more = json!({ "rules": [rule("more.foo", "/", "b")] });
    fixture.ingress("more", more).await;
    assert_eq!(fixture.published("default", "more").await.0, http);
    serves(http, "more.foo", "/", "b").await;
    serves(http, "other", "/", "d").await;
    fixture.namespace("shop").await;
    let shop = json!({ "rules": [rule("a.foo", "/", "a")] });
    fixture.ingress_of("shop", "app", shop).await;
    let (theirs, _) = fixture.published("shop", "app").await;
    assert_eq!(theirs.ip(), fixture.ingress_address(2));
    serves(theirs, "a.foo", "/", NO_ENDPOINT).await;
    serves(theirs, "other", "/", NO_RULE).await;
    serves(http, "a.foo", "/", "a").await;

    let rules = json!({ "spec": { "defaultBackend": null, "rules": [rule("a.foo", "/", "b")] } });
    fixture.patch("app", rules).await;
    serves(http, "a.foo", "/", "b").await;
    serves(http, "other", "/", NO_RULE).await;
    serves(http, "more.foo", "/", "b").await;
    for name in ["app", "more"] {
        fixture.ingresses("default").delete(name, &DeleteParams::default()).await.unwrap();
    }
    is_refused(http).await;
    serves(theirs, "other", "/", NO_RULE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_backend_gets_503_until_it_exists() {
    let fixture = ClusterFixture::new().await;
    fixture.letter('a').await;
    let mut named = rule("c.foo", "/", "c");
    named["http"]["paths"][0]["backend"]["service"]["port"] = json!({ "name": "web" });
    let resource = json!({ "apiGroup": "x.io", "kind": "Bucket", "name": "b" });
    let mut bucket = rule("bucket.foo", "/", "");
    bucket["http"]["paths"][0]["backend"] = json!({ "resource": resource });
    let spec = json!({
        "defaultBackend": backend("a"),
        "rules": [rule("b.foo", "/", "b"), named, bucket],
    });
    fixture.ingress("app", spec).await;
    let (http, _) = fixture.published("default", "app").await;
    for host in ["b.foo", "c.foo", "bucket.foo"] {
        serves(http, host, "/", NO_ENDPOINT).await;
    }
    serves(http, "other", "/", "a").await;
    fixture.reported("app", "BackendNotFound Service \"b\" does not exist").await;
    fixture.reported("app", "BackendNotSupported backend Bucket/b is not a Service").await;

    // A Service without endpoints gets 503 as well.
    fixture.service("b", json!({ "ports": [{ "port": 80 }] })).await;
    let ports = json!([{ "name": "http", "port": 80 }]);
    fixture.service("c", json!({ "clusterIP": "None", "ports": ports })).await;
    fixture.reported("app", "BackendNotFound Service \"c\" has no port \"web\"").await;
    serves(http, "b.foo", "/", NO_ENDPOINT).await;
    fixture.endpoints("b", &[letter_endpoint(&fixture, 'b').await]).await;
    serves(http, "b.foo", "/", "b").await;
    let patch = json!({ "spec": { "ports": [{ "name": "web", "port": 80 }] } });
    fixture.services().patch("c", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    fixture.endpoints_of_port("c", "web", &[letter_endpoint(&fixture, 'c').await]).await;
    serves(http, "c.foo", "/", "c").await;

    fixture.endpoints("b", &[]).await;
    serves(http, "b.foo", "/", NO_ENDPOINT).await;
    fixture.services().delete("c", &DeleteParams::default()).await.unwrap();
    serves(http, "c.foo", "/", NO_ENDPOINT).await;
    let again = "Service \"c\" does not exist; requests get 503 until it does (Some(2) times)";
    fixture.reported("app", again).await;
    serves(http, "other", "/", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_of_two_ingresses_owns_host_and_path() {
    let fixture = ClusterFixture::new().await;
    for letter in ['a', 'b'] {
        fixture.letter(letter).await;
    }
    // Created in the same second: the name decides.
    let spec = |letter: &str| json!({ "defaultBackend": backend(letter), "rules": [rule("foo", "/", letter), rule(letter, "/", letter)] });
    fixture.ingress("one", spec("a")).await;
    let (http, _) = fixture.published("default", "one").await;
    fixture.ingress("two", spec("b")).await;
    serves(http, "b", "/", "b").await;
    serves(http, "foo", "/", "a").await;
    serves(http, "other", "/", "a").await;
    let conflict = fixture.reported("two", "host foo").await;
    assert_eq!(
        conflict,
        "Conflict host foo, path / (Prefix) belongs to Ingress \"one\", which comes first (by age, then by name)"
    );
    fixture.reported("two", "Conflict the default backend belongs to Ingress \"one\"").await;
    fixture.endpoints("b", &[letter_endpoint(&fixture, 'B').await]).await;
    serves(http, "b", "/", "B").await;
    assert_eq!(fixture.events("two").await.iter().filter(|e| e.starts_with("Conflict")).count(), 2);
    assert!(!fixture.events("one").await.iter().any(|event| event.starts_with("Conflict")));

    fixture.ingresses("default").delete("one", &DeleteParams::default()).await.unwrap();
    serves(http, "foo", "/", "B").await;
    serves(http, "other", "/", "B").await;
    assert_eq!(fixture.published("default", "two").await.0, http);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ingresses_of_our_classes_are_served() {
    let fixture = ClusterFixture::new().await;
    fixture.letter('a').await;
    let class = |name: &str, controller: &str| -> IngressClass {
        let class = json!({ "metadata": { "name": name }, "spec": { "controller": controller } });
        serde_json::from_value(class).unwrap()
    };
    let classes: Api<IngressClass> = Api::all(fixture.client.clone());
    for class in [class("ours", INGRESS_CONTROLLER), class("theirs", "example.com/other")] {
        classes.create(&<_>::default(), &class).await.unwrap();
    }
    let theirs =
        json!({ "ingressClassName": "theirs", "defaultBackend": backend("a"), "rules": [] });
    fixture.ingress("theirs", theirs).await;
    let ours = json!({ "ingressClassName": "ours", "rules": [rule("a", "/", "a")] });
    fixture.ingress("ours", ours).await;
    let (http, _) = fixture.published("default", "ours").await;
    serves(http, "a", "/", "a").await;
    serves(http, "other", "/", NO_RULE).await;
    let theirs = fixture.ingresses("default").get("theirs").await.unwrap();
    assert_eq!(theirs.lb_status(), LbStatus::default());
    assert_eq!(fixture.events("theirs").await, [""; 0]);

    fixture.patch("ours", json!({ "spec": { "ingressClassName": "theirs" } })).await;
    is_refused(http).await;
    eventually("neither address nor annotation", async || {
        let ingress = fixture.ingresses("default").get("ours").await.unwrap();
        (ingress.lb_status() == LbStatus::default()).then_some(())
    })
    .await;
    // The class may come after the Ingress.
    fixture.patch("ours", json!({ "spec": { "ingressClassName": "late" } })).await;
    classes.create(&<_>::default(), &class("late", INGRESS_CONTROLLER)).await.unwrap();
    serves(fixture.published("default", "ours").await.0, "a", "/", "a").await;
    let annotated = json!({
        "metadata": { "annotations": { "kubernetes.io/ingress.class": "ours" } },
        "spec": { "ingressClassName": null },
    });
    fixture.patch("theirs", annotated).await;
    let (http, _) = fixture.published("default", "theirs").await;
    serves(http, "other", "/", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn address_is_kept_across_restarts_with_fallback_ports() {
    let mut fixture = ClusterFixture::with(Sandbox::Plain, unprivileged).await;
    fixture.letter('a').await;
    fixture.namespace("first").await;
    fixture.ingress_of("first", "app", json!({ "defaultBackend": backend("a") })).await;
    assert_eq!(fixture.published("first", "app").await.0.ip(), fixture.ingress_address(1));
    fixture.ingress("app", json!({ "defaultBackend": backend("a") })).await;
    let (http, https) = fixture.published("default", "app").await;
    assert_eq!(http, SocketAddr::from((fixture.ingress_address(2), 10_080)));
    assert_eq!(https, SocketAddr::from((fixture.ingress_address(2), 10_443)));
    serves(http, "any", "/", "a").await;
    let ingress = fixture.ingresses("default").get("app").await.unwrap();
    assert_eq!(ingress.annotations()[PUBLISHED_PORT], "80=10080,443=10443");
    let point = &ingress.status.unwrap().load_balancer.unwrap().ingress.unwrap()[0];
    let ports: Vec<i32> = point.ports.iter().flatten().map(|port| port.port).collect();
    assert_eq!(ports, [10_080, 10_443]);
    fixture.reported("app", "PortNotBound").await;

    fixture.ingresses("first").delete("app", &DeleteParams::default()).await.unwrap();
    is_refused(SocketAddr::from((fixture.ingress_address(1), 10_080))).await;
    fixture.restart().await;
    serves(http, "any", "/", "a").await;
    fixture.ingress_of("first", "app", json!({ "defaultBackend": backend("a") })).await;
    assert_eq!(fixture.published("first", "app").await.0.ip(), fixture.ingress_address(1));
}

/// Every request gets a response from a or b, whatever happens to rules and endpoints meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_rules_and_endpoints_change() {
    let fixture = ClusterFixture::new().await;
    for letter in ['a', 'b'] {
        fixture.letter(letter).await;
    }
    let another_a = letter_endpoint(&fixture, 'a').await;
    fixture.ingress("app", json!({ "rules": [rule("foo", "/", "a")] })).await;
    let (http, _) = fixture.published("default", "app").await;
    serves(http, "foo", "/", "a").await;
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
        fixture.patch("app", json!({ "spec": { "rules": [rule("foo", "/", letter)] } })).await;
        if turn % 3 == 0 {
            fixture.endpoints("a", &[another_a]).await;
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
