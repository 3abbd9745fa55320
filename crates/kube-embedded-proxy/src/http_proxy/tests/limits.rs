//! Timeouts of clients and endpoints.

use super::*;
use hyper::client::conn::http2;

#[tokio::test]
async fn client_that_does_not_finish_its_head_is_closed() {
    let fixture = HttpFixture::impatient(&[endpoint(mirror).await], false);
    let mut client = fixture.connect().await;
    let (mut read, mut write) = client.split();
    write.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\nX: ").await.unwrap();
    let dribble = async {
        while write.write_all(b"x").await.is_ok() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        seen = rest(&mut read) => assert_eq!(seen, ""),
        () = dribble => {}
    }
}

#[tokio::test]
async fn stalled_request_gets_408_and_silent_endpoint_504() {
    let hangs = endpoint(|mut stream| async move {
        rest(&mut stream).await;
    });
    let fixture = HttpFixture::impatient(&[hangs.await], false);
    let post = "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 10\r\n\r\nhalf";
    let mut client = fixture.connect().await;
    client.write_all(post.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 408);
    assert_eq!(fixture.get().await, 504);
}

#[tokio::test]
async fn stalled_response_is_cut_off() {
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhalf",
    ];
    for response in responses {
        let fixture = HttpFixture::impatient(&[responds(response, false).await], false);
        let seen = fixture.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await;
        assert!(seen.contains("half") && !seen.ends_with("0\r\n\r\n"), "{seen}");
        let mut client = fixture.connect().await;
        client.write_all(b"GET / HTTP/1.0\r\nHost: foo.bar\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        let ended = within(client.read_to_end(&mut seen)).await;
        let sized = field(&String::from_utf8(seen).unwrap(), "content-length").is_some();
        assert!(ended.is_err() || sized, "{response:?} ended well");
    }
}

#[tokio::test]
async fn response_may_stall_while_the_request_moves() {
    let fixture = HttpFixture::impatient(
        &[endpoint(|mut stream| async move {
            head(&mut stream).await;
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
            stream.write_all(response).await.unwrap();
            let mut body = [0; 60];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"done").await.unwrap();
        })
        .await],
        false,
    );
    let mut client = fixture.connect().await;
    let post = "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 60\r\n\r\n";
    client.write_all(post.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 200);
    for _ in 0..60 {
        client.write_all(b"x").await.unwrap();
        time::sleep(Duration::from_millis(20)).await;
    }
    let mut done = [0; 4];
    within(client.read_exact(&mut done)).await.unwrap();
    assert_eq!(&done, b"done");
}

#[tokio::test]
async fn http2_client_that_reads_nothing_is_cut_off() {
    let response = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".as_slice(), &[b'x'; 1000]];
    let fixture = HttpFixture::impatient(&[responds(response.concat(), false).await], true);
    let stream = fixture.connect_tls("h2").await;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(0);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://foo.bar/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let _ = within(connection).await.unwrap();
}

#[tokio::test]
async fn client_refused_while_sending_gets_the_response() {
    for (host, tls, code) in
        [("foo.bar", false, 503), ("foo.bar", true, 503), ("other", false, 404)]
    {
        let fixture = HttpFixture::with(&[], tls);
        let mut stream: Box<dyn ClientStream> = match tls {
            true => Box::new(fixture.connect_tls("http/1.1").await),
            false => Box::new(fixture.connect().await),
        };
        let len = 3 << 20;
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        within(stream.write_all(&vec![0; len])).await.unwrap();
        within(stream.flush()).await.unwrap();
        let response = super::head(&mut stream).await;
        assert_eq!(status(&response), code, "{response}");
    }
}
