//! Heads of responses that are unusual or wrong, and informational ones.

use super::*;

/// The bytes of an endpoint, the status for the client, and a part of what the client gets.
type Case = (&'static str, u16, &'static str);

/// haproxy 2.6 has the same statuses where framing is concerned, but for a space before a colon (502) and
/// HTTP/1.0 with a coding (200); it accepts more in status lines and values. nginx 1.22 accepts more of all.
#[rustfmt::skip]
const CASES: &[Case] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "\r\n\r\nok"),
    ("HTTP/1.0 200 OK\r\n\r\nok", 200, "ok"),
    ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, "\r\n\r\nok"),
    ("HTTP/1.1 299 Odd Reason\r\nContent-Length: 2\r\n\r\nok", 299, "299 Odd Reason\r\n"),
    ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "\r\n\r\nok"),
    // RFC 9112, 5.1: a proxy removes such spaces. nginx and haproxy respond 502.
    ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\nX-Mine\t: 1\r\n\r\nok", 200, "\r\nx-mine: 1\r\n"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"),
    // Field lines.
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n folded\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\0b\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\rb\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\x1bb\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\x7fb\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\tb\u{e9}\r\n\r\nok", 200, "x: a\tb"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: x\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX(y): z\r\n\r\nok", 502, "invalid response"),
    // Status lines.
    ("HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    ("HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    ("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    ("http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    (" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502, "invalid response"),
    ("SSH-2.0-OpenSSH_9.2\r\n\r\n", 502, "invalid response"),
    // Lengths and codings.
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "\r\n\r\nok"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", 502, "coding other than chunked"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502, "coding other than chunked"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", 502, "coding other than chunked"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok", 502, "coding other than chunked"),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502, "invalid response"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204, ""),
    ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, ""),
    // No request for it.
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502, "switched protocols"),
];

#[tokio::test]
async fn response_is_passed_on_as_one_or_refused() {
    for (response, code, part) in CASES {
        println!("{response:?}");
        let fixture = HttpFixture::new(&[responds(*response, true).await]);
        let seen =
            fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&seen), *code, "{response:?} came as {seen:?}");
        assert!(seen.contains(part), "{response:?} came as {seen:?}");
        assert_eq!(seen.matches("HTTP/1.").count(), 1, "{response:?} came as {seen:?}");
        let both = field(&seen, "content-length").and(field(&seen, "transfer-encoding"));
        assert!(both.is_none(), "{response:?} came as {seen:?}");
    }
}

#[tokio::test]
async fn connection_with_two_lengths_is_not_reused() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            let _ = report.send(());
            let both =
                "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
            let hidden = "HTTP/1.1 299 Hidden\r\nContent-Length: 0\r\n\r\n";
            head(&mut stream).await;
            let response = format!("HTTP/1.1 200 OK\r\n{both}{hidden}");
            let _ = stream.write_all(response.as_bytes()).await;
            rest(&mut stream).await;
        }
    })
    .await]);
    for _ in 0..3 {
        assert_eq!(fixture.get().await, 200);
        within(reports.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn heads_may_have_many_fields_and_the_limit_is_told() {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    for (count, code, text) in [
        (98, 200, "x-97: 1\r\n"),
        (99, 200, "x-98: 1\r\n"),
        (100, 200, "x-99: 1\r\n"),
        (101, 200, "x-100: 1\r\n"),
        (1000, 200, "x-999: 1\r\n"),
        (1100, 502, "a response whose head has more than 64 KiB or 1024 fields"),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok", many(count));
        let fixture = HttpFixture::new(&[responds(response, true).await]);
        let seen =
            fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&seen), code, "{count}: {seen:.200}");
        assert!(seen.contains(text), "{count}: {seen:.200}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70 << 10));
    let fixture = HttpFixture::new(&[responds(large, true).await]);
    let seen = fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
    assert!(status(&seen) == 502 && seen.contains("64 KiB"), "{seen:.200}");

    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    for (count, code, text) in [
        (98, 200, "x-97: 1\r\n"),
        (99, 200, "x-98: 1\r\n"),
        (100, 200, "x-99: 1\r\n"),
        (101, 200, "x-100: 1\r\n"),
        (1000, 200, "x-999: 1\r\n"),
        (1100, 431, "the head of the request has more than 32 KiB or 1024 fields"),
    ] {
        let many = many(count);
        let request = format!("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n{many}\r\n");
        let seen = fixture.ask(request).await;
        assert_eq!(status(&seen), code, "{count}: {seen:.200}");
        assert!(seen.contains(text), "{count}: {seen:.200}");
    }
}

#[tokio::test]
async fn target_with_raw_characters_is_encoded_and_other_refusals_are_explained() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    for (target, expected) in [
        (&b"/q?a=<b>"[..], "GET /q?a=%3Cb%3E HTTP/1.1"),
        (b"/q?a=\"x\"", "GET /q?a=%22x%22 HTTP/1.1"),
        (b"/p<x>", "GET /p%3Cx%3E HTTP/1.1"),
        (b"/p`x`", "GET /p%60x%60 HTTP/1.1"),
        (b"/caf\xe9", "GET /caf%E9 HTTP/1.1"),
        (b"/q?a={x}|^", "GET /q?a={x}|^ HTTP/1.1"),
    ] {
        let head = b" HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n";
        let seen = fixture.ask([b"GET ", target, head].concat()).await;
        assert!(status(&seen) == 200 && seen.contains(expected), "{seen}");
    }
    let invalid = "400 Bad Request: the request line or a header field is invalid\n";
    for (request, text) in [
        ("GET /a b HTTP/1.1\r\nHost: foo.bar\r\n\r\n", invalid),
        ("GET /\x01 HTTP/1.1\r\nHost: foo.bar\r\n\r\n", invalid),
        ("GET / HTTP/1.1\r\nHost: foo.bar\r\nX(y): z\r\n\r\n", invalid),
        ("nonsense\r\n\r\n", invalid),
        ("GET / HTTP/9.9\r\nHost: foo.bar\r\n\r\n", invalid),
        (&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40_000)), "431 Request Header"),
    ] {
        let seen = fixture.ask(request).await;
        assert!(seen.contains(text), "{request:.100?} got {seen:?}");
        assert_eq!(seen.matches("HTTP/1.").count(), 1, "{seen:?}");
        let body = seen.split_once("\r\n\r\n").unwrap().1;
        let length = field(&seen, "content-length").unwrap();
        assert_eq!(body.len().to_string(), length, "{seen:?}");
        // After another request on the same connection, too.
        let first = "GET /first HTTP/1.1\r\nHost: foo.bar\r\n\r\n";
        let mut client = fixture.connect().await;
        client.write_all(first.as_bytes()).await.unwrap();
        let response = head(&mut client).await;
        let length = field(&response, "content-length").unwrap().parse().unwrap();
        client.read_exact(&mut vec![0; length]).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let seen = rest(&mut client).await;
        assert!(seen.contains(text), "{request:.100?} got {seen:?}");
    }
}

#[tokio::test]
async fn empty_refusal_of_an_endpoint_stays_empty() {
    let response = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let fixture = HttpFixture::new(&[responds(response, true).await]);
    let seen = fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
    assert!(status(&seen) == 400 && seen.ends_with("\r\n\r\n"), "{seen:?}");
}

#[tokio::test]
async fn informational_responses_are_passed_on() {
    let early = "HTTP/1.1 100 Continue\r\n\r\n\
                 HTTP/1.1 102 Processing\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b>\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (version, hints) in [
        (
            "1.1",
            "HTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n",
        ),
        // It knows none.
        ("1.0", ""),
    ] {
        // At once with the response, and before it.
        for parts in [vec![[early, last].concat()], vec![early.to_owned(), last.to_owned()]] {
            let (seen, first_seen) = tokio::sync::watch::channel(false);
            let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
                let (parts, mut seen) = (parts.clone(), first_seen.clone());
                async move {
                    loop {
                        head(&mut stream).await;
                        for (n, part) in parts.iter().enumerate() {
                            if n > 0 {
                                let _ = seen.wait_for(|seen| *seen).await;
                            }
                            let _ = stream.write_all(part.as_bytes()).await;
                        }
                    }
                }
            })
            .await]);
            let mut client = fixture.connect().await;
            for _ in 0..2 {
                let request = format!(
                    "GET / HTTP/{version}\r\nHost: foo.bar\r\nConnection: keep-alive\r\n\r\n"
                );
                client.write_all(request.as_bytes()).await.unwrap();
                let mut got = String::new();
                while got.len() < hints.len() {
                    got.push_str(&head(&mut client).await);
                }
                assert_eq!(got, hints);
                seen.send_replace(true);
                let response = head(&mut client).await;
                assert_eq!(status(&response), 200, "{response}");
                client.read_exact(&mut [0; 2]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn clients_that_leave_shift_no_answers_of_others() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await, endpoint(mirror).await]);
    let ask = async |client: usize| {
        let mut stream = fixture.connect().await;
        for n in 0..20 {
            let start = format!("GET /{client}/{n} HTTP/1.1\r\n");
            let request = format!("{start}Host: foo.bar\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            if rand::random() {
                // Anywhere between the request and the end of its answer.
                time::sleep(Duration::from_micros(rand::random_range(0..3000))).await;
                stream = fixture.connect().await;
                continue;
            }
            let head = head(&mut stream).await;
            let length = field(&head, "content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            within(stream.read_exact(&mut body)).await.unwrap();
            let body = String::from_utf8(body).unwrap();
            assert!(body.starts_with(&start), "{start:?} was answered with {body:?}");
        }
    };
    futures::future::join_all((0..32).map(ask)).await;
}
