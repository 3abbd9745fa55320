//! Entry points of the fuzz targets in `fuzz/`: parsers of what clients send. None may panic or hang, whatever
//! the bytes; what is checked besides says each function.

use crate::{
    cel::{
        Budget, Program,
        types::Type,
        value::{DYN, Val},
    },
    http::{
        decode, protobuf,
        query::{FieldValidation, Query},
        selector::Selector,
    },
    patch,
    resources::registry,
    subresources::stream::{channels, spdy::frames::Decoder},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use std::io::Cursor;
use tokio_tungstenite::tungstenite::{
    Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

/// An object in `application/vnd.kubernetes.protobuf`.
pub fn protobuf(bytes: &[u8]) {
    let _ = protobuf::decode(bytes);
}

/// Two lines of JSON, an object and a patch of each type to it. Both are checked as requests are: the object as one
/// that is stored, the patch as one that is applied.
pub fn patches(bytes: &[u8]) {
    let Some(split) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (object, patch) = bytes.split_at(split);
    let (Ok(mut object), Ok(patch)) =
        (serde_json::from_slice::<Value>(object), serde_json::from_slice::<Value>(patch))
    else {
        return;
    };
    let Some(resource) = registry::find("apps", "v1", "deployments") else { return };
    let lenient = FieldValidation::Ignore;
    let stored = decode::check_fields(resource, &mut object, Vec::new(), lenient, b"");
    if !object["metadata"].is_object() || stored.is_err() {
        return;
    }
    let mut merged = object.clone();
    patch::merge(&mut merged, &patch);
    let mut patched = object.clone();
    let _ = patch::json(&mut patched, &patch);
    let mut strategic = object.clone();
    let _ = patch::strategic(resource, &mut strategic, &patch);
    if !patch["metadata"].is_object() || decode::check_applied(resource, &patch).is_err() {
        return;
    }
    let at = Timestamp::UNIX_EPOCH;
    let applied = patch::apply(resource, Some(&object), &patch, "fuzz", true, "", at);
    if let Ok(applied) = applied {
        let _ = patch::apply(resource, Some(&applied), &object, "other", false, "", at);
    }
}

/// Frames of SPDY/3.1, in parts of the length in the first byte. The parts make no difference.
pub fn spdy(bytes: &[u8]) {
    let Some((part, bytes)) = bytes.split_first() else { return };
    let decode = |part: usize| {
        let mut decoder = Decoder::default();
        let mut frames = 0;
        for part in bytes.chunks(part) {
            decoder.push(part);
            loop {
                match decoder.next() {
                    Ok(Some(_)) => frames += 1,
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let (_, whole) = decode(usize::MAX);
    let (_, parts) = decode(usize::from(*part).max(1));
    assert_eq!(whole, parts, "depends on how the bytes arrive");
}

/// WebSocket frames of a client, and the messages of channels in them.
pub fn websocket(bytes: &[u8]) {
    struct Input<'a>(Cursor<&'a [u8]>);
    impl std::io::Read for Input<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl std::io::Write for Input<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let config = Some(WebSocketConfig::default());
    let mut socket = WebSocket::from_raw_socket(Input(Cursor::new(bytes)), Role::Server, config);
    while let Ok(message) = socket.read() {
        if let Message::Binary(data) = message
            && let Some((_, data)) = channels::parse(data)
        {
            let _ = channels::size(&data);
        }
    }
}

/// An expression of a rule, and after a line break the object that it is evaluated on.
pub fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (source, object) = text.split_once('\n').unwrap_or((text, "null"));
    let object: Value = serde_json::from_str(object).unwrap_or_default();
    let Ok(program) = Program::compile(source, &[("self", Type::Dyn)]) else { return };
    let _ = program.run(&[("self", Val::of(&object, &DYN))], &mut Budget::default());
}

/// A query string with selectors of labels and fields, and a pod as the object.
pub fn selectors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let query = Query::parse(Some(text));
    let Some(resource) = registry::find("", "v1", "pods") else { return };
    let selector =
        Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"));
    if let Ok(selector) = selector {
        let labels = serde_json::json!({ "a": "b", "c": "3", "d": "" });
        selector.matches(&serde_json::json!({ "metadata": { "name": "x", "labels": labels } }));
        selector.matches(&Value::Null);
    }
    let _ = (query.number("limit"), query.dry_run(), query.field_validation());
}

/// A manifest. What was read can be written and read again.
pub fn yaml(bytes: &[u8]) {
    if let Ok(value) = decode::yaml(&Bytes::copy_from_slice(bytes)) {
        let text = value.to_string();
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value), "{text}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_corpus_passes() {
        let targets: &[(&str, fn(&[u8]))] = &[
            ("protobuf", super::protobuf),
            ("patches", super::patches),
            ("spdy", super::spdy),
            ("websocket", super::websocket),
            ("rules", super::rules),
            ("selectors", super::selectors),
            ("yaml", super::yaml),
        ];
        for (name, target) in targets {
            test_support::corpus_passes(name, target);
        }
    }
}
