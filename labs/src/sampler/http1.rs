//! One HTTP/1.1 request on one connection, parsed strictly: a response that a careful client would
//! reject is a failure, never a hit. Message framing follows RFC 9112, section 6.3.

use super::deadline::within;
use super::response::{Failure, Reply, Response, version_of};
use super::target::Target;
use std::borrow::Cow;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Sends a request and returns what a sample counts of the response.
pub(super) async fn request_reply(
    target: &Target,
    request: &[u8],
    timeout: Duration,
) -> Result<Reply, Failure> {
    exchange(target, request, timeout, reply).await
}

/// Sends a request and returns the whole response.
pub(super) async fn request_response(
    target: &Target,
    request: &[u8],
    timeout: Duration,
) -> Result<Response, Failure> {
    exchange(target, request, timeout, |message| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = message.headers.iter().map(owned).collect();
        Ok(Response { status: message.status, headers, body: message.body.to_vec() })
    })
    .await
}

async fn exchange<T>(
    target: &Target,
    request: &[u8],
    timeout: Duration,
    keep: impl FnMut(Message<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let round_trip = async {
        let mut stream = target.dial().await?;
        let mut bytes = Vec::with_capacity(1024);
        match &target.tls {
            None => round_trip(&mut stream, request, &mut bytes, keep).await,
            Some(tls) => round_trip(&mut tls.over(stream).await?, request, &mut bytes, keep).await,
        }
    };
    within(timeout, round_trip).await.unwrap_or(Err(Failure::Timeout))
}

/// Sends a request on an open connection and reads the response into `bytes`, which must be empty.
pub(super) async fn round_trip<T>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    bytes: &mut Vec<u8>,
    mut keep: impl FnMut(Message<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let broken = |error: std::io::Error| Failure::Broken(error.to_string());
    stream.write_all(request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    loop {
        let end = stream.read_buf(bytes).await.map_err(broken)? == 0;
        if let Some(message) = parse(bytes, end)? {
            return keep(message);
        }
    }
}

/// Reduces a response to what a sample counts.
pub(super) fn reply(message: Message<'_>) -> Result<Reply, Failure> {
    if message.status != 200 {
        return Err(Failure::Status(message.status));
    }
    let text = std::str::from_utf8(&message.body).ok();
    let version = text.and_then(version_of).map(str::to_owned);
    Ok(Reply { version, pod: message.header("x-pod").map(str::to_owned) })
}

/// A complete response.
#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    status: u16,
    headers: Vec<(&'a str, &'a str)>,
    body: Cow<'a, [u8]>,
    /// Whether the connection ends with it: by its header, or because nothing else delimits the body.
    pub(super) last: bool,
}

impl<'a> Message<'a> {
    fn header(&self, name: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }
}

/// The limit on the size of a response.
const MAX_BYTES: usize = 1 << 20;

/// Parses a response; `None` if it is not complete yet. `end` means that no more bytes will come.
fn parse(bytes: &[u8], end: bool) -> Result<Option<Message<'_>>, Failure> {
    let more = || {
        if end {
            let got = bytes.len();
            Err(Failure::Broken(format!(
                "closed after {got} bytes, before the response was complete"
            )))
        } else if bytes.len() > MAX_BYTES {
            malformed("longer than a mebibyte")
        } else {
            Ok(None)
        }
    };
    let mut rest = bytes;
    loop {
        let Some((head, body)) = split(rest, b"\r\n\r\n") else { return more() };
        let (status, headers) = parse_head(head)?;
        if (100..200).contains(&status) {
            // Interim responses precede the final one. Switching protocols was not requested.
            if status == 101 {
                return malformed("switches protocols");
            }
            rest = body;
            continue;
        }
        let body = match framing(status, &headers)? {
            Framing::Length(length) if body.len() < length => return more(),
            Framing::Length(length) if body.len() > length => {
                return malformed("body exceeds content-length");
            }
            Framing::Length(_) => Cow::Borrowed(body),
            Framing::Chunked => match dechunk(body)? {
                Some(body) => Cow::Owned(body),
                None => return more(),
            },
            Framing::Close if end => Cow::Borrowed(body),
            Framing::Close => return if bytes.len() > MAX_BYTES { more() } else { Ok(None) },
        };
        let closes = |(key, value): &(&str, &str)| {
            key.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        };
        let last = end || headers.iter().any(closes) || rest.starts_with(b"HTTP/1.0");
        return Ok(Some(Message { status, headers, body, last }));
    }
}

type Headers<'a> = Vec<(&'a str, &'a str)>;

fn parse_head(head: &[u8]) -> Result<(u16, Headers<'_>), Failure> {
    let Ok(head) = std::str::from_utf8(head) else { return malformed("headers not in UTF-8") };
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let Some(status) = parse_status(first) else {
        return malformed(format!("status line {first:?}"));
    };
    let mut headers = Vec::with_capacity(8);
    for line in lines {
        let header = line.split_once(':').filter(|(name, value)| {
            !name.is_empty()
                && name.bytes().all(is_token)
                && !value.bytes().any(|byte| byte < b' ' && byte != b'\t')
        });
        let Some((name, value)) = header else { return malformed(format!("header {line:?}")) };
        headers.push((name, value.trim_matches([' ', '\t'])));
    }
    Ok((status, headers))
}

fn parse_status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, _reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse().ok().filter(|code| digits && *code >= 100)
}

/// The way the end of a body is delimited.
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

fn framing(status: u16, headers: &Headers<'_>) -> Result<Framing, Failure> {
    let all = |name: &'static str| {
        let named = move |(key, _): &&(&str, &str)| key.eq_ignore_ascii_case(name);
        headers.iter().filter(named).map(|(_, value)| *value)
    };
    if matches!(status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    let mut lengths = all("content-length");
    let length = lengths.next();
    let mut codings = all("transfer-encoding");
    match (length, codings.next()) {
        (Some(_), Some(_)) => malformed("both content-length and transfer-encoding"),
        (None, None) => Ok(Framing::Close),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => match codings.next() {
            None => Ok(Framing::Chunked),
            Some(_) => malformed("more than one transfer-encoding"),
        },
        (None, Some(coding)) => malformed(format!("transfer-encoding {coding:?}")),
        (Some(length), None) => {
            let number = length.bytes().all(|byte| byte.is_ascii_digit());
            match length.parse().ok().filter(|_| number && lengths.all(|other| other == length)) {
                Some(length) => Ok(Framing::Length(length)),
                None => malformed(format!("content-length {length:?}")),
            }
        }
    }
}

/// Joins the chunks of a body; `None` if the last has not arrived yet.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    loop {
        let Some((line, after)) = split(rest, b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(line);
        let size = line.split(';').next().unwrap_or_default().trim();
        let hexadecimal = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed =
            usize::from_str_radix(size, 16).ok().filter(|size| hexadecimal && *size <= MAX_BYTES);
        let Some(size) = parsed else { return malformed(format!("chunk of size {size:?}")) };
        if size == 0 {
            return trailers(after).map(|ended| ended.then_some(body));
        }
        let Some((data, after)) = after.split_at_checked(size) else { return Ok(None) };
        let Some((end, after)) = after.split_at_checked(2) else { return Ok(None) };
        if end != b"\r\n" {
            return malformed("a chunk exceeds its size");
        }
        body.extend_from_slice(data);
        rest = after;
    }
}

/// Returns true if the trailers are complete; bytes after them are an error.
fn trailers(mut rest: &[u8]) -> Result<bool, Failure> {
    loop {
        match split(rest, b"\r\n") {
            None => return Ok(false),
            Some(([], [])) => return Ok(true),
            Some(([], _)) => return malformed("more bytes after the last chunk"),
            Some((_, after)) => rest = after,
        }
    }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let position = bytes.windows(at.len()).position(|window| window == at)?;
    let (before, rest) = bytes.split_at_checked(position)?;
    Some((before, rest.get(at.len()..)?))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Malformed(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nX-Pod: a-b\r\n\r\n1.0\n";

    #[test]
    fn response_is_parsed_only_when_complete() {
        for length in 0..GOOD.len() {
            let part = &GOOD.as_bytes()[..length];
            assert_eq!(parse(part, false), Ok(None), "{length} bytes");
            assert!(
                matches!(parse(part, true), Err(Failure::Broken(_))),
                "{length} bytes, then end"
            );
        }
        let message = parse(GOOD.as_bytes(), false).unwrap().unwrap();
        assert_eq!((message.status, &*message.body), (200, &b"1.0\n"[..]));
        assert_eq!(message.header("x-pod"), Some("a-b"));
    }

    #[test]
    fn chunks_are_joined() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
                    2;x=y\r\n1.\r\n00002\r\n0\n\r\n0\r\nTrailer: x\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..length], false), Ok(None), "{length} bytes");
        }
        assert_eq!(&*parse(text.as_bytes(), false).unwrap().unwrap().body, b"1.0\n");
    }

    #[test]
    fn body_without_length_ends_with_the_connection() {
        let text = b"HTTP/1.0 200 \r\n\r\n2.0\n";
        assert_eq!(parse(text, false), Ok(None));
        assert_eq!(&*parse(text, true).unwrap().unwrap().body, b"2.0\n");
    }

    #[test]
    fn interim_responses_are_skipped() {
        let text = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{GOOD}");
        assert_eq!(parse(text.as_bytes(), false).unwrap().unwrap().status, 200);
    }

    #[test]
    fn malformed_http_is_rejected() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffff\r\n",
        ] {
            let result = parse(text.as_bytes(), false);
            assert!(matches!(result, Err(Failure::Malformed(_))), "{text:?}: {result:?}");
        }
    }

    #[test]
    fn status_204_has_no_body() {
        let text = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(text, false).unwrap().unwrap().status, 204);
    }
}
