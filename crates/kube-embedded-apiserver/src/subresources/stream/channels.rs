//! The channel protocol (`v5.channel.k8s.io`): each WebSocket message starts with the number of its channel.

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;
/// Since version 5: the channel named in the data is closed.
pub(crate) const CLOSE: u8 = 255;

/// Splits a message into channel and data; `None` if it is empty.
pub(crate) fn parse(mut message: Bytes) -> Option<(u8, Bytes)> {
    let channel = *message.first()?;
    let data = message.split_off(1);
    Some((channel, data))
}

/// Encodes a message of a channel.
pub(crate) fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    message.freeze()
}

/// Parses the size of a terminal: columns and rows.
pub(crate) fn size(data: &[u8]) -> Option<(u16, u16)> {
    let size: serde_json::Value = serde_json::from_slice(data).ok()?;
    let number = |name: &str| u16::try_from(size[name].as_u64()?).ok();
    Some((number("Width")?, number("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_split_into_channel_and_data() {
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
