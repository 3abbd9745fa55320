//! HTTP/2 clients, over TLS.

use super::*;
use hyper::client::conn::http2::{self, SendRequest};

async fn client<B>(fixture: &HttpFixture) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = fixture.connect_tls("h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn text(response: Response<Incoming>) -> String {
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn http2_request_is_forwarded_as_http1() {
    let fixture = HttpFixture::with(&[endpoint(mirror).await], true);
    let mut client = client(&fixture).await;
    let request = Request::post("https://foo.bar/a?b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Full::new(Bytes::from("body")))
        .unwrap();
    let response = within(client.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = text(response).await;
    assert!(seen.starts_with("POST /a?b HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nbody"), "{seen}");
    let port = fixture.address.port().to_string();
    for (name, value) in [
        ("host", "foo.bar"),
        ("cookie", "a=1; b=2"),
        ("content-length", "4"),
        ("te", "trailers"),
        ("connection", "te"),
        ("x-forwarded-host", "foo.bar"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", &port),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{name} in {seen}");
    }
}

#[tokio::test]
async fn concurrent_requests_share_one_connection() {
    let fixture = HttpFixture::with(&[endpoint(mirror).await, endpoint(mirror).await], true);
    let client = client::<Empty<Bytes>>(&fixture).await;
    let asked = (0..300).map(|n| {
        let mut client = client.clone();
        async move {
            let request = Request::get(format!("https://foo.bar/{n}")).body(Empty::new()).unwrap();
            client.ready().await.unwrap();
            let response = client.send_request(request).await.unwrap();
            assert!(text(response).await.starts_with(&format!("GET /{n} ")));
        }
    });
    within(futures::future::join_all(asked)).await;
}

#[tokio::test]
async fn invalid_http2_request_is_refused() {
    let fixture = HttpFixture::with(&[endpoint(mirror).await], true);
    let mut client = client(&fixture).await;
    let cases = [
        (Request::get("https://foo.bar/").header("host", "other"), 400),
        (Request::get("https://other/"), 404),
        (Request::connect("foo.bar:443"), 405),
        (Request::get(format!("https://foo.bar/{}", "a".repeat(9000))), 414),
    ];
    for (request, code) in cases {
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = within(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), code);
    }
    // A head beyond the limit is refused by h2 as well, and costs one request, not the connection.
    let large = Request::get("https://foo.bar/").header("x", "y".repeat(40_000));
    let response = within(client.send_request(large.body(Empty::new()).unwrap())).await;
    assert!(response.is_err() || response.is_ok_and(|response| response.status() == 431));
    let request = Request::get("https://foo.bar/").body(Empty::new()).unwrap();
    assert_eq!(within(client.send_request(request)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn truncated_response_resets_only_its_stream() {
    let fixture = HttpFixture::with(
        &[responds("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", true).await],
        true,
    );
    let mut client = client(&fixture).await;
    let request = || Request::get("https://foo.bar/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(client.send_request(request())).await.unwrap();
    assert!(within(response.into_body().collect()).await.is_err());
    fixture.route.set(routing(&[endpoint(mirror).await]));
    let response = within(client.send_request(request())).await.unwrap();
    assert!(text(response).await.starts_with("GET / "));
}

#[tokio::test]
async fn stream_reset_by_the_client_ends_its_request() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let fixture = HttpFixture::with(
        &[endpoint(move |mut stream| {
            let report = report.clone();
            async move {
                head(&mut stream).await;
                let _ = report.send("arrived");
                rest(&mut stream).await;
                let _ = report.send("ended");
            }
        })
        .await],
        true,
    );
    let mut client = client(&fixture).await;
    let request = Request::get("https://foo.bar/").body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(client.send_request(request));
    assert_eq!(within(reports.recv()).await, Some("arrived"));
    asked.abort();
    assert_eq!(within(reports.recv()).await, Some("ended"));
}

#[tokio::test]
async fn closed_listener_completes_streams() {
    let (go, released) = tokio::sync::watch::channel(false);
    let (report, mut arrived) = mpsc::unbounded_channel();
    let mut fixture = HttpFixture::with(
        &[endpoint(move |stream| {
            let (released, report) = (released.clone(), report.clone());
            async move {
                let service = service_fn(move |_: Request<Incoming>| {
                    let _ = report.send(());
                    let mut released = released.clone();
                    async move {
                        let _ = released.wait_for(|go| *go).await;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await],
        true,
    );
    let mut client = client(&fixture).await;
    let request = Request::get("https://foo.bar/").body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(client.send_request(request));
    within(arrived.recv()).await.unwrap();
    fixture.listener.take().unwrap().close().await;
    go.send(true).unwrap();
    assert_eq!(text(within(asked).await.unwrap().unwrap()).await, "ok");
}
