//! Heads with more fields than hyper's own limit, which a connection with a larger one reads.

use super::*;

fn many() -> String {
    (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect()
}

/// Writes in parts, which mostly arrive as such.
async fn write_parts(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], part: usize) {
    for part in bytes.chunks(part) {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_fields_are_taken_amid_other_requests() {
    let many = many();
    let requests = [
        "GET /1 HTTP/1.1\r\nHost: foo.bar\r\n\r\n".to_owned(),
        format!("GET /2< HTTP/1.1\r\nHost: foo.bar\r\n{many}\r\n"),
        format!("POST /3 HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 5\r\n{many}\r\nhello"),
        "POST /4 HTTP/1.1\r\nHost: foo.bar\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n"
            .to_owned(),
        format!("GET /5 HTTP/1.1\r\nHost: foo.bar\r\n{many}Connection: close\r\n\r\n"),
    ];
    for from in 0..requests.len() {
        let sent = requests[from..].concat();
        for part in [sent.len(), 3000, 70] {
            let fixture = HttpFixture::new(&[endpoint(mirror).await]);
            let mut client = fixture.connect().await;
            let (mut read, mut write) = client.split();
            let ((), seen) =
                tokio::join!(write_parts(&mut write, sent.as_bytes(), part), rest(&mut read));
            let paths = ["/1", "/2%3C", "/3", "/4", "/5"].map(|path| format!("{path} HTTP/1.1"));
            let at = paths[from..].iter().map(|path| seen.find(path).unwrap_or(usize::MAX));
            assert!(at.clone().is_sorted() && at.max() < Some(usize::MAX), "{seen:.300}");
            assert_eq!(seen.matches("HTTP/1.1 200 OK").count(), 5 - from, "{seen:.300}");
            let expected = requests[from..].iter().filter(|request| request.contains("X-999"));
            assert_eq!(seen.matches("x-999: 1").count(), expected.count(), "{seen:.300}");
        }
    }
}

#[tokio::test]
async fn response_with_many_fields_keeps_its_hints_body_and_connection() {
    for method in ["GET", "HEAD"] {
        let body = if method == "GET" { "ok" } else { "" };
        let (report, mut reports) = mpsc::unbounded_channel();
        let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
            let report = report.clone();
            async move {
                let _ = report.send(());
                for part in [usize::MAX, 3000, 70] {
                    head(&mut stream).await;
                    let response = format!(
                        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\n{body}",
                        many()
                    );
                    write_parts(&mut stream, response.as_bytes(), part).await;
                }
                rest(&mut stream).await;
            }
        })
        .await]);
        let mut client = fixture.connect().await;
        for _ in 0..3 {
            let request = format!("{method} / HTTP/1.1\r\nHost: foo.bar\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(status(&head(&mut client).await), 103);
            let seen = head(&mut client).await;
            assert!(status(&seen) == 200 && seen.contains("x-999: 1\r\n"), "{seen:.200}");
            let mut read = vec![0; body.len()];
            within(client.read_exact(&mut read)).await.unwrap();
            assert_eq!(read, body.as_bytes());
        }
        within(reports.recv()).await.unwrap();
        assert!(reports.try_recv().is_err(), "the connection is used again");
    }
}
