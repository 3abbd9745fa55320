//! Entry points of the fuzz targets in `fuzz/`: heads as clients and endpoints send them.

use super::{
    forwarded_headers::ForwardedHeaders,
    head,
    limits::{BODY_BUFFER, HEAD_BYTES, HEAD_FIELDS},
    target_encoder::TargetEncoder,
};
use http::{HeaderMap, HeaderValue, Request, header};
use hyper::{
    body::{Body, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Builder,
};

/// The bytes of a client connection: an endpoint gets one framing, and no field that a client may not set.
pub fn request_heads(bytes: &[u8]) {
    let bytes = TargetEncoder::default().encode(bytes).unwrap_or_else(|| bytes.to_vec());
    block_on(async move {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let service = service_fn(|request: Request<Incoming>| async {
            let has_body = !request.body().is_end_stream();
            if let Ok(target) = head::target(&request) {
                assert!(target.path().starts_with('/'));
                let upgrade = head::requested_upgrade(&request);
                let (mut parts, _) = request.into_parts();
                let peer = SocketAddr::from(([127, 0, 0, 1], 1));
                let forwarded = ForwardedHeaders::new(peer, false, HeaderValue::from(80));
                let rewritten = head::for_endpoint(
                    &mut parts,
                    target,
                    Some(&forwarded),
                    upgrade.as_ref(),
                    has_body,
                );
                if rewritten.is_ok() {
                    check(&parts.headers);
                    assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1);
                    assert_eq!(parts.headers["x-forwarded-for"], "127.0.0.1");
                }
            }
            Ok::<_, Infallible>(http::Response::new(String::new()))
        });
        let mut builder = server::conn::http1::Builder::new();
        builder.max_buf_size(BODY_BUFFER).max_header_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
        let serve = builder.serve_connection(TokioIo::new(near), service);
        let talk = async {
            let _ = far.write_all(&bytes).await;
            let _ = far.shutdown().await;
            let _ = far.read_to_end(&mut Vec::new()).await;
        };
        let (_, ()) = tokio::join!(serve, talk);
    });
}

/// The bytes of an endpoint: a client gets one framing.
pub fn response_heads(bytes: &[u8]) {
    response(bytes);
}

/// Returns true if the bytes are a response.
fn response(bytes: &[u8]) -> bool {
    let bytes = bytes.to_vec();
    block_on(async move {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut builder = client::conn::http1::Builder::new();
        builder.allow_spaces_after_header_name_in_responses(true);
        builder.max_buf_size(BODY_BUFFER).max_header_size(BODY_BUFFER).max_headers(HEAD_FIELDS);
        let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(near)).await else {
            return false;
        };
        let ask = async move {
            let response = sender.send_request(Request::new(String::new())).await;
            let Ok(response) = response else { return false };
            if head::check_response(response.headers()).is_ok() {
                let (mut parts, _) = response.into_parts();
                head::for_client(&mut parts, false);
                check(&parts.headers);
            }
            true
        };
        let respond = async {
            // A response before the request is an error of its own.
            let _ = far.read(&mut [0; 1024]).await;
            let _ = far.write_all(&bytes).await;
            let _ = far.shutdown().await;
            let _ = far.read_to_end(&mut Vec::new()).await;
        };
        let (_, parsed, ()) = tokio::join!(connection, ask, respond);
        parsed
    })
}

/// Nothing for one connection only, and at most one length.
fn check(headers: &HeaderMap) {
    for name in ["keep-alive", "proxy-connection", "proxy-authorization"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let codings = headers.get_all(header::TRANSFER_ENCODING).iter().count();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    assert!(codings + lengths <= 1, "{headers:?}");
}

fn block_on<T: Default>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_or_else(|_| T::default(), |runtime| runtime.block_on(work))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_corpus_passes() {
        let targets: &[(&str, fn(&[u8]))] =
            &[("request_heads", super::request_heads), ("response_heads", super::response_heads)];
        for (name, target) in targets {
            test_support::corpus_passes(name, target);
        }
    }

    #[test]
    fn response_reaches_the_parser() {
        for (bytes, expected) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"[..], true),
            (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nhi", false),
            (b"SSH-2.0\r\n\r\n", false),
            (b"", false),
        ] {
            assert_eq!(super::response(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
