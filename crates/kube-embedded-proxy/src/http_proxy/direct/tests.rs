use super::*;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::io::AsyncWriteExt;

fn read(bytes: &[u8], method: &Method) -> Result<Option<(UsualHead, usize)>, Unusual> {
    read_head(bytes, method, &mut HeaderMap::new())
}

#[test]
fn responses_with_a_length_or_without_a_body_are_usual() {
    for (head, method, length, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Method::GET, 12, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Method::HEAD, 0, true),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::HEAD, 0, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, 0, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", Method::GET, 0, true),
        (
            "HTTP/1.1 200 \r\nContent-Length: 0\r\nConnection: a, CLOSE\r\n\r\n",
            Method::GET,
            0,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n",
            Method::GET,
            1,
            false,
        ),
    ] {
        let (parsed, end) = read(head.as_bytes(), &method).unwrap().unwrap();
        assert_eq!((parsed.length, parsed.keep_alive, end), (length, keep_alive, head.len()));
        for cut in 0..head.len() {
            assert!(read(&head.as_bytes()[..cut], &method).unwrap().is_none(), "{head:?} {cut}");
        }
    }
}

#[test]
fn other_responses_are_left_to_hyper() {
    for head in [
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding : chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\n",
        "nonsense\r\n\r\n",
        &format!("HTTP/1.1 204 No Content\r\n{}\r\n", "X: 1\r\n".repeat(USUAL_FIELDS + 1)),
        &format!("HTTP/1.1 204 No Content\r\nX: {}\r\n\r\n", "x".repeat(BODY_BUFFER)),
    ] {
        assert!(read(head.as_bytes(), &Method::GET).is_err(), "{head:.200?}");
    }
}

#[tokio::test(start_paused = true)]
async fn timer_ends_each_wait_though_it_is_rarely_set() {
    let mut wait = WaitTimer::default();
    let start = Instant::now();
    let second = Duration::from_secs(1);
    // Each begins before the one before it is over, and ends later; the last one is shorter.
    for (begin, limit) in [(0, 10), (4, 10), (9, 10), (20, 10), (21, 2)] {
        time::sleep_until(start + begin * second).await;
        wait.until = Some(Instant::now() + limit * second);
        let is_over = future::poll_fn(|cx| Poll::Ready(wait.poll(cx))).await;
        assert!(is_over.is_pending(), "{begin}");
    }
    future::poll_fn(|cx| wait.poll(cx)).await;
    assert_eq!(start.elapsed().as_secs(), 23);
}

/// Reads a response with hyper, as the proxy configures it. Returns the head and the bytes of its body.
async fn read_by_hyper(bytes: Vec<u8>, method: Method) -> Option<(Response<()>, usize)> {
    let (client, mut endpoint) = tokio::io::duplex(1 << 20);
    let mut builder = http1::Builder::new();
    builder.allow_spaces_after_header_name_in_responses(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(client)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).body(Empty::<Bytes>::new()).ok()?;
    let answer = sender.send_request(request);
    let write = async {
        // After the request: bytes before it would be an error.
        let _ = endpoint.read(&mut [0; 64]).await;
        let _ = endpoint.write_all(&bytes).await;
        drop(endpoint);
    };
    let (response, ()) = tokio::join!(answer, write);
    let (parts, body) = response.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    connection.abort();
    Some((Response::from_parts(parts, ()), body.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// What is read without hyper means what hyper makes of it.
    #[test]
    fn usual_head_is_read_as_by_hyper(
        status in select(vec!["200 OK", "200", "200 ", "404 What", "204 No Content", "304 x", "600 x"]),
        fields in vec(
            select(vec![
                "Content-Length: 3", "content-length:3 ", "CONTENT-LENGTH : 3", "Content-Length: 0",
                "Content-Length: 03", "Connection: close", "Connection: keep-alive", "X: a", "X:",
                "X : \tb\t", "Y: \u{e9}", "Set-Cookie: a=b", "Set-Cookie: c=d", "Content-Length: x",
                "Transfer-Encoding: chunked", "X: a\0", "Z\u{e9}: a", " folded",
            ]),
            0..5,
        ),
        end in select(vec!["\r\n", "\n"]),
        head in any::<bool>(),
    ) {
        let method = if head { Method::HEAD } else { Method::GET };
        let mut bytes = format!("HTTP/1.1 {status}{end}");
        for field in &fields {
            bytes.push_str(field);
            bytes.push_str(end);
        }
        bytes.push_str(end);
        bytes.push_str("abc");
        if let Ok(Some((usual, at))) = read(bytes.as_bytes(), &method) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let by_hyper = runtime.block_on(read_by_hyper(bytes.clone().into_bytes(), method));
            let (response, body) = by_hyper.expect("hyper reads it, too");
            prop_assert_eq!(at, bytes.len() - 3);
            prop_assert_eq!(usual.response.status(), response.status());
            prop_assert_eq!(usual.response.headers(), response.headers());
            let reason = |response: &Response<()>| response.extensions().get::<ReasonPhrase>().cloned();
            prop_assert_eq!(reason(&usual.response), reason(&response));
            prop_assert_eq!(usual.length, body as u64);
        }
    }
}
