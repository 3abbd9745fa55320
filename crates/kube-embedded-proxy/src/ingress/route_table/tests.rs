//! The examples of the Kubernetes documentation, and a naive model against random tables.

use super::*;
use crate::route::{Affinity, Routing};
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn backend(name: &str) -> Arc<Backend> {
    let route = Arc::new(Route::new(Routing::default(), Arc::new(Affinity::default())));
    Arc::new(Backend { name: name.into(), route })
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
    table.find(host, path).map_or("nothing", |backend| &backend.name)
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
        assert_eq!(table.find(Some(host), "/").is_some(), matches, "{host}");
    }
    assert!(table.find(None, "/").is_none());
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
        assert!(everything.find(None, path).is_some(), "{path}");
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

/// What the documentation says, rule by rule, without any order or index.
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
        Path::Exact(exact) => (exact == path).then_some((request.len(), true)),
        Path::Prefix(prefix) => request.starts_with(prefix).then_some((prefix.len(), false)),
    };
    let best = rules.iter().map(|rule| covers(&rule)).max().filter(|best| *best > 0)?;
    let rules = rules.iter().filter(|rule| covers(rule) == best);
    // The first of equal ones, where `max_by_key` would take the last.
    let winner = rules.rev().filter(|rule| length(rule).is_some()).max_by_key(length);
    winner.map(|rule| &*rule.backend.name)
}

#[test]
fn the_index_finds_what_the_naive_search_finds() {
    let rng = &mut StdRng::seed_from_u64(1);
    let hosts = ["a.b", "*.b", "c.a.b", "*.a.b", "b"];
    let asked = ["a.b", "x.b", "c.a.b", "x.a.b", "b", "other"];
    fn path(rng: &mut StdRng, slash_at_end: bool) -> String {
        let depth = rng.random_range(0..4);
        let mut path: String =
            (0..depth).map(|_| ["/a", "/b", "/ab"][rng.random_range(0..3)]).collect();
        if path.is_empty() || slash_at_end && rng.random_bool(0.3) {
            path.push('/');
        }
        path
    }
    let mut hits = 0;
    for _ in 0..2000 {
        let rules: Vec<Rule> = (0..rng.random_range(0..12))
            .map(|n| {
                let host = rng.random_bool(0.7).then(|| hosts[rng.random_range(0..5)]);
                let kind = ["Exact", "Prefix"][rng.random_range(0..2)];
                let mut rule = rule(host, kind, &path(rng, true));
                rule.backend = backend(&n.to_string());
                rule
            })
            .collect();
        let table = RouteTable::new(rules.clone(), None);
        for _ in 0..20 {
            let (host, path) = (asked[rng.random_range(0..6)], path(rng, true));
            let expected = naive(&rules, host, &path);
            hits += usize::from(expected.is_some());
            let got = table.find(Some(host), &path).map(|backend| &*backend.name);
            assert_eq!(got, expected, "{host}{path} in {rules:#?}");
        }
    }
    assert!(hits > 10_000, "{hits} hits say little");
}
