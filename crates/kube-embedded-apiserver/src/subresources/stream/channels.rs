//! Kubernetes' channels: each message of a WebSocket starts with the number of the channel that it
//! belongs to.

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;
/// Since version 5: the channel named in the data is closed.
pub(crate) const CLOSE: u8 = 255;

/// Channel and data of a message; `None` for one without a channel.
pub(crate) fn parse(mut message: Bytes) -> Option<(u8, Bytes)> {
    let channel = *message.first()?;
    let data = message.split_off(1);
    Some((channel, data))
}

/// A message of a channel.
pub(crate) fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    message.freeze()
}

/// Columns and rows of a terminal, as clients tell them.
pub(crate) fn size(data: &[u8]) -> Option<(u16, u16)> {
    let size: serde_json::Value = serde_json::from_slice(data).ok()?;
    let number = |name: &str| u16::try_from(size[name].as_u64()?).ok();
    Some((number("Width")?, number("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        assert_eq!(parse(message(STDERR, b"no")), Some((STDERR, Bytes::from_static(b"no"))));
        assert_eq!(parse(message(CLOSE, &[STDIN])), Some((255, Bytes::from_static(&[0]))));
        assert_eq!(parse(Bytes::from_static(&[1])), Some((1, Bytes::new())));
        assert_eq!(parse(Bytes::new()), None);
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        for wrong in [&b""[..], b"{}", b"[1]", br#"{"Width":-1,"Height":70000}"#, b"\xff"] {
            assert_eq!(size(wrong), None);
        }
    }
}
