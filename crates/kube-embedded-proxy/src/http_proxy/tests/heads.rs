//! Heads as endpoints and clients see them.

use super::*;

#[tokio::test]
async fn endpoint_gets_forwarded_fields_and_no_hop_by_hop_fields() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let response = fixture
        .ask(
            "GET /a/../b//c%41?x=%2F&y HTTP/1.1\r\nHost: Foo.Bar:8080\r\nAccept: text/*\r\n\
             Connection: close, X-Mine, Content-Length\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
             Proxy-Authorization: x\r\nProxy-Connection: x\r\nUpgrade: foo\r\nExpect: nothing\r\n\
             X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /x\r\nX-Scheme: https\r\nX-Request-Id: mine\r\nmy_own: kept\r\n\
             Cookie: a=1\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n",
        )
        .await;
    let body = response.split_once("\r\n\r\n").unwrap().1;
    let mut lines: Vec<&str> = body.split("\r\n").filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    let port = format!("x-forwarded-port: {}", fixture.address.port());
    let mut expected = vec![
        "GET /a/../b//c%41?x=%2F&y HTTP/1.1",
        "accept: text/*",
        "cookie: a=1",
        "host: Foo.Bar:8080",
        "my_own: kept",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: Foo.Bar:8080",
        &port,
        "x-forwarded-proto: http",
        "x-real-ip: 127.0.0.1",
        "x-request-id: mine",
        "x-twice: 1",
        "x-twice: 2",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn request_without_an_id_gets_one() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let response =
            fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
        let seen = response.split_once("\r\n\r\n").unwrap().1;
        let id = field(seen, "x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn client_gets_no_hop_by_hop_fields() {
    let fixture = HttpFixture::new(&[responds(
        "HTTP/1.1 203 Fine\r\nContent-Length: 2\r\nConnection: X-Mine, close\r\nX-Mine: 1\r\n\
         Keep-Alive: 3\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nServer: app\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nok",
        true,
    )
    .await]);
    let response =
        fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
    let mut lines: Vec<&str> = response.split("\r\n").collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 203 Fine",
            "",
            "connection: close",
            "content-length: 2",
            "date: Thu, 01 Jan 1970 00:00:00 GMT",
            "ok",
            "server: app",
            "set-cookie: a=1",
            "set-cookie: b=2",
        ]
    );
}

#[tokio::test]
async fn response_without_a_body_keeps_its_length_and_connection() {
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        // Its length is optional (RFC 9110, 8.6), and hyper leaves it out.
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", None),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ];
    for (method, response, length) in cases {
        let fixture = HttpFixture::new(&[responds(response, false).await]);
        let mut client = fixture.connect().await;
        for _ in 0..3 {
            let request = format!("{method} / HTTP/1.1\r\nHost: foo.bar\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let head = head(&mut client).await;
            assert_eq!(field(&head, "content-length"), length, "{method}: {head}");
            assert_eq!(status(&head), status(response));
        }
    }
}

#[tokio::test]
async fn expect_continue_is_confirmed_only_if_there_is_a_backend() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let ask = |host| {
        format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n"
        )
    };
    let mut client = fixture.connect().await;
    client.write_all(ask("foo.bar").as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    let response = rest(&mut client).await;
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("body"), "{response}");
    assert!(!response.contains("expect"), "{response}");
    assert_eq!(status(&fixture.ask(ask("other")).await), 404);
}

#[tokio::test]
async fn trailers_are_passed_on() {
    let fixture = HttpFixture::new(&[responds(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
        true,
    )
    .await]);
    let ask = |te| format!("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n{te}\r\n");
    let response = fixture.ask(ask("TE: trailers\r\n")).await;
    assert!(response.ends_with("2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"), "{response}");
    let response = fixture.ask(ask("")).await;
    assert!(response.ends_with("2\r\nok\r\n0\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn large_head_is_refused() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let get = |path: String, fields: String| {
        format!("GET /{path} HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n{fields}\r\n")
    };
    let many = |n| (0..n).map(|n| format!("x{n}: y\r\n")).collect::<String>();
    let cases = [
        (get("a".repeat(8000), String::new()), 200),
        (get("a".repeat(8192), String::new()), 414),
        (get(String::new(), format!("x: {}\r\n", "y".repeat(30_000))), 200),
        (get(String::new(), format!("x: {}\r\n", "y".repeat(33_000))), 431),
        (get(String::new(), many(90)), 200),
        (get(String::new(), many(101)), 200),
        (get(String::new(), many(1100)), 431),
    ];
    for (request, code) in cases {
        let response = fixture.ask(&request).await;
        assert_eq!(status(&response), code, "{} bytes: {response}", request.len());
    }
}

#[tokio::test]
async fn endless_head_is_cut_off() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let mut client = fixture.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut sent = 0;
    while sent < 16 << 20 && client.write_all(&[b'a'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 16 << 20, "it took {sent} bytes of head");
}
