use super::*;

/// The table of `HTTPPathModifier.replacePrefixMatch`.
#[test]
fn prefix_is_replaced_as_documented() {
    for (path, prefix, new, expected) in [
        ("/foo/bar", 1, "/xyz", "/xyz/bar"),
        ("/foo/bar", 1, "/xyz/", "/xyz/bar"),
        ("/foo", 1, "/xyz", "/xyz"),
        ("/foo/", 1, "/xyz", "/xyz/"),
        ("/foo/bar", 1, "", "/bar"),
        ("/foo/", 1, "", "/"),
        ("/foo", 1, "", "/"),
        ("/foo/", 1, "/", "/"),
        ("/foo", 1, "/", "/"),
        ("/", 0, "/xyz", "/xyz"),
        ("/bar", 0, "/xyz", "/xyz/bar"),
        ("/a/b/c/d", 2, "/x", "/x/c/d"),
    ] {
        let rewrite = PathRewrite::Prefix(new.into());
        assert_eq!(rewrite.apply(path, prefix), expected, "{path}, {prefix} elements by {new:?}");
    }
}

/// The rules of `HTTPRequestRedirectFilter.port`.
#[test]
fn location_has_a_port_only_if_the_scheme_implies_another() {
    let uri: Uri = "/p/q?x=1".parse().unwrap();
    let none =
        Redirect { scheme: None, host: None, path: None, port: None, status: StatusCode::FOUND };
    let scheme = |scheme: &str| Some(scheme.to_owned());
    let path = Some(PathRewrite::Prefix("/r".into()));
    for (redirect, received, port, expected) in [
        (none.clone(), "http", 80, "http://a.com/p/q?x=1"),
        (none.clone(), "http", 8080, "http://a.com:8080/p/q?x=1"),
        (none.clone(), "https", 443, "https://a.com/p/q?x=1"),
        (
            Redirect { scheme: scheme("https"), ..none.clone() },
            "http",
            8080,
            "https://a.com/p/q?x=1",
        ),
        (Redirect { scheme: scheme("http"), ..none.clone() }, "https", 443, "http://a.com/p/q?x=1"),
        (Redirect { port: Some(80), ..none.clone() }, "http", 8080, "http://a.com/p/q?x=1"),
        (Redirect { port: Some(8443), ..none.clone() }, "https", 443, "https://a.com:8443/p/q?x=1"),
        (Redirect { host: scheme("b.org"), ..none.clone() }, "http", 80, "http://b.org/p/q?x=1"),
        (Redirect { path, ..none.clone() }, "http", 80, "http://a.com/r/q?x=1"),
    ] {
        let received = Received { scheme: received, host: "a.com", port };
        assert_eq!(redirect.location(&received, &uri, 1), expected, "{redirect:?}");
    }
}

#[test]
fn header_changes_are_applied_in_order() {
    let changes = HeaderChanges {
        set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("new"))],
        add: vec![(HeaderName::from_static("b"), HeaderValue::from_static("2"))],
        remove: vec![HeaderName::from_static("c")],
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [("a", "x"), ("a", "y"), ("b", "1"), ("c", "z")] {
        headers.append(name, HeaderValue::from_static(value));
    }
    changes.apply(&mut headers);
    let all = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("a"), all("b"), all("c")), (vec!["new"], vec!["1", "2"], vec![]));
}
