//! One HTTP/1.1 request on one connection, read strictly: an answer that a careful client would
//! refuse is a failure, never a hit. Message framing is that of RFC 9112, section 6.3.

use super::target::Target;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A good answer: status 200, completely received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The body without its final newline, if it reads like a version: `1.0`.
    pub version: Option<String>,
    /// The pod that answered, if it said so in the header `x-pod`.
    pub pod: Option<String>,
}

/// An answer of any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names as they were sent, and values.
    pub headers: Vec<(String, String)>,
    /// The body, with chunks put together.
    pub body: Vec<u8>,
}

/// Why a request had no good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "failure", content = "detail", rename_all = "kebab-case")]
pub enum Failure {
    /// No connection: refused, unreachable.
    Connect(String),
    /// The connection broke before the answer was complete.
    Broken(String),
    /// No complete answer in time.
    Timeout,
    /// Another status than 200.
    Status(u16),
    /// Not HTTP as it should be.
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Malformed(why) => write!(f, "not good HTTP: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl Response {
    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Asks and keeps what a sample counts.
pub(super) async fn ask(
    target: &Target,
    request: &[u8],
    deadline: Duration,
) -> Result<Reply, Failure> {
    exchange(target, request, deadline, reply).await
}

/// Asks and keeps everything.
pub(super) async fn fetch(
    target: &Target,
    request: &[u8],
    deadline: Duration,
) -> Result<Response, Failure> {
    exchange(target, request, deadline, |message| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = message.headers.iter().map(owned).collect();
        Ok(Response { status: message.status, headers, body: message.body.to_vec() })
    })
    .await
}

async fn exchange<T>(
    target: &Target,
    request: &[u8],
    deadline: Duration,
    keep: impl FnMut(Message<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let talk = async {
        let mut stream = target.dial().await?;
        let mut bytes = Vec::with_capacity(1024);
        match &target.tls {
            None => converse(&mut stream, request, &mut bytes, keep).await,
            Some(tls) => converse(&mut tls.over(stream).await?, request, &mut bytes, keep).await,
        }
    };
    match tokio::time::timeout(deadline, talk).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Timeout),
    }
}

/// Sends a request and reads its answer into `bytes`, which are empty before.
pub(super) async fn converse<T>(
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

/// What a sample counts of an answer.
pub(super) fn reply(message: Message<'_>) -> Result<Reply, Failure> {
    if message.status != 200 {
        return Err(Failure::Status(message.status));
    }
    let text = std::str::from_utf8(&message.body).ok();
    let version = text.map(|text| text.strip_suffix('\n').unwrap_or(text));
    let version = version.filter(|text| is_version(text)).map(str::to_owned);
    Ok(Reply { version, pod: message.header("x-pod").map(str::to_owned) })
}

/// A complete answer.
#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    status: u16,
    headers: Vec<(&'a str, &'a str)>,
    body: Cow<'a, [u8]>,
    /// Whether the connection ends with it, by its header or because nothing else tells its end.
    pub(super) last: bool,
}

impl<'a> Message<'a> {
    fn header(&self, name: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }
}

/// The most that is read of an answer.
const MOST: usize = 1 << 20;

/// The answer that `bytes` hold, `None` if it is not complete yet. `end` says that no more will come.
fn parse(bytes: &[u8], end: bool) -> Result<Option<Message<'_>>, Failure> {
    let more = || {
        if end {
            let got = bytes.len();
            Err(Failure::Broken(format!(
                "closed after {got} bytes, before the answer was complete"
            )))
        } else if bytes.len() > MOST {
            malformed("longer than a mebibyte")
        } else {
            Ok(None)
        }
    };
    let mut rest = bytes;
    loop {
        let Some((head, body)) = split(rest, b"\r\n\r\n") else { return more() };
        let (status, headers) = head_of(head)?;
        if (100..200).contains(&status) {
            // Interim answers precede the one that counts; switching protocols was not asked for.
            if status == 101 {
                return malformed("switches protocols");
            }
            rest = body;
            continue;
        }
        let body = match framing(status, &headers)? {
            Framing::Length(length) if body.len() < length => return more(),
            Framing::Length(length) if body.len() > length => {
                return malformed("more bytes than content-length says");
            }
            Framing::Length(_) => Cow::Borrowed(body),
            Framing::Chunked => match dechunk(body)? {
                Some(body) => Cow::Owned(body),
                None => return more(),
            },
            Framing::Close if end => Cow::Borrowed(body),
            Framing::Close => return if bytes.len() > MOST { more() } else { Ok(None) },
        };
        let closes = |(key, value): &(&str, &str)| {
            key.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        };
        let last = end || headers.iter().any(closes) || rest.starts_with(b"HTTP/1.0");
        return Ok(Some(Message { status, headers, body, last }));
    }
}

type Headers<'a> = Vec<(&'a str, &'a str)>;

fn head_of(head: &[u8]) -> Result<(u16, Headers<'_>), Failure> {
    let Ok(head) = std::str::from_utf8(head) else { return malformed("headers not in UTF-8") };
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let Some(status) = status_of(first) else {
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

fn status_of(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, _reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse().ok().filter(|code| digits && *code >= 100)
}

/// How the end of a body is told.
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

/// The body of these chunks, `None` if the last has not come yet.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    loop {
        let Some((line, after)) = split(rest, b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(line);
        let size = line.split(';').next().unwrap_or_default().trim();
        let hexadecimal = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed =
            usize::from_str_radix(size, 16).ok().filter(|size| hexadecimal && *size <= MOST);
        let Some(size) = parsed else { return malformed(format!("chunk of size {size:?}")) };
        if size == 0 {
            return trailers(after).map(|ended| ended.then_some(body));
        }
        let Some((data, after)) = after.split_at_checked(size) else { return Ok(None) };
        let Some((end, after)) = after.split_at_checked(2) else { return Ok(None) };
        if end != b"\r\n" {
            return malformed("a chunk longer than it says");
        }
        body.extend_from_slice(data);
        rest = after;
    }
}

/// Whether the trailers have ended; what follows them is an error.
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

fn is_version(text: &str) -> bool {
    let short = !text.is_empty() && text.len() <= 32;
    short
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Malformed(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nX-Pod: a-b\r\n\r\n1.0\n";

    #[test]
    fn an_answer_is_taken_once_it_is_complete() {
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
    fn chunks_are_put_together() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
                    2;x=y\r\n1.\r\n00002\r\n0\n\r\n0\r\nTrailer: x\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..length], false), Ok(None), "{length} bytes");
        }
        assert_eq!(&*parse(text.as_bytes(), false).unwrap().unwrap().body, b"1.0\n");
    }

    #[test]
    fn a_body_may_end_with_the_connection() {
        let text = b"HTTP/1.0 200 \r\n\r\n2.0\n";
        assert_eq!(parse(text, false), Ok(None));
        assert_eq!(&*parse(text, true).unwrap().unwrap().body, b"2.0\n");
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{GOOD}");
        assert_eq!(parse(text.as_bytes(), false).unwrap().unwrap().status, 200);
    }

    #[test]
    fn what_is_not_good_http_is_refused() {
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
    fn no_body_where_there_can_be_none() {
        let text = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(text, false).unwrap().unwrap().status, 204);
    }

    #[test]
    fn only_a_version_counts_as_one() {
        for (text, version) in [
            ("1.0", true),
            ("2", true),
            ("1..0", false),
            ("", false),
            ("v1.0", false),
            ("1.0 ", false),
        ] {
            assert_eq!(is_version(text), version, "{text:?}");
        }
    }
}
