//! Bodies and upgraded connections.

use super::*;

#[tokio::test]
async fn large_bodies_are_complete_in_both_directions() {
    const LEN: usize = 24 << 20;
    for tls in [false, true] {
        let fixture = HttpFixture::with(
            &[endpoint(|mut stream| async move {
                head(&mut stream).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
                check_pattern(&mut stream, LEN, false).await;
                stream.write_all(head.as_bytes()).await.unwrap();
                send_pattern(&mut stream, LEN).await;
            })
            .await],
            tls,
        );
        let request = format!("POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: {LEN}\r\n\r\n");
        let mut client: Box<dyn ClientStream> = match tls {
            true => Box::new(fixture.connect_tls("http/1.1").await),
            false => Box::new(fixture.connect().await),
        };
        client.write_all(request.as_bytes()).await.unwrap();
        send_pattern(&mut client, LEN).await;
        client.flush().await.unwrap();
        assert_eq!(status(&head(&mut client).await), 200);
        check_pattern(&mut client, LEN, false).await;
    }
}

#[tokio::test]
async fn backpressure_propagates_end_to_end() {
    // An endpoint that reads a head and nothing more.
    let (report, mut reports) = mpsc::unbounded_channel();
    let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            head(&mut stream).await;
            let _ = report.send(stream);
        }
    })
    .await]);
    let mut client = fixture.connect().await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[1; 65_536], b"\r\n"].concat();
    stops(&mut client, &chunk).await;
    // And a client that does not read what the endpoint sends.
    let mut stuck = within(reports.recv()).await.unwrap();
    stuck.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    stops(&mut stuck, &chunk).await;
}

/// Writes chunks until they are no longer taken: the kernel's buffers and the proxy's are full.
async fn stops(stream: &mut TcpStream, chunk: &[u8]) {
    let mut sent = 0;
    while time::timeout(Duration::from_millis(500), stream.write_all(chunk)).await.is_ok() {
        sent += chunk.len();
        assert!(sent < 64 << 20, "the sender is never stopped");
    }
}

#[tokio::test]
async fn disconnected_client_ends_its_request() {
    let requests = [
        "GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 10\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    let responses = ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"];
    for request in requests {
        for response in responses {
            let (report, mut reports) = mpsc::unbounded_channel();
            let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
                let report = report.clone();
                async move {
                    let seen = head(&mut stream).await;
                    stream.write_all(response.as_bytes()).await.unwrap();
                    let _ = report.send(seen);
                    let _ = report.send(rest(&mut stream).await);
                }
            })
            .await]);
            let mut client = fixture.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            within(reports.recv()).await.unwrap();
            drop(client);
            let seen = within(reports.recv()).await.unwrap();
            assert!(!seen.contains("0\r\n\r\n"), "half a body ended as a whole one: {seen:?}");
        }
    }
}

#[tokio::test]
async fn truncated_response_never_looks_complete() {
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz",
    ];
    for response in responses {
        let fixture = HttpFixture::new(&[responds(response, true).await]);
        let seen = fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await;
        assert!(status(&seen) == 200 || seen.is_empty(), "{seen}");
        assert!(!seen.ends_with("0\r\n\r\n"), "{seen}");
        // Here only the end of the connection ends the response.
        let mut client = fixture.connect().await;
        client.write_all(b"GET / HTTP/1.0\r\nHost: foo.bar\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        let ended = within(client.read_to_end(&mut seen)).await;
        let whole = String::from_utf8(seen).unwrap();
        let sized = field(&whole, "content-length").is_some();
        assert!(ended.is_err() || sized, "{response:?} ended well after {whole:?}");
    }
}

#[tokio::test]
async fn response_is_framed_for_the_version_of_the_client() {
    let until_closed = responds("HTTP/1.0 200 OK\r\n\r\nall of it", true).await;
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n0\r\n\r\n";
    let chunked = responds(chunked, true).await;
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                9\r\nall of it\r\n0\r\n\r\n";
    let both = responds(both, true).await;
    for from in [until_closed, chunked, both] {
        let fixture = HttpFixture::new(&[from]);
        let response =
            fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await;
        assert!(
            response.ends_with("\r\n0\r\n\r\n") && response.contains("all of it"),
            "{response}"
        );
        let response = fixture.ask("GET / HTTP/1.0\r\nHost: foo.bar\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.0 200 ") && response.ends_with("\r\n\r\nall of it"));
    }
}

#[tokio::test]
async fn early_response_is_delivered_although_the_request_is_unread() {
    let fixture = HttpFixture::new(&[endpoint(|mut stream| async move {
        head(&mut stream).await;
        let response = b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\ntoo";
        stream.write_all(response).await.unwrap();
        rest(&mut stream).await;
    })
    .await]);
    let mut client = fixture.connect().await;
    let request = "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 1000000\r\n\r\nstart";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 413);
}

/// Talks over an upgraded connection; both sides send their first bytes along with their heads.
async fn talk(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    client
        .write_all(
            b"GET /chat HTTP/1.1\r\nHost: foo.bar\r\nConnection: keep-alive, Upgrade\r\n\
              Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nclient first",
        )
        .await
        .unwrap();
    client.flush().await.unwrap();
    let response = head(client).await;
    assert_eq!(status(&response), 101, "{response}");
    assert_eq!(field(&response, "connection"), Some("upgrade"));
    assert_eq!(field(&response, "upgrade"), Some("websocket"));
    assert_eq!(field(&response, "sec-websocket-accept"), Some("y"));
    let mut first = [0; 14];
    within(client.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"endpoint first");
    for n in 0..100 {
        let sent = format!("message {n:04}");
        client.write_all(sent.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        let mut echoed = [0; 12];
        within(client.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(echoed, sent.as_bytes());
    }
    client.shutdown().await.unwrap();
    assert_eq!(rest(client).await, "bye");
}

async fn chat(mut stream: TcpStream) {
    let seen = head(&mut stream).await;
    assert_eq!(field(&seen, "connection"), Some("upgrade"));
    assert_eq!(field(&seen, "upgrade"), Some("websocket"));
    let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: y\r\n\r\nendpoint first";
    stream.write_all(response.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"client first");
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.write_all(b"bye").await.unwrap();
}

#[tokio::test]
async fn upgraded_connection_copies_bytes_both_ways() {
    let fixture = HttpFixture::new(&[endpoint(chat).await]);
    let mut client = fixture.connect().await;
    talk(&mut client).await;
    let fixture = HttpFixture::with(&[endpoint(chat).await], true);
    let mut client = fixture.connect_tls("http/1.1").await;
    talk(&mut client).await;
}

#[tokio::test]
async fn burst_over_tls_is_complete_although_nothing_follows() {
    const LEN: usize = 12 << 20;
    for closes in [false, true] {
        let (report, _open) = mpsc::unbounded_channel();
        let sends = endpoint(move |mut stream| {
            let report = report.clone();
            async move {
                head(&mut stream).await;
                let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                              Upgrade: websocket\r\n\r\n";
                stream.write_all(response.as_bytes()).await.unwrap();
                if closes {
                    let _ = stream.read_u8().await;
                }
                send_pattern(&mut stream, LEN).await;
                if !closes {
                    let _ = report.send(stream);
                }
            }
        });
        let fixture = HttpFixture::with(&[sends.await], true);
        let mut client = fixture.connect_tls("http/1.1").await;
        let request = b"GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: upgrade\r\n\
                        Upgrade: websocket\r\n\r\n";
        client.write_all(request).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(status(&head(&mut client).await), 101);
        if closes {
            client.shutdown().await.unwrap();
        }
        // Slower than the endpoint, so that the socket is full all the time.
        check_pattern(&mut client, LEN, false).await;
        if closes {
            let mut more = [0; 1];
            assert_eq!(within(client.read(&mut more)).await.unwrap(), 0, "it did not end well");
        }
    }
}

#[tokio::test]
async fn refused_or_unrequested_upgrade_is_an_ordinary_response() {
    let fixture = HttpFixture::new(&[endpoint(mirror).await]);
    let ask = "GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: Upgrade, close\r\nUpgrade: x\r\n\r\n";
    let response = fixture.ask(ask).await;
    assert_eq!(status(&response), 200, "{response}");
    let switches = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let fixture = HttpFixture::new(&[responds(switches, false).await]);
    assert_eq!(fixture.get().await, 502);
}

#[tokio::test]
async fn upgraded_connection_outlives_its_listener() {
    let mut fixture = HttpFixture::new(&[endpoint(chat).await]);
    let mut client = fixture.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nclient first";
    client.write_all(request).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 101);
    fixture.listener.take().unwrap().close().await;
    client.write_all(b"still").await.unwrap();
    let mut echoed = [0; "endpoint firststill".len()];
    within(client.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"endpoint firststill");
    drop(fixture);
    assert_eq!(rest(&mut client).await, "");
}
