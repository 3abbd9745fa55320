//! Nobody is waited for without end.

use super::*;
use hyper::client::conn::http2;

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_closed() {
    let world = World::impatient(&[endpoint(mirror).await], false);
    let mut client = world.connect().await;
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
async fn a_body_that_stops_and_an_endpoint_that_is_silent_are_told() {
    let hangs = endpoint(|mut stream| async move {
        rest(&mut stream).await;
    });
    let world = World::impatient(&[hangs.await], false);
    let post = "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 10\r\n\r\nhalf";
    let mut client = world.connect().await;
    client.write_all(post.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 408);
    assert_eq!(world.get().await, 504);
}

#[tokio::test]
async fn an_answer_that_stops_is_broken_off() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhalf",
    ];
    for answer in answers {
        let world = World::impatient(&[says(answer, false).await], false);
        let seen = world.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await;
        assert!(seen.contains("half") && !seen.ends_with("0\r\n\r\n"), "{seen}");
        let mut client = world.connect().await;
        client.write_all(b"GET / HTTP/1.0\r\nHost: foo.bar\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        let ended = within(client.read_to_end(&mut seen)).await;
        let sized = field(&String::from_utf8(seen).unwrap(), "content-length").is_some();
        assert!(ended.is_err() || sized, "{answer:?} ended well");
    }
}

#[tokio::test]
async fn an_answer_may_be_silent_while_the_request_goes_on() {
    let world = World::impatient(
        &[endpoint(|mut stream| async move {
            head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            let mut body = [0; 60];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"done").await.unwrap();
        })
        .await],
        false,
    );
    let mut client = world.connect().await;
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
async fn a_client_of_http2_that_takes_nothing_is_given_up() {
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".as_slice(), &[b'x'; 1000]];
    let world = World::impatient(&[says(answer.concat(), false).await], true);
    let stream = world.connect_tls("h2").await;
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
async fn whoever_is_refused_while_sending_gets_to_know() {
    for (host, tls, code) in
        [("foo.bar", false, 503), ("foo.bar", true, 503), ("other", false, 404)]
    {
        let world = World::with(&[], tls);
        let mut stream: Box<dyn Both> = match tls {
            true => Box::new(world.connect_tls("http/1.1").await),
            false => Box::new(world.connect().await),
        };
        let len = 3 << 20;
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        within(stream.write_all(&vec![0; len])).await.unwrap();
        within(stream.flush()).await.unwrap();
        let answer = super::head(&mut stream).await;
        assert_eq!(status(&answer), code, "{answer}");
    }
}
