//! The protobuf encoding of OpenAPI v2 documents: the messages of `openapiv2/OpenAPIv2.proto` of
//! gnostic, which clients written in Go decode. Fields that no document of ours has are left out.

use serde_json::{Map, Value};

/// Encodes a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    message.message(2, &info);
    let mut paths = Message::default();
    for (name, item) in members(&document["paths"]) {
        paths.named(2, name, &path_item(item));
    }
    message.message(8, &paths);
    message.message(9, &named_schemas(&document["definitions"]));
    message.0
}

/// A message that is being encoded.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn varint(&mut self, field: u64, number: u64) {
        self.number(field << 3);
        self.number(number);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Anything but a string is left out.
    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, values: &Value) {
        values.as_array().into_iter().flatten().for_each(|value| self.text(field, value));
    }

    /// `false` is the default.
    fn flag(&mut self, field: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(field, 1);
        }
    }

    fn integer(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_i64() {
            self.varint(field, number.cast_unsigned());
        }
    }

    fn double(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_f64() {
            self.number(field << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A member of a map: a message with the key and the value.
    fn named(&mut self, field: u64, name: &str, value: &Self) {
        let mut named = Self::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(field, &named);
    }

    /// A value of any type, as YAML, of which JSON is a part.
    fn any(&mut self, field: u64, value: &Value) {
        if !value.is_null() {
            self.message(field, &yaml(value));
        }
    }

    /// The members of an object that begin with `x-`.
    fn extensions(&mut self, field: u64, object: &Value) {
        for (name, value) in members(object).filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, &yaml(value));
        }
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

fn yaml(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, value.to_string().as_bytes());
    any
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(operation) = item.get(method) {
            message.message(field, &self::operation(operation));
        }
    }
    parameters(&mut message, 9, &item["parameters"]);
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.text(3, &operation["description"]);
    message.text(5, &operation["operationId"]);
    message.texts(6, &operation["produces"]);
    message.texts(7, &operation["consumes"]);
    parameters(&mut message, 8, &operation["parameters"]);
    let mut responses = Message::default();
    for (code, response) in members(&operation["responses"]) {
        let mut inner = Message::default();
        inner.text(1, &response["description"]);
        if let Some(schema) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &self::schema(schema));
            inner.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &inner);
        responses.named(1, code, &value);
    }
    message.message(9, &responses);
    message.extensions(13, operation);
    message
}

fn parameters(message: &mut Message, field: u64, parameters: &Value) {
    for parameter in parameters.as_array().into_iter().flatten() {
        let mut inner = Message::default();
        let is_body = parameter["in"] == "body";
        if is_body {
            inner.text(1, &parameter["description"]);
            inner.text(2, &parameter["name"]);
            inner.text(3, &parameter["in"]);
            inner.flag(4, &parameter["required"]);
            inner.message(5, &schema(&parameter["schema"]));
        } else {
            let is_path = parameter["in"] == "path";
            // A parameter of a query has one field more in between.
            let shift = u64::from(!is_path);
            inner.flag(1, &parameter["required"]);
            inner.text(2, &parameter["in"]);
            inner.text(3, &parameter["description"]);
            inner.text(4, &parameter["name"]);
            inner.text(5 + shift, &parameter["type"]);
            inner.text(6 + shift, &parameter["format"]);
            inner.flag(19 + shift, &parameter["uniqueItems"]);
            let mut kind = Message::default();
            kind.message(if is_path { 4 } else { 3 }, &inner);
            inner = kind;
        }
        let mut chosen = Message::default();
        chosen.message(if is_body { 1 } else { 2 }, &inner);
        let mut item = Message::default();
        item.message(1, &chosen);
        message.message(field, &item);
    }
}

fn named_schemas(schemas: &Value) -> Message {
    let mut message = Message::default();
    for (name, schema) in members(schemas) {
        message.named(1, name, &self::schema(schema));
    }
    message
}

fn schema(schema: &Value) -> Message {
    let mut message = Message::default();
    for (field, name) in
        [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")]
    {
        message.text(field, &schema[name]);
    }
    message.any(5, &schema["default"]);
    for (field, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        message.double(field, &schema[name]);
    }
    for (field, name) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        message.flag(field, &schema[name]);
    }
    for (field, name) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        message.integer(field, &schema[name]);
    }
    message.texts(19, &schema["required"]);
    schema["enum"].as_array().into_iter().flatten().for_each(|value| message.any(20, value));
    if let Some(others) = schema.get("additionalProperties") {
        let mut item = Message::default();
        match others {
            Value::Bool(allowed) => item.varint(2, (*allowed).into()),
            _ => item.message(1, &self::schema(others)),
        }
        message.message(21, &item);
    }
    if schema["type"].is_string() {
        let mut kind = Message::default();
        kind.text(1, &schema["type"]);
        message.message(22, &kind);
    }
    if let Some(items) = schema.get("items") {
        let mut item = Message::default();
        item.message(1, &self::schema(items));
        message.message(23, &item);
    }
    if let Some(properties) = schema.get("properties") {
        message.message(25, &named_schemas(properties));
    }
    message.extensions(31, schema);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn message_is_encoded_as_by_protoc() {
        let document = json!({
            "swagger": "2.0",
            "definitions": { "a": { "type": "string", "maxLength": 300, "x-b": { "c": true } } },
        });
        let expected = [
            // swagger, info, paths
            &b"\x0a\x032.0\x12\0\x42\0"[..],
            // definitions { additional_properties { name, value {
            b"\x4a\x2b\x0a\x29\x0a\x01a\x12\x24",
            // max_length, type { value }
            b"\x58\xac\x02\xb2\x01\x08\x0a\x06string",
            // vendor_extension { name, value { yaml } }
            b"\xfa\x01\x13\x0a\x03x-b\x12\x0c\x12\x0a{\"c\":true}",
        ];
        assert_eq!(encode(&document), expected.concat());
    }
}
