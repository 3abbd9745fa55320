//! The examples of the Kubernetes documentation, and properties of random tables.

use super::*;
use crate::route::{Affinity, Route, Routing};
use proptest::{collection::vec, option, prelude::*, sample::select};
use rand::SeedableRng;
use std::collections::HashSet;

fn backend(name: &str) -> Arc<Backend> {
    let route = Arc::new(Route::new(Routing::default(), Arc::new(Affinity::default())));
    Arc::new(Backend::plain(name.into(), route))
}

/// Returns a rule whose backend is called `HOST PATH (TYPE)`.
fn rule(host: Option<&str>, path_type: &str, path: &str) -> Rule {
    let name = format!("{} {path} ({path_type})", host.unwrap_or_default());
    Rule {
        host: host.map(str::to_owned),
        path: Path::new(path_type, path),
        backend: backend(name.trim()),
    }
}

fn found<'a>(table: &'a RouteTable, host: Option<&str>, path: &str) -> &'a str {
    find(table, host, path).map_or("nothing", |backend| &backend.name)
}

/// Returns the backend of a GET without fields.
fn find<'a>(table: &'a RouteTable, host: Option<&str>, path: &str) -> Option<&'a Backend> {
    let (method, headers) = (&http::Method::GET, &http::HeaderMap::new());
    let entry = table.find(host, path, &RequestFields { method, headers, query: None })?;
    entry.rule.backends[0].backend.as_deref()
}

/// <https://kubernetes.io/docs/concepts/services-networking/ingress/#examples>, row by row.
#[test]
fn documented_path_examples_match() {
    const NO: &str = "default";
    let rows: [(&[(&str, &str)], &[&str], &str); 18] = [
        (&[("Prefix", "/")], &["/", "/a", "/a/b/", "//", "/%zz"], "/ (Prefix)"),
        (&[("Exact", "/foo")], &["/foo"], "/foo (Exact)"),
        (&[("Exact", "/foo")], &["/bar"], NO),
        (&[("Exact", "/foo")], &["/foo/"], NO),
        (&[("Exact", "/foo/")], &["/foo"], NO),
        (&[("Prefix", "/foo")], &["/foo", "/foo/"], "/foo (Prefix)"),
        (&[("Prefix", "/foo/")], &["/foo", "/foo/"], "/foo/ (Prefix)"),
        (&[("Prefix", "/aaa/bb")], &["/aaa/bbb"], NO),
        (&[("Prefix", "/aaa/bbb")], &["/aaa/bbb"], "/aaa/bbb (Prefix)"),
        (&[("Prefix", "/aaa/bbb/")], &["/aaa/bbb"], "/aaa/bbb/ (Prefix)"),
        (&[("Prefix", "/aaa/bbb")], &["/aaa/bbb/"], "/aaa/bbb (Prefix)"),
        (&[("Prefix", "/aaa/bbb")], &["/aaa/bbb/ccc"], "/aaa/bbb (Prefix)"),
        (&[("Prefix", "/aaa/bbb")], &["/aaa/bbbxyz"], NO),
        (&[("Prefix", "/"), ("Prefix", "/aaa")], &["/aaa/ccc"], "/aaa (Prefix)"),
        (
            &[("Prefix", "/"), ("Prefix", "/aaa"), ("Prefix", "/aaa/bbb")],
            &["/aaa/bbb"],
            "/aaa/bbb (Prefix)",
        ),
        (&[("Prefix", "/"), ("Prefix", "/aaa"), ("Prefix", "/aaa/bbb")], &["/ccc"], "/ (Prefix)"),
        (&[("Prefix", "/aaa")], &["/ccc"], NO),
        (&[("Prefix", "/foo"), ("Exact", "/foo")], &["/foo"], "/foo (Exact)"),
    ];
    for (rules, requests, expected) in rows {
        for reversed in [false, true] {
            let mut rules: Vec<Rule> = rules.iter().map(|(t, p)| rule(None, t, p)).collect();
            if reversed {
                rules.reverse();
            }
            let table = RouteTable::new(rules.clone(), Some(backend("default")));
            let without = RouteTable::new(rules.clone(), None);
            for request in requests {
                assert_eq!(found(&table, None, request), expected, "{rules:?}: {request}");
                let expected = if expected == NO { "nothing" } else { expected };
                assert_eq!(found(&without, None, request), expected, "{rules:?}: {request}");
            }
        }
    }
}

/// <https://cloud.google.com/kubernetes-engine/docs/concepts/ingress#multiple_backend_services>.
#[test]
fn asterisk_of_gke_matches_what_is_below() {
    let specific = "ImplementationSpecific";
    let all = RouteTable::new([rule(None, specific, "/*")], None);
    for request in ["/", "/x", "/x/y/", "//"] {
        assert_eq!(found(&all, None, request), "/* (ImplementationSpecific)", "{request}");
    }
    let rules = [
        rule(None, specific, "/v2/*"),
        rule(None, specific, "/v2/*/x"),
        rule(None, "Prefix", "/v3/*"),
        rule(None, "Prefix", "/v4"),
        rule(None, specific, "/v4/*"),
        rule(None, "Prefix", "/v4/deep"),
        rule(None, "Exact", "/v4/exact"),
    ];
    for reversed in [false, true] {
        let mut rules = rules.to_vec();
        if reversed {
            rules.reverse();
        }
        let table = RouteTable::new(rules, None);
        for (request, expected) in [
            ("/v2", "nothing"),
            ("/v2/", "/v2/* (ImplementationSpecific)"),
            ("/v2/a/b", "/v2/* (ImplementationSpecific)"),
            ("/v2x/a", "nothing"),
            ("/v2/*/x", "/v2/*/x (ImplementationSpecific)"),
            ("/v3/a", "nothing"),
            ("/v3/*", "/v3/* (Prefix)"),
            ("/v4", "/v4 (Prefix)"),
            ("/v4/a", "/v4/* (ImplementationSpecific)"),
            ("/v4/deep/a", "/v4/deep (Prefix)"),
            ("/v4/exact", "/v4/exact (Exact)"),
        ] {
            assert_eq!(found(&table, None, request), expected, "{request}");
        }
    }
}

/// <https://kubernetes.io/docs/concepts/services-networking/ingress/#hostname-wildcards>.
#[test]
fn documented_wildcard_examples_match() {
    let table = RouteTable::new([rule(Some("*.foo.com"), "Prefix", "/")], None);
    for (host, matches) in [
        ("bar.foo.com", true),
        ("baz.bar.foo.com", false),
        ("foo.com", false),
        (".foo.com", false),
        ("barfoo.com", false),
    ] {
        assert_eq!(find(&table, Some(host), "/").is_some(), matches, "{host}");
    }
    assert!(find(&table, None, "/").is_none());
}

#[test]
fn host_is_compared_without_case_port_and_trailing_dot() {
    let table = RouteTable::new(
        [rule(Some("foo.bar"), "Prefix", "/"), rule(Some("*.foo.bar"), "Prefix", "/")],
        None,
    );
    for (host, expected) in [
        ("foo.bar", "foo.bar / (Prefix)"),
        ("FOO.bar", "foo.bar / (Prefix)"),
        ("foo.bar:10080", "foo.bar / (Prefix)"),
        ("foo.bar.", "foo.bar / (Prefix)"),
        ("foo.bar.:80", "foo.bar / (Prefix)"),
        ("Canary.Foo.Bar:80", "*.foo.bar / (Prefix)"),
        ("*.foo.bar", "*.foo.bar / (Prefix)"),
        ("foo.bar:x", "nothing"),
        ("foo.bar..", "nothing"),
        ("[::1]:80", "nothing"),
        ("::1", "nothing"),
        ("", "nothing"),
        (":", "nothing"),
    ] {
        assert_eq!(found(&table, Some(host), "/"), expected, "{host}");
    }
}

#[test]
fn host_is_matched_before_the_path() {
    let table = RouteTable::new(
        [
            rule(Some("a.foo.com"), "Prefix", "/a"),
            rule(Some("*.foo.com"), "Prefix", "/"),
            rule(None, "Exact", "/any"),
        ],
        Some(backend("default")),
    );
    for (host, path, expected) in [
        (Some("a.foo.com"), "/a/b", "a.foo.com /a (Prefix)"),
        (Some("a.foo.com"), "/b", "default"),
        (Some("a.foo.com"), "/any", "default"),
        (Some("b.foo.com"), "/any", "*.foo.com / (Prefix)"),
        (Some("c.d"), "/any", "/any (Exact)"),
        (None, "/any", "/any (Exact)"),
        (None, "/", "default"),
        (Some("127.9.2.1"), "/", "default"),
    ] {
        assert_eq!(found(&table, host, path), expected, "{host:?} {path}");
    }
}

#[test]
fn path_is_normalized_for_comparison() {
    let table = RouteTable::new(
        [
            rule(None, "Prefix", "/public"),
            rule(None, "Prefix", "/secret"),
            rule(None, "Exact", "/caf\u{e9}"),
            rule(None, "ImplementationSpecific", "/own/"),
        ],
        Some(backend("default")),
    );
    for (path, expected) in [
        ("/public/../secret", "/secret (Prefix)"),
        ("/public/%2e%2E/secret", "/secret (Prefix)"),
        ("/public/./x", "/public (Prefix)"),
        ("/./public", "/public (Prefix)"),
        ("/public/..", "default"),
        ("/../../public", "/public (Prefix)"),
        ("/%70ublic/x", "/public (Prefix)"),
        ("/public%2Fx", "default"),
        ("/public/.x", "/public (Prefix)"),
        ("/Public", "default"),
        ("//public", "default"),
        ("/caf%C3%A9", "/caf\u{e9} (Exact)"),
        ("/caf%c3%a9", "/caf\u{e9} (Exact)"),
        ("/public/%ff", "/public (Prefix)"),
        ("/public/%", "/public (Prefix)"),
        ("/own/x", "/own/ (ImplementationSpecific)"),
        ("/own", "/own/ (ImplementationSpecific)"),
        ("*", "default"),
        ("", "default"),
    ] {
        assert_eq!(found(&table, None, path), expected, "{path}");
    }
    let everything = RouteTable::new([rule(None, "ImplementationSpecific", "")], None);
    for path in ["/", "/a", "*", ""] {
        assert!(find(&everything, None, path).is_some(), "{path}");
    }
}

#[test]
fn path_with_many_elements_is_cheap() {
    let table = RouteTable::new([rule(None, "Prefix", "/a/b")], None);
    let long = "/".repeat(60_000);
    assert_eq!(found(&table, None, &long), "nothing");
    assert_eq!(found(&table, None, &format!("/a/b{long}")), "/a/b (Prefix)");
    assert_eq!(found(&table, None, &format!("/a/b{}", "/..".repeat(20_000))), "nothing");
}

/// As deep as an object can make it: nothing may recurse.
#[test]
fn path_of_a_rule_with_many_elements_is_kept_and_dropped() {
    let deep = "/a".repeat(200_000);
    let table = RouteTable::new([rule(None, "Prefix", &deep)], None);
    assert!(find(&table, None, &format!("{deep}/b")).is_some());
    assert_eq!(found(&table, None, &deep[2..]), "nothing");
}

/// Searches as the documentation describes, rule by rule, without any order or index.
fn naive<'a>(rules: &'a [Rule], host: &str, path: &str) -> Option<&'a str> {
    let covers = |rule: &&Rule| match rule.host.as_deref() {
        None => 1,
        Some(own) if own == host => 3,
        Some(own) => match own.strip_prefix('*') {
            Some(rest) => {
                let label = host.strip_suffix(rest);
                u8::from(label.is_some_and(|l| !l.is_empty() && !l.contains('.'))) * 2
            }
            None => 0,
        },
    };
    let split =
        |path: &str| -> Vec<String> { path.split('/').skip(1).map(str::to_owned).collect() };
    let request = split(path);
    let length = |rule: &&Rule| match &rule.path {
        Path::Exact(exact) => (exact == path).then_some((request.len(), 2)),
        Path::Prefix(prefix) => {
            let prefix = split(prefix);
            request.starts_with(&prefix).then_some((prefix.len(), 0))
        }
        Path::Below(prefix) => {
            let prefix = split(prefix);
            let is_below = request.starts_with(&prefix) && request.len() > prefix.len();
            is_below.then_some((prefix.len(), 1))
        }
    };
    let best = rules.iter().map(|rule| covers(&rule)).max().filter(|best| *best > 0)?;
    let rules = rules.iter().filter(|rule| covers(rule) == best);
    // The first of equal ones, where `max_by_key` would take the last.
    let winner = rules.rev().filter(|rule| length(rule).is_some()).max_by_key(length);
    winner.map(|rule| &*rule.backend.name)
}

/// Hosts of rules.
fn host() -> impl Strategy<Value = Option<&'static str>> {
    option::of(select(vec!["a.b", "*.b", "c.a.b", "*.a.b", "b"]))
}

/// Hosts and paths of requests.
fn request() -> impl Strategy<Value = (&'static str, String)> {
    (select(vec!["a.b", "x.b", "c.a.b", "x.a.b", "b", "other"]), path())
}

fn path() -> impl Strategy<Value = String> {
    let elements = vec(select(vec!["/a", "/b", "/ab"]), 0..4);
    (elements, any::<bool>()).prop_map(|(elements, trailing_slash)| {
        let slash = if trailing_slash || elements.is_empty() { "/" } else { "" };
        format!("{}{slash}", elements.concat())
    })
}

/// Rules whose backends are called by their position.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let fields = (host(), select(vec!["Exact", "Prefix"]), path());
    vec(fields, 0..12).prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        let named = |(n, (host, path_type, path)): (usize, (Option<&str>, &str, String))| {
            let backend = backend(&n.to_string());
            Rule { backend, ..rule(host, path_type, &path) }
        };
        rules.map(named).collect()
    })
}

proptest! {
    #[test]
    fn lookup_finds_the_rule_of_the_naive_search(rules in rules(), requests in vec(request(), 20)) {
        let table = RouteTable::new(rules.clone(), None);
        for (host, path) in requests {
            let got = find(&table, Some(host), &path).map(|backend| &*backend.name);
            prop_assert_eq!(got, naive(&rules, host, &path), "{}{} in {:#?}", host, path, rules);
        }
    }

    #[test]
    fn lookup_does_not_depend_on_the_order_of_different_rules(
        mut rules in rules(),
        requests in vec(request(), 20),
    ) {
        // Of two rules for the same host and path, the first one counts.
        let mut claims = HashSet::new();
        rules.retain(|rule| claims.insert((rule.host.clone(), rule.path.to_string())));
        let table = RouteTable::new(rules.clone(), None);
        rules.reverse();
        let reversed = RouteTable::new(rules, None);
        for (host, path) in requests {
            let name = |table: &RouteTable| {
                find(table, Some(host), &path).map(|backend| backend.name.clone())
            };
            prop_assert_eq!(name(&table), name(&reversed), "{}{}", host, path);
        }
    }

    #[test]
    fn normalization_is_idempotent(path in "(/([a.%/]|%2[eEfF]|%61|\\.\\.){0,6}){1,4}") {
        let once = normalize(&path).into_owned();
        // A decoded percent sign may look like an encoding; other paths are stable.
        if !once.contains('%') {
            prop_assert_eq!(normalize(&once).into_owned(), once);
        }
    }
}

/// Returns a table with rules whose backends have these names, in this order.
fn of_gateway<const N: usize>(
    listeners: &[Option<&str>],
    rules: [(MatchHost<'_>, String, PathMatch, Conditions); N],
) -> RouteTable {
    let mut table = RouteTable::of_gateway(listeners.iter().copied());
    for (n, (at, name, path, conditions)) in rules.into_iter().enumerate() {
        let conditions = (!conditions.is_empty()).then(|| Arc::new(conditions));
        let (rule, rank) = (Arc::new(backend(&name).into()), Rank { rule: n, ..Rank::default() });
        table.insert(at, HttpMatch { path, conditions, rule, rank });
    }
    table
}

/// The order of `HTTPRouteRule.matches`: host, path, method, headers, query parameters, then the order
/// of the rules.
#[test]
fn gateway_rule_is_the_most_specific_one_that_matches() {
    use crate::http_proxy::conditions::ValueMatch;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    let exact = |value: &str| ValueMatch::Exact(value.into());
    let header = |name: &'static str, value: &str| (HeaderName::from_static(name), exact(value));
    let entry = |name: &str, host: Option<&'static str>, (kind, path): (&str, &str), conditions| {
        let path = match kind {
            "Regex" => PathMatch::Regex(regex::Regex::new(path).unwrap()),
            kind => PathMatch::Path(Path::new(kind, path)),
        };
        (MatchHost { listener: None, host }, name.to_owned(), path, conditions)
    };
    let none = Conditions::default;
    let post = || Conditions { method: Some(Method::POST), ..none() };
    let one = || Conditions { headers: vec![header("v", "2")], ..none() };
    let two = || Conditions { headers: vec![header("v", "2"), header("w", "3")], ..none() };
    let query = || Conditions { query: vec![("q".into(), exact("a b"))], ..none() };
    let host = Some("a.com");
    let rules = [
        entry("first", host, ("Prefix", "/"), none()),
        entry("second", host, ("Prefix", "/"), none()),
        entry("one header", host, ("Prefix", "/"), one()),
        entry("two headers", host, ("Prefix", "/"), two()),
        entry("method", host, ("Prefix", "/"), post()),
        entry("query", host, ("Prefix", "/"), query()),
        entry("longer", host, ("Prefix", "/long"), none()),
        entry("exact", host, ("Exact", "/long/exact"), none()),
        entry("regex", host, ("Regex", "^(?:/r[0-9]+)$"), none()),
        entry("wildcard", Some("*.b.com"), ("Prefix", "/"), none()),
        entry("any", None, ("Exact", "/any"), none()),
    ];
    let table = of_gateway(&[None], rules);
    for (host, method, path, fields, query, expected) in [
        ("a.com", "GET", "/", "", "", "first"),
        ("a.com:8080", "GET", "/x", "", "", "first"),
        ("a.com", "GET", "/", "v", "", "one header"),
        ("a.com", "GET", "/", "vw", "", "two headers"),
        ("a.com", "POST", "/", "vw", "", "method"),
        ("a.com", "GET", "/", "v", "q=a+b", "one header"),
        ("a.com", "GET", "/", "", "p=1&q=a%20b", "query"),
        ("a.com", "GET", "/", "", "q=c&q=a+b", "first"),
        ("a.com", "POST", "/long/x", "vw", "", "longer"),
        ("a.com", "GET", "/longer", "", "", "first"),
        ("a.com", "GET", "/long/exact", "", "", "exact"),
        ("a.com", "GET", "/r12", "", "", "regex"),
        ("a.com", "GET", "/r12/x", "", "", "first"),
        ("x.b.com", "GET", "/", "", "", "wildcard"),
        ("x.y.b.com", "GET", "/", "", "", "wildcard"),
        ("b.com", "GET", "/", "", "", "nothing"),
        ("x.b.com", "GET", "/any", "", "", "wildcard"),
        ("c.com", "GET", "/any", "", "", "any"),
        ("c.com", "GET", "/any/", "", "", "nothing"),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in [("v", "2"), ("w", "3")].iter().filter(|(n, _)| fields.contains(n)) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let method: Method = method.parse().unwrap();
        let query = Some(query);
        let found = table.find(
            Some(host),
            path,
            &RequestFields { method: &method, headers: &headers, query },
        );
        let found = found.and_then(|entry| entry.rule.backends[0].backend.as_ref());
        let found = found.map_or("nothing", |backend| &backend.name);
        assert_eq!(found, expected, "{method} {host}{path}?{query:?} {fields}");
    }
}

/// GEP-3155 and GatewayHTTPListenerIsolation: a request belongs to one listener.
#[test]
fn gateway_listener_with_the_most_specific_host_takes_the_request() {
    let entry = |listener: Option<&'static str>, name: &str, path| {
        let path = PathMatch::Path(Path::new("Prefix", path));
        (MatchHost { listener, host: listener }, name.to_owned(), path, Conditions::default())
    };
    let listeners =
        [None, Some("*.a.com"), Some("*.b.a.com"), Some("c.a.com"), Some("empty.a.com")];
    let rules = [
        entry(None, "any", "/any"),
        entry(Some("*.a.com"), "wildcard", "/wildcard"),
        entry(Some("*.b.a.com"), "deeper", "/deeper"),
        entry(Some("c.a.com"), "exact", "/exact"),
    ];
    let table = of_gateway(&listeners, rules);
    for (host, expected) in [
        ("z.org", "any"),
        ("x.a.com", "wildcard"),
        ("x.y.a.com", "wildcard"),
        ("x.b.a.com", "deeper"),
        ("c.a.com", "exact"),
        ("empty.a.com", "nothing"),
    ] {
        for path in ["/any", "/wildcard", "/deeper", "/exact"] {
            let name = if path[1..] == *expected { expected } else { "nothing" };
            assert_eq!(found(&table, Some(host), path), name, "{host}{path}");
        }
    }
}

#[test]
fn weights_are_exact_shares() {
    use rand::{SeedableRng, rngs::StdRng};
    let rule = |weights: &[u32]| RouteRule {
        backends: weights
            .iter()
            .map(|weight| WeightedBackend { weight: *weight, backend: None, headers: None })
            .collect(),
        ..RouteRule::default()
    };
    let rng = &mut StdRng::seed_from_u64(7);
    for none in [&[][..], &[0], &[0, 0]] {
        assert!(rule(none).choose(rng).is_none(), "{none:?}");
    }
    let (weighted, mut counts) = (rule(&[9, 0, 1]), [0_u32; 10]);
    for _ in 0..100_000 {
        counts[weighted.choose(rng).unwrap().weight as usize] += 1;
    }
    // Five standard deviations of a binomial.
    assert!(counts[1].abs_diff(10_000) < 475, "{counts:?}");
    assert_eq!((counts[0], counts[1] + counts[9]), (0, 100_000));
}

/// Five standard deviations of a binomial, which a right choice exceeds once in two million times.
#[test]
fn share_of_a_weight_is_exact_at_a_million_requests() {
    const REQUESTS: u32 = 1_000_000;
    let rng = &mut rand::rngs::StdRng::seed_from_u64(7);
    for weights in [&[1, 99][..], &[70, 30, 0], &[1, 999_999], &[3, 3, 1], &[1_000_000, 1_000_000]]
    {
        let weighted = |weight: &u32| WeightedBackend {
            weight: *weight,
            backend: Some(backend(&weight.to_string())),
            headers: None,
        };
        let backends = weights.iter().map(weighted).collect();
        let rule = RouteRule { backends, ..RouteRule::default() };
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..REQUESTS {
            let chosen = rule.choose(rng).unwrap();
            let index = rule.backends.iter().position(|other| std::ptr::eq(other, chosen));
            counts[index.unwrap()] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(*weight) / f64::from(total);
            let expected = f64::from(REQUESTS) * share;
            let deviation = (expected * (1.0 - share)).sqrt();
            let distance = (f64::from(*count) - expected).abs();
            assert!(distance <= 5.0 * deviation, "{counts:?} of {weights:?}");
        }
    }
}
