//! Requests that two programs could parse differently (request smuggling). Whatever a client writes,
//! an endpoint sees one request for one, or none.

use super::*;

/// The bytes sent, the statuses of the responses, and what the endpoint sees: request lines, then the
/// bodies.
type Case = (&'static str, &'static [u16], &'static [&'static str]);

const HIDDEN: &str = "GET /hidden";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Plain ones, so that the table itself is tested.
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[200], &["GET /a"]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", &[200], &["POST /a", "abc"]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\n\r\nGET /b HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[200, 200], &["GET /a", "GET /b"]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", &[200], &["GET /a", "abc"]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200], &["GET /a", "3\r\nabc\r\n0\r\n\r\n"]),
    // Length and coding: the coding counts, and nothing after it is a request.
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[200], &["POST /a", "0\r\n\r\n"]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[200], &["POST /a", "0\r\n\r\n"]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3, 4\r\n\r\nabcd", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: +3\r\n\r\nabc", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: -1\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 0x3\r\n\r\nabc", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length:\r\n\r\nabc", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 99999999999999999999\r\n\r\nabc", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", &[200], &["POST /a", "abc"]),
    // Codings that are not exactly chunked.
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", &[501], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &[501], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[501], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.0\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", &[200], &["POST /a", "0\r\n\r\n"]),
    // Header lines.
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding : chunked\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nX: y\r\n folded\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\n Host: foo.bar\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nX: a\0b\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nX: a\rb\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nX\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\n: x\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nX(y): z\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\nHost: foo.bar\nConnection: close\n\n", &[200], &["GET /a"]),
    // Hosts.
    ("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar/evil\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar, other\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/1.1\r\nHost: foo.bar@other\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET http://foo.bar/a HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", &[200], &["GET /a", "host: foo.bar"]),
    ("GET http://other/a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[404], &[]),
    ("GET http://me@foo.bar/a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET http://foo.bar HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[200], &["GET / "]),
    // Targets and methods.
    ("GET a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET foo.bar:80 HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /a b HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("GET  /a HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("GET /a\0 HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("GET /..%2fa HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("GET /b%5c..%5ca HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[400], &[]),
    ("G(T /a HTTP/1.1\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("CONNECT foo.bar:80 HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[405], &[]),
    ("TRACE /a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[405], &[]),
    ("OPTIONS * HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n", &[200], &["OPTIONS * "]),
    // Versions.
    ("GET /a HTTP/1.0\r\nHost: foo.bar\r\n\r\n", &[200], &["GET /a", "HTTP/1.1\r\n"]),
    ("GET /a HTTP/1.0\r\n\r\n", &[404], &[]),
    ("GET /a\r\n", &[400], &[]),
    ("GET /a HTTP/1.2\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("GET /a HTTP/3.0\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    ("GET /a http/1.1\r\nHost: foo.bar\r\n\r\n", &[400], &[]),
    // Upgrades that are none.
    ("GET /a HTTP/1.1\r\nHost: foo.bar\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", &[200], &["GET /a"]),
];

#[tokio::test]
async fn request_is_never_parsed_as_two() {
    let seen = Arc::<Mutex<String>>::default();
    let sees = seen.clone();
    let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
        let seen = sees.clone();
        async move {
            let mut buffer = [0; 4096];
            let mut pending = String::new();
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..n]);
                seen.lock().unwrap().push_str(&text);
                pending.push_str(&text);
                if is_whole(&pending) {
                    pending.clear();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        }
    })
    .await]);
    for (request, statuses, expected) in CASES {
        seen.lock().unwrap().clear();
        println!("{request:?}");
        let response = fixture.ask(request).await;
        let got: Vec<u16> =
            response.match_indices("HTTP/1.").map(|(n, _)| status(&response[n..])).collect();
        assert_eq!(got, *statuses, "{request:?} got {response:?}");
        let seen = seen.lock().unwrap();
        for part in *expected {
            assert!(seen.contains(part), "{request:?} came as {seen:?}, without {part:?}");
        }
        assert!(!seen.contains(HIDDEN), "{request:?} came as {seen:?}");
        assert!(!seen.to_lowercase().contains("h2c"), "{request:?} came as {seen:?}");
        assert!(!expected.is_empty() || seen.is_empty(), "{request:?} came as {seen:?}");
        let both = field(&seen, "content-length").and(field(&seen, "transfer-encoding"));
        assert!(both.is_none(), "{request:?} came as {seen:?}");
    }
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    match field(head, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() == length,
        None => field(head, "transfer-encoding").is_none() || body.ends_with("0\r\n\r\n"),
    }
}

#[tokio::test]
async fn invalid_chunk_ends_the_request_and_the_connection() {
    let chunks: &[&str] = &[
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 \nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    for chunks in chunks {
        let (report, mut reports) = mpsc::unbounded_channel();
        let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
            let report = report.clone();
            async move {
                let _ = report.send(rest(&mut stream).await);
            }
        })
        .await]);
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
             GET /hidden HTTP/1.1\r\nHost: foo.bar\r\n\r\n"
        );
        let response = fixture.ask(&request).await;
        assert_eq!(status(&response), 400, "{chunks:?} got {response:?}");
        assert!(response.contains("the body of the request is invalid"), "{response:?}");
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1);
        // The endpoint may not even have been connected to.
        drop(fixture);
        let seen = within(reports.recv()).await.unwrap_or_default();
        assert!(!seen.contains(HIDDEN) && !seen.ends_with("0\r\n\r\n"), "{chunks:?}: {seen:?}");
    }
}
