//! Percent-encodes characters in request targets that have to be encoded and that clients send as they
//! are: `/search?q=<b>`. nginx, haproxy and Envoy accept them; hyper would refuse the request.
//!
//! It follows the requests of a connection without judging them: hyper decides afterwards what a
//! request is, and nothing but a target is ever changed. Where the two could differ on the place of the
//! next request (codings, upgrades, lengths that are no numbers), it ends its work.

use super::limits::USUAL_FIELDS;
use std::fmt::Write;

/// Bytes of a header line that are looked at: as many as a length needs.
const LINE: usize = 48;

/// The encoder of one connection.
#[derive(Debug, Default)]
pub(crate) struct TargetEncoder {
    state: State,
    /// The begin of the current header line.
    line: Vec<u8>,
    length: Option<u64>,
    /// Another request would follow at a place that is not known.
    last: bool,
    heads: u64,
    /// Fields of the current head.
    fields: usize,
    /// Where the current head begins in what is read in the place of the bytes that were followed last.
    begin: usize,
    /// The number of the first head that has more than [`USUAL_FIELDS`], or after which the next one is at a place that
    /// is not known.
    large: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Before the first byte of a request. Empty lines are allowed there.
    #[default]
    Start,
    Method,
    Target,
    Version,
    Fields,
    Body(u64),
    Off,
}

impl TargetEncoder {
    /// Returns an encoder that changes nothing, for another protocol.
    pub(crate) fn off() -> Self {
        Self { state: State::Off, ..Self::default() }
    }

    /// Returns the requests whose heads have begun.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Returns where the head begins that is not complete, or the large one.
    pub(crate) fn open_head(&self) -> Option<usize> {
        let within =
            matches!(self.state, State::Method | State::Target | State::Version | State::Fields);
        (within || self.large.is_some()).then_some(self.begin)
    }

    /// Returns the number of the first head that needs a limit of fields other than the usual one.
    pub(crate) fn large_head(&self) -> Option<u64> {
        self.large
    }

    /// Follows the next bytes of the client, and returns what to read in their place if that differs.
    pub(crate) fn encode(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out: Option<Vec<u8>> = None;
        let mut at = 0;
        if self.large.is_none() {
            self.begin = 0;
        }
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let heads = self.heads;
            let taken = match self.state {
                State::Off => rest.len(),
                State::Body(left) => self.body(left, rest.len()),
                State::Start => self.start(rest),
                State::Method => self.until_space(rest),
                State::Target => {
                    let taken = self.until_space(rest);
                    let target = &rest[..taken];
                    if target.iter().any(|byte| must_be_encoded(*byte)) {
                        percent_encode(target, out.get_or_insert_with(|| bytes[..at].to_vec()));
                        at += taken;
                        continue;
                    }
                    taken
                }
                State::Version => self.until_line_end(rest),
                State::Fields => self.field(rest),
            };
            if let Some(out) = &mut out {
                out.extend_from_slice(&rest[..taken]);
            }
            at += taken;
            if self.heads > heads && self.large.is_none() {
                self.begin = out.as_ref().map_or(at, Vec::len);
            }
        }
        out
    }

    fn start(&mut self, rest: &[u8]) -> usize {
        let blank = rest.iter().take_while(|byte| b"\r\n".contains(byte)).count();
        if blank < rest.len() {
            (self.length, self.last) = (None, false);
            self.heads += 1;
            self.fields = 0;
            self.state = State::Method;
        }
        blank
    }

    /// Takes the method or the target, and the space or line end after it.
    fn until_space(&mut self, rest: &[u8]) -> usize {
        let end = rest.iter().position(|byte| b" \n".contains(byte));
        let Some(end) = end else { return rest.len() };
        self.state = match (self.state, rest[end]) {
            (_, b'\n') => State::Fields,
            (State::Method, _) => State::Target,
            _ => State::Version,
        };
        end + 1
    }

    fn until_line_end(&mut self, rest: &[u8]) -> usize {
        let Some(end) = line_end(rest) else { return rest.len() };
        self.state = State::Fields;
        end + 1
    }

    /// Takes a header line, or the part of one that has arrived.
    fn field(&mut self, rest: &[u8]) -> usize {
        let end = line_end(rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        let room = LINE.saturating_sub(self.line.len());
        let begin = &part[..part.len().min(room)];
        let Some(end) = end else {
            self.line.extend_from_slice(begin);
            return rest.len();
        };
        // Most lines arrive as a whole.
        let mut line = std::mem::take(&mut self.line);
        let line = match line.is_empty() {
            true => begin,
            false => {
                line.extend_from_slice(begin);
                &line
            }
        };
        match line.trim_ascii_end() {
            [] => {
                self.state = match (self.last, self.length) {
                    (true, _) => State::Off,
                    (false, None | Some(0)) => State::Start,
                    (false, Some(length)) => State::Body(length),
                };
            }
            line => {
                self.framing(line);
                self.fields += 1;
                if self.last || self.fields > USUAL_FIELDS {
                    self.large.get_or_insert(self.heads);
                }
            }
        }
        end + 1
    }

    /// Looks for the fields that decide where the next request begins.
    fn framing(&mut self, line: &[u8]) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let digits = std::str::from_utf8(value).ok().filter(|_| {
                !value.is_empty() && value.iter().all(u8::is_ascii_digit) && line.len() < LINE
            });
            let length = digits.and_then(|digits| digits.parse().ok());
            self.last |= length.is_none() || self.length.is_some_and(|seen| Some(seen) != length);
            self.length = length;
        }
        // Also where a field is folded, misspelled or too long.
        let ends = [&b"transfer-encoding"[..], b"upgrade"]
            .iter()
            .any(|other| name.trim_ascii().eq_ignore_ascii_case(other));
        self.last |= ends || line.first().is_some_and(u8::is_ascii_whitespace);
    }

    fn body(&mut self, left: u64, available: usize) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        let left = left - taken as u64;
        self.state = if left == 0 { State::Start } else { State::Body(left) };
        taken
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// Returns whether hyper refuses the byte, although it can only mean itself. Control characters are
/// refused by everyone.
fn must_be_encoded(byte: u8) -> bool {
    byte >= 0x80 || b"\"<>`".contains(&byte)
}

fn percent_encode(target: &[u8], out: &mut Vec<u8>) {
    for byte in target {
        if must_be_encoded(*byte) {
            let mut encoded = String::with_capacity(3);
            // Cannot fail for a string.
            let _ = write!(encoded, "%{byte:02X}");
            out.extend_from_slice(encoded.as_bytes());
        } else {
            out.push(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the bytes in parts, as they may arrive.
    fn encode(bytes: &[u8], part: usize) -> Vec<u8> {
        let mut encoder = TargetEncoder::default();
        bytes
            .chunks(part)
            .flat_map(|part| encoder.encode(part).unwrap_or_else(|| part.to_vec()))
            .collect()
    }

    #[test]
    fn targets_are_encoded_and_nothing_else_is() {
        let cases: &[(&[u8], &[u8])] = &[
            (
                b"GET /q?a=<b> HTTP/1.1\r\n<a>: <b>\r\n\r\n",
                b"GET /q?a=%3Cb%3E HTTP/1.1\r\n<a>: <b>\r\n\r\n",
            ),
            (b"GET /caf\xe9\xff HTTP/1.1\r\n\r\n", b"GET /caf%E9%FF HTTP/1.1\r\n\r\n"),
            (
                b"\r\n\nGET /\"`\\^{}|%zz HTTP/1.1\n\nGET /< HTTP/1.1\n\n",
                b"\r\n\nGET /%22%60\\^{}|%zz HTTP/1.1\n\nGET /%3C HTTP/1.1\n\n",
            ),
            // Bodies.
            (
                b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nX /<<GET /< H\r\n\r\n",
                b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nX /<<GET /%3C H\r\n\r\n",
            ),
            (
                b"POST / HTTP/1.1\r\ncontent-length:0\r\n\r\nGET /< H\r\n\r\n",
                b"POST / HTTP/1.1\r\ncontent-length:0\r\n\r\nGET /%3C H\r\n\r\n",
            ),
            // A target is what is between two spaces.
            (b"<GET /a <b> HTTP/1.1\r\n\r\n", b"<GET /a <b> HTTP/1.1\r\n\r\n"),
            (b"GET\r\n/< /<\r\n\r\nGET /< H\r\n\r\n", b"GET\r\n/< /<\r\n\r\nGET /%3C H\r\n\r\n"),
        ];
        for (sent, expected) in cases {
            for part in [1, 2, 3, 7, 1000] {
                let got = encode(sent, part);
                assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn bytes_after_a_request_of_unclear_length_are_not_touched() {
        for field in [
            "Transfer-Encoding: chunked",
            "transfer-encoding : x",
            "Upgrade: websocket",
            "Content-Length: +3",
            "Content-Length: 3, 3",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3\r\n 4",
            "Content-Length:                                                 3",
        ] {
            let sent = format!("POST /< HTTP/1.1\r\n{field}\r\n\r\nGET /< HTTP/1.1\r\n\r\n");
            let expected = sent.replacen("/<", "/%3C", 1);
            assert_eq!(encode(sent.as_bytes(), 5), expected.as_bytes(), "{field}");
        }
    }

    proptest! {
        /// Encoding adds nothing but escapes, whatever comes and however it is cut.
        #[test]
        fn decoding_restores_the_bytes(
            bytes in proptest::collection::vec(
                prop_oneof![
                    Just(b' '), Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'<'), Just(b'3'), any::<u8>(),
                ].prop_filter("would be decoded", |byte| *byte != b'%'),
                0..200,
            ),
            part in 1_usize..20,
        ) {
            let encoded = encode(&bytes, part);
            let decoded: Vec<u8> = percent_encoding::percent_decode(&encoded).collect();
            prop_assert_eq!(decoded, bytes);
        }
    }
}
