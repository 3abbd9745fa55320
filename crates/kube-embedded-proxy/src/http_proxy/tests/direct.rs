//! Connections to endpoints that the proxy uses itself until hyper is needed.

use super::*;

/// Starts an endpoint that calls `respond` with the head of each request, and writes what that returns in parts of
/// `part` bytes. Also returns what reports each connection.
async fn endpoint_in_parts(
    part: usize,
    respond: impl Fn(&str) -> String + Clone + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let (report, reports) = mpsc::unbounded_channel();
    let at = endpoint(move |mut stream| {
        let (report, respond) = (report.clone(), respond.clone());
        async move {
            let _ = report.send(());
            let mut request = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                request.push(byte);
                if !request.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let head = String::from_utf8(std::mem::take(&mut request)).unwrap();
                let length = field(&head, "content-length").map_or(0, |l| l.parse().unwrap());
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                for part in respond(&head).as_bytes().chunks(part) {
                    let _ = stream.write_all(part).await;
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await;
    (at, reports)
}

#[tokio::test]
async fn one_connection_serves_usual_and_other_exchanges() {
    let respond = |head: &str| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        match head.split(' ').nth(1).unwrap() {
            "/chunked" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into()
            }
            "/hint" => format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            "/none" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
            "/many" => {
                let many: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
                format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok")
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        }
    };
    for other in ["GET /chunked", "GET /hint", "GET /none", "GET /many", "POST /body", "GET /usual"]
    {
        for part in [1, 30, usize::MAX] {
            let (at, mut connections) = endpoint_in_parts(part, respond).await;
            let fixture = HttpFixture::new(&[at]);
            let mut client = fixture.connect().await;
            for target in ["GET /usual", other, "GET /usual", other] {
                let (length, body) =
                    if target.starts_with("POST") { (5, "hello") } else { (0, "") };
                let request = format!(
                    "{target} HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                client.write_all(request.as_bytes()).await.unwrap();
                let mut got = head(&mut client).await;
                if target.ends_with("/hint") {
                    assert_eq!(got, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
                    got = head(&mut client).await;
                }
                let expected = match target {
                    "GET /chunked" => "2\r\nok\r\n0\r\n\r\n",
                    "GET /none" => "",
                    _ => "ok",
                };
                let mut body = vec![0; expected.len()];
                within(client.read_exact(&mut body)).await.unwrap();
                assert_eq!(String::from_utf8(body).unwrap(), expected, "{target}: {got}");
                assert!([200, 204].contains(&status(&got)), "{target}: {got}");
            }
            within(connections.recv()).await.unwrap();
            assert!(connections.try_recv().is_err(), "{other} in parts of {part}: not reused");
        }
    }
}

#[tokio::test]
async fn connection_with_bytes_after_a_response_is_not_used_again() {
    let hidden = "HTTP/1.1 299 Hidden\r\nContent-Length: 0\r\n\r\n";
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let response = format!("{first}{hidden}");
        let (at, mut connections) = endpoint_in_parts(usize::MAX, move |_| response.clone()).await;
        let fixture = HttpFixture::new(&[at]);
        for _ in 0..3 {
            assert_eq!(fixture.get().await, status(first));
            within(connections.recv()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn response_that_asks_to_close_ends_its_connection() {
    let close =
        |_: &str| "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into();
    let (at, mut connections) = endpoint_in_parts(usize::MAX, close).await;
    let fixture = HttpFixture::new(&[at]);
    for _ in 0..3 {
        assert_eq!(fixture.get().await, 200);
        within(connections.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn large_body_passes_and_its_connection_is_used_again() {
    let body = "0123456789abcdef".repeat(1 << 16);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (at, mut connections) = endpoint_in_parts(100_000, move |_| response.clone()).await;
    let fixture = HttpFixture::new(&[at]);
    for _ in 0..3 {
        let seen =
            fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
        assert!(seen.split_once("\r\n\r\n").unwrap().1 == body, "{} bytes", seen.len());
    }
    within(connections.recv()).await.unwrap();
    assert!(connections.try_recv().is_err(), "the connection is used again");
}
