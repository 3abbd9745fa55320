//! Decoding and encoding of SPDY 3.1 frames, without I/O. Any bytes are safe to decode.
//!
//! Headers are compressed with a dictionary that the protocol defines. The inflater does not support dictionaries, so
//! it is fed the dictionary as a stored block first. Encoded headers use none, which the format permits.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// Names and values, in order.
pub(crate) type Headers = Vec<(String, String)>;

/// The maximum size of a control frame, and of its headers.
const MAX_CONTROL: usize = 64 << 10;
/// The maximum size of a chunk of data.
const CHUNK: usize = 32 << 10;
const VERSION: u16 = 3;
const LAST: u8 = 1;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open {
        id: u32,
        last: bool,
        headers: Headers,
    },
    Reply {
        id: u32,
    },
    Data {
        id: u32,
        last: bool,
        data: Bytes,
    },
    Reset {
        id: u32,
        reason: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates, further headers: ignored.
    Other,
}

/// A violation of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    #[error("a control frame of {0} bytes is too long")]
    Long(usize),
    #[error("truncated control frame")]
    Short,
    #[error("failed to decompress headers")]
    Headers,
}

/// Decodes frames.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    /// The data frame that is being read: stream, last flag, missing bytes.
    data: Option<(u32, bool, usize)>,
    inflate: Inflate,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next frame that is complete. After an error nothing more can be decoded.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((id, last, missing)) = self.data {
            let size = missing.min(self.buffer.len()).min(CHUNK);
            if size == 0 && missing > 0 {
                return Ok(None);
            }
            let data = self.buffer.split_to(size).freeze();
            let left = missing.saturating_sub(size);
            self.data = (left > 0).then_some((id, last, left));
            return Ok(Some(Frame::Data { id, last: last && left == 0, data }));
        }
        let Some(mut head) = self.buffer.get(..8) else { return Ok(None) };
        let first = head.get_u32();
        let rest = head.get_u32();
        let (flags, size) = ((rest >> 24) as u8, (rest & 0xff_ffff) as usize);
        if first >> 31 == 0 {
            self.buffer.advance(8);
            self.data = Some((first, flags & LAST != 0, size));
            return self.next();
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if size > MAX_CONTROL {
            return Err(SpdyError::Long(size));
        }
        if self.buffer.len() < 8 + size {
            return Ok(None);
        }
        self.buffer.advance(8);
        let body = self.buffer.split_to(size);
        self.control(kind, flags, body).map(Some)
    }

    /// Decodes the body of a control frame.
    fn control(&mut self, kind: u16, flags: u8, mut body: BytesMut) -> Result<Frame, SpdyError> {
        let number = |body: &mut BytesMut| {
            if body.len() < 4 { Err(SpdyError::Short) } else { Ok(body.get_u32() & 0x7fff_ffff) }
        };
        Ok(match kind {
            1 => {
                let id = number(&mut body)?;
                // The associated stream and the priority are not used.
                if body.len() < 6 {
                    return Err(SpdyError::Short);
                }
                body.advance(6);
                let headers = self.inflate.headers(&body)?;
                Frame::Open { id, last: flags & LAST != 0, headers }
            }
            // Decoded for the compression state, which all headers share.
            2 | 8 => {
                number(&mut body)?;
                self.inflate.headers(&body)?;
                Frame::Other
            }
            3 => Frame::Reset { id: number(&mut body)?, reason: number(&mut body)? },
            6 => {
                if body.len() < 4 {
                    return Err(SpdyError::Short);
                }
                Frame::Ping { id: body.get_u32() }
            }
            7 => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

/// The header of a zlib stream without a dictionary.
const ZLIB: &[u8] = &[0x78, 1];
/// No headers: a stored block with the count zero, and an empty one that flushes it.
const NO_HEADERS: &[u8] = &[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Encodes a frame; `begun` records that headers were sent before. Frames that only clients send are not supported,
/// since their headers would have to be compressed.
pub(crate) fn encode(frame: &Frame, begun: &mut bool) -> Bytes {
    let mut bytes = BytesMut::new();
    let mut control = |kind: u16, size: usize| {
        bytes.put_u16(0x8000 | VERSION);
        bytes.put_u16(kind);
        bytes.put_u32(size as u32 & 0xff_ffff);
    };
    match frame {
        Frame::Data { id, last, data } => {
            let size = data.len() as u32 & 0xff_ffff;
            bytes.put_u32(id & 0x7fff_ffff);
            bytes.put_u32((u32::from(u8::from(*last)) << 24) | size);
            bytes.put_slice(data);
        }
        Frame::Reply { id } => {
            let zlib = if std::mem::replace(begun, true) { &[] } else { ZLIB };
            control(2, 4 + zlib.len() + NO_HEADERS.len());
            bytes.put_u32(*id);
            bytes.put_slice(zlib);
            bytes.put_slice(NO_HEADERS);
        }
        Frame::Reset { id, reason } => {
            control(3, 8);
            bytes.put_u32(*id);
            bytes.put_u32(*reason);
        }
        Frame::Ping { id } => {
            control(6, 4);
            bytes.put_u32(*id);
        }
        Frame::GoAway => {
            control(7, 8);
            bytes.put_u32(0);
            bytes.put_u32(1);
        }
        Frame::Open { .. } | Frame::Other => {}
    }
    bytes.freeze()
}

/// Decompresses header blocks. All of a connection share the state.
struct Inflate {
    zlib: Decompress,
    begun: bool,
}

impl Default for Inflate {
    fn default() -> Self {
        Self { zlib: Decompress::new(false), begun: false }
    }
}

impl Inflate {
    fn headers(&mut self, mut block: &[u8]) -> Result<Headers, SpdyError> {
        if !self.begun {
            self.begun = true;
            let dictionary = dictionary();
            let size = (dictionary.len() as u16).to_le_bytes();
            let mut stored = vec![0, size[0], size[1], !size[0], !size[1]];
            stored.extend_from_slice(&dictionary);
            self.inflate(&stored)?;
            // The zlib header and the checksum of the dictionary.
            let flags = *block.get(1).ok_or(SpdyError::Headers)?;
            let skip = if flags & 0x20 == 0 { 2 } else { 6 };
            block = block.get(skip..).ok_or(SpdyError::Headers)?;
        }
        let plain = self.inflate(block)?;
        parse_headers(&plain)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        loop {
            plain.reserve(4096);
            let before = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .decompress_vec(block, &mut plain, FlushDecompress::Sync)
                .map_err(|_| SpdyError::Headers)?;
            let after = (self.zlib.total_in(), self.zlib.total_out());
            block = block.get((after.0 - before.0) as usize..).unwrap_or_default();
            if plain.len() > MAX_CONTROL {
                return Err(SpdyError::Headers);
            }
            let room = plain.len() < plain.capacity();
            if status == Status::StreamEnd || (block.is_empty() && room) {
                return Ok(plain);
            }
            if before == after {
                return Err(SpdyError::Headers);
            }
        }
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    fn text(plain: &mut &[u8]) -> Result<String, SpdyError> {
        if plain.len() < 4 {
            return Err(SpdyError::Headers);
        }
        let size = plain.get_u32() as usize;
        let bytes = plain.get(..size).ok_or(SpdyError::Headers)?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        plain.advance(size);
        Ok(text)
    }
    if plain.len() < 4 {
        return Err(SpdyError::Headers);
    }
    let count = plain.get_u32();
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((text(&mut plain)?, text(&mut plain)?));
    }
    Ok(headers)
}

/// The dictionary of section 2.6.10.1 of the third draft of SPDY: length-prefixed words, and a tail.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
        accept-language accept-ranges age allow authorization cache-control connection \
        content-base content-encoding content-language content-length content-location \
        content-md5 content-range content-type date etag expect expires from host if-match \
        if-modified-since if-none-match if-range if-unmodified-since last-modified location \
        max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after \
        server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate \
        method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
    const TAIL: &str = "\
        100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
        Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 \
        Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, \
        Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
        gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut bytes = Vec::new();
    for word in WORDS.split(' ') {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend(word.bytes().map(|b| if b == b'_' { b' ' } else { b }));
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// The bytes with which a client opens the first stream of a connection.
#[cfg(test)]
pub(crate) fn opened(id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut plain = Vec::new();
    plain.put_u32(headers.len() as u32);
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.put_u32(text.len() as u32);
        plain.put_slice(text.as_bytes());
    }
    // A zlib stream that names the dictionary and has one stored block.
    let mut block = vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0];
    block.put_u16_le(plain.len() as u16);
    block.put_u16_le(!(plain.len() as u16));
    block.extend_from_slice(&plain);
    let mut frame = Vec::new();
    frame.put_u32(0x8003_0001);
    frame.put_u32((1 << 24) | (10 + block.len() as u32));
    frame.put_u32(id);
    frame.put_slice(&[0; 6]);
    frame.extend_from_slice(&block);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    /// Captured from kubectl 1.32: the two streams of its first connection.
    fn opened() -> Vec<u8> {
        crate::subresources::stream::spdy::frames::opened(
            1,
            &[("streamtype", "error"), ("port", "8080")],
        )
    }

    #[test]
    fn dictionary_has_the_checksum_of_the_protocol() {
        let sum = dictionary().iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (a + b) % 65_521)
        });
        assert_eq!((sum.1 << 16) | sum.0, 0xe3c6_a7c2);
    }

    #[test]
    fn frames_are_decoded_from_any_chunks() {
        let mut bytes = opened();
        for frame in [
            Frame::Data { id: 1, last: false, data: Bytes::from(vec![7; 40_000]) },
            Frame::Data { id: 1, last: true, data: Bytes::new() },
            Frame::Ping { id: 3 },
            Frame::Reset { id: 1, reason: 5 },
            Frame::GoAway,
        ] {
            bytes.extend_from_slice(&encode(&frame, &mut true));
        }
        for piece in [1, 7, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let (mut frames, mut data) = (Vec::new(), 0);
            for piece in bytes.chunks(piece) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    match frame {
                        Frame::Data { data: piece, last: false, .. } => data += piece.len(),
                        other => frames.push(other),
                    }
                }
            }
            let headers = vec![
                ("streamtype".to_owned(), "error".to_owned()),
                ("port".to_owned(), "8080".to_owned()),
            ];
            assert_eq!(data, 40_000);
            assert_eq!(
                frames,
                [
                    Frame::Open { id: 1, last: true, headers },
                    Frame::Data { id: 1, last: true, data: Bytes::new() },
                    Frame::Ping { id: 3 },
                    Frame::Reset { id: 1, reason: 5 },
                    Frame::GoAway,
                ]
            );
        }
    }

    #[test]
    fn reply_can_be_decoded() {
        let (mut decoder, mut begun) = (Decoder::default(), false);
        for id in [1, 3, 5] {
            decoder.push(&encode(&Frame::Reply { id }, &mut begun));
            assert_eq!(decoder.next(), Ok(Some(Frame::Other)));
        }
    }

    #[test]
    fn invalid_frame_is_rejected() {
        for (bytes, expected) in [
            (vec![0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Version(2)),
            (vec![0x80, 3, 0, 1, 0, 255, 255, 255], SpdyError::Long(0xff_ffff)),
            (vec![0x80, 3, 0, 6, 0, 0, 0, 0], SpdyError::Short),
            (vec![0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], SpdyError::Short),
            (vec![0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], SpdyError::Headers),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            assert_eq!(decoder.next(), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn decompression_bomb_is_rejected() {
        // Deflate compresses 60 MB of zeros to 60 KB.
        let mut zlib = flate2::Compress::new(flate2::Compression::best(), true);
        let mut block = Vec::with_capacity(MAX_CONTROL * 2);
        let zeros = vec![0; 60 << 20];
        zlib.compress_vec(&zeros, &mut block, flate2::FlushCompress::Sync).unwrap();
        block.truncate(MAX_CONTROL - 10);
        let mut frame = Vec::new();
        frame.put_u32(0x8003_0001);
        frame.put_u32(10 + block.len() as u32);
        frame.put_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(&block);
        let mut decoder = Decoder::default();
        decoder.push(&frame);
        assert_eq!(decoder.next(), Err(SpdyError::Headers));
    }

    /// Random bytes, and valid ones with some changed, in random chunks.
    #[test]
    fn arbitrary_bytes_do_not_panic() {
        let mut random = rand::rng();
        let good = [opened(), encode(&Frame::Ping { id: 1 }, &mut true).to_vec()].concat();
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                (0..random.random_range(0..200)).map(|_| random.random()).collect()
            } else {
                good.clone()
            };
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.random();
                }
            }
            let mut decoder = Decoder::default();
            'bytes: for piece in bytes.chunks(random.random_range(1..64)) {
                decoder.push(piece);
                loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'bytes,
                    }
                }
                assert!(decoder.buffer.len() <= bytes.len());
            }
        }
    }
}
