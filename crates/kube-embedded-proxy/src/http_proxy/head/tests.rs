//! Properties of heads, for whatever clients send.

use super::*;
use crate::http_proxy::conditions::RequestFields;
use crate::http_proxy::route_table::{Backend, Path, RouteTable, Rule};
use crate::route::Route;
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::net::SocketAddr;
use std::sync::Arc;

const PEER: &str = "192.0.2.7";

fn forwarded() -> ForwardedHeaders {
    let peer = SocketAddr::new(PEER.parse().unwrap(), 1234);
    ForwardedHeaders::new(peer, false, HeaderValue::from_static("80"))
}

/// Resolves a path as a server that first decodes everything and takes a backslash for a slash.
fn resolve_decoded(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
    let mut resolved: Vec<String> = Vec::new();
    for element in decoded.split('/').skip(1) {
        match element {
            "." => {}
            ".." => drop(resolved.pop()),
            element => resolved.push(element.to_owned()),
        }
    }
    resolved
}

/// Routes `/public`, and everything else to nothing.
fn public_only() -> RouteTable {
    let route = Arc::new(Route::new(crate::route::Routing::default(), Arc::default()));
    let backend = Arc::new(Backend::plain("public".into(), route));
    let rule = Rule { host: None, path: Path::new("Prefix", "/public"), backend };
    RouteTable::new([rule], None)
}

fn element() -> impl Strategy<Value = &'static str> {
    select(vec![
        "public",
        "secret",
        "x",
        "",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        ".%2e",
        "x%2Fy",
        "x%2fpublic",
        "secret%2F",
        "%2F",
        "x%2F..",
        "..%2Fx",
        "x%5Cy",
        "x%5C..",
        "%2e%2e%5C",
        "...",
    ])
}

/// Names that a client may send, and those that the proxy writes or removes.
fn name() -> impl Strategy<Value = &'static str> {
    select(vec![
        "accept",
        "cookie",
        "my_own",
        "x-mine",
        "x-other",
        "te",
        "upgrade",
        "keep-alive",
        "expect",
        "proxy-authorization",
        "proxy-connection",
        "http2-settings",
        "forwarded",
        "x-scheme",
        "x-real-ip",
        "x_real_ip",
        "x-request-id",
        "x-forwarded-for",
        "x_forwarded_for",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "content_length",
        "transfer_encoding",
    ])
}

fn option_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![name(), select(vec!["close", "keep-alive", "Upgrade", "content-length", "host"])]
}

#[test]
fn written_fields_about_the_client_are_those_of_the_map() {
    let mut headers = HeaderMap::new();
    forwarded().insert(&mut headers);
    let mut written = Vec::new();
    for (name, value) in &headers {
        let _ = write!(written, "{name}: {}\r\n", value.to_str().unwrap());
    }
    let sorted = |lines: &[u8]| {
        let mut lines: Vec<Vec<u8>> =
            lines.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(forwarded().lines()), sorted(&written));
    assert_eq!(headers.len(), 4);
}

proptest! {
    #[test]
    fn accepted_path_is_routed_as_a_decoding_server_resolves_it(path in vec(element(), 1..7)) {
        let path = format!("/{}", path.join("/"));
        let request = Request::get(&path).header("host", "foo.bar").body(()).unwrap();
        let Ok(target) = target(&request) else { return Ok(()) };
        let fields = RequestFields { method: &Method::GET, headers: &HeaderMap::new(), query: None };
        if public_only().find(target.host(), target.path(), &fields).is_some() {
            let resolved = resolve_decoded(&path);
            prop_assert_eq!(resolved.first().map(String::as_str), Some("public"), "{}", path);
        }
    }

    #[test]
    fn endpoint_gets_no_field_that_a_client_may_not_set(
        fields in vec((name(), "[!-~]{0,12}"), 0..12),
        options in vec(option_name(), 0..4),
        length in option::of(0..1000_u32),
        has_body: bool,
        upgrade: bool,
        added_later: bool,
    ) {
        let mut request = Request::get("/x?y").header("host", "foo.bar:80");
        for (name, value) in &fields {
            request = request.header(*name, value);
        }
        request = request.header("connection", options.join(", "));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let request = request.body(()).unwrap();
        let target = target(&request).unwrap();
        let wanted = requested_upgrade(&request).filter(|_| upgrade);
        let (mut parts, ()) = request.into_parts();
        let ours = forwarded();
        let now = (!added_later).then_some(&ours);
        for_endpoint(&mut parts, target, now, wanted.as_ref(), has_body).unwrap();
        if added_later {
            let names = ["x-real-ip", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"];
            prop_assert!(names.iter().all(|name| !parts.headers.contains_key(*name)));
            ours.insert(&mut parts.headers);
        }

        let values = |name: &str| -> Vec<&str> {
            parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        prop_assert_eq!(values("host"), ["foo.bar:80"]);
        prop_assert_eq!(values("x-forwarded-for"), [PEER]);
        prop_assert_eq!(values("x-real-ip"), [PEER]);
        prop_assert_eq!(values("x-forwarded-proto"), ["http"]);
        prop_assert!(!values("x-request-id").is_empty());
        // One framing.
        prop_assert_eq!(values("content-length").len(), usize::from(length.is_some()));
        let chunked: &[&str] = if has_body && length.is_none() { &["chunked"] } else { &[] };
        prop_assert_eq!(values("transfer-encoding"), chunked);
        // Hop-by-hop fields are only those that the proxy wrote.
        prop_assert!(values("te").iter().all(|te| *te == "trailers"));
        prop_assert!(values("connection").iter().all(|option| ["te", "upgrade"].contains(option)));
        prop_assert_eq!(values("upgrade").len(), usize::from(wanted.is_some()));
        for removed in ["keep-alive", "proxy-connection", "proxy-authorization", "http2-settings",
            "expect", "forwarded", "x-scheme", "x-forwarded-prefix", "x_real_ip",
            "x_forwarded_for", "content_length", "transfer_encoding"]
        {
            prop_assert!(values(removed).is_empty(), "{}", removed);
        }
        for option in options.iter().filter(|option| option.starts_with("x-mine")) {
            prop_assert!(values(option).is_empty(), "{} is for the connection only", option);
        }
        let kept = fields.iter().filter(|(name, _)| *name == "my_own").count();
        prop_assert!(options.contains(&"my_own") || values("my_own").len() == kept);
    }
}
