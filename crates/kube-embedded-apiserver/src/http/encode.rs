//! Encoding of objects and lists: whole, metadata only, or as a Table.

use crate::{
    http::{
        chunks::Chunks,
        decode,
        negotiation::{Form, Include, MetaVersion},
    },
    resources::{
        descriptions,
        resource_type::ResourceType,
        table_columns::{Column, NAME, OF_CREATION},
    },
    store::Object,
};
use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

/// Encodes a stored object.
pub(crate) fn object(resource: &ResourceType, form: Form, object: &Object) -> Bytes {
    match form {
        Form::Whole if resource.is_storage_version() => {
            let mut out = BytesMut::new();
            put_object(&mut out, resource, object);
            out.freeze()
        }
        _ => value(resource, form, &view(resource, &object.value)),
    }
}

/// Encodes an object that is not stored, or not in this form.
pub(crate) fn value(resource: &ResourceType, form: Form, value: &Value) -> Bytes {
    match form {
        Form::Whole => Bytes::from(value.to_string()),
        Form::Metadata(version) | Form::MetadataList(version) => {
            Bytes::from(metadata_only(value, version).to_string())
        }
        Form::Table(include, version) => {
            let meta = match &value["metadata"]["resourceVersion"] {
                // A dry run has none.
                Value::Null => json!({}),
                version => json!({ "resourceVersion": version }),
            };
            Bytes::from(table(resource, include, version, &[value], meta, true).to_string())
        }
    }
}

/// Encodes a list of stored objects. `meta` is the metadata of the list.
pub(crate) fn list(resource: &ResourceType, form: Form, objects: &[&Object], meta: Value) -> Bytes {
    if form == Form::Whole && resource.is_storage_version() {
        let mut out = BytesMut::with_capacity(256 + objects.len() * 1024);
        out.put_slice(
            format!(
                r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
                resource.list_kind(),
                resource.api_version()
            )
            .as_bytes(),
        );
        for (n, object) in objects.iter().enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            // Clients have no type for unstructured items, so each carries its kind.
            if resource.is_unstructured() {
                put_object(&mut out, resource, object);
            } else {
                out.put_slice(object.encoded(encode));
            }
        }
        out.put_slice(b"]}");
        return out.freeze();
    }
    let views: Vec<Value> = objects.iter().map(|object| view(resource, &object.value)).collect();
    let views: Vec<&Value> = views.iter().collect();
    values(resource, form, &views, meta)
}

fn values(resource: &ResourceType, form: Form, values: &[&Value], meta: Value) -> Bytes {
    let list = match form {
        Form::Whole => {
            let items: Vec<Value> = values
                .iter()
                .map(|value| {
                    let mut item = (*value).clone();
                    // Clients have no type for unstructured items, so each carries its kind.
                    if !resource.is_unstructured()
                        && let Some(fields) = item.as_object_mut()
                    {
                        fields.remove("kind");
                        fields.remove("apiVersion");
                    }
                    item
                })
                .collect();
            json!({
                "kind": resource.list_kind(),
                "apiVersion": resource.api_version(),
                "metadata": meta,
                "items": items,
            })
        }
        Form::Metadata(version) | Form::MetadataList(version) => {
            let items: Vec<Value> =
                values.iter().map(|value| metadata_only(value, version)).collect();
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": version.api_version(),
                "metadata": meta,
                "items": if items.is_empty() { Value::Null } else { items.into() },
            })
        }
        Form::Table(include, version) => table(resource, include, version, values, meta, true),
    };
    Bytes::from(list.to_string())
}

/// Writes a line of a watch. The `first` line of a Table has the column definitions.
pub(crate) fn watch_event(
    out: &mut Chunks,
    resource: &ResourceType,
    form: Form,
    event: &str,
    object: &Object,
    first: bool,
) {
    out.put(format!(r#"{{"type":"{event}","object":"#).as_bytes());
    match form {
        Form::Whole if resource.is_storage_version() => {
            out.put(type_fields(resource).as_bytes());
            out.put_shared(without_brace(object));
        }
        Form::Table(include, version) => {
            let view = view(resource, &object.value);
            let meta = json!({ "resourceVersion": view["metadata"]["resourceVersion"] });
            let table = table(resource, include, version, &[&view], meta, first);
            out.put(table.to_string().as_bytes());
        }
        _ => out.put(&value(resource, form, &view(resource, &object.value))),
    }
    out.put(b"}\n");
}

/// Returns the stored object as the resource type shows it.
pub(crate) fn view(resource: &ResourceType, stored: &Value) -> Value {
    let mut view = stored.clone();
    if !resource.is_storage_version() {
        resource.show(&mut view);
    }
    if resource.is_unstructured() || !resource.is_storage_version() {
        decode::set_type(resource, &mut view);
    }
    view
}

/// Encodes an object without kind and version. List items have none; elsewhere [`put_object`] writes them first.
fn encode(value: &Value) -> Bytes {
    struct Bare<'a>(&'a Value);
    impl Serialize for Bare<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let fields = self.0.as_object();
            let mut map = serializer.serialize_map(None)?;
            for (name, value) in fields.into_iter().flatten() {
                if name != "kind" && name != "apiVersion" {
                    map.serialize_entry(name, value)?;
                }
            }
            map.end()
        }
    }
    Bytes::from(serde_json::to_vec(&Bare(value)).unwrap_or_default())
}

fn put_object(out: &mut BytesMut, resource: &ResourceType, object: &Object) {
    out.put_slice(type_fields(resource).as_bytes());
    out.put_slice(&without_brace(object));
}

/// Returns the begin of an object, up to the comma after its type.
fn type_fields(resource: &ResourceType) -> String {
    format!(r#"{{"kind":"{}","apiVersion":"{}","#, resource.kind, resource.api_version())
}

/// Returns the fields that follow the type, and the closing brace. Every object has metadata.
fn without_brace(object: &Object) -> Bytes {
    let encoded = object.encoded(encode);
    encoded.slice(encoded.len().min(1)..)
}

fn metadata_only(value: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": value["metadata"],
    })
}

fn table(
    resource: &ResourceType,
    include: Include,
    version: MetaVersion,
    values: &[&Value],
    meta: Value,
    head: bool,
) -> Value {
    let columns = columns(resource);
    let own = resource.printer_columns();
    let mut definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": descriptions::of(column),
                "priority": column.priority,
            })
        })
        .collect();
    definitions.extend(own.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    }));
    let now = Timestamp::now();
    let rows: Vec<Value> = values
        .iter()
        .map(|value| {
            let mut cells: Vec<Value> =
                columns.iter().map(|column| (column.cell)(value, now)).collect();
            cells.extend(own.iter().map(|column| column.cell(value, now)));
            match include {
                Include::Nothing => json!({ "cells": cells, "object": null }),
                Include::Metadata => {
                    json!({ "cells": cells, "object": metadata_only(value, version) })
                }
                Include::Object => json!({ "cells": cells, "object": value }),
            }
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": meta,
        "columnDefinitions": if head { definitions.into() } else { Value::Null },
        "rows": rows,
    })
}

/// The column of types that have none of their own.
const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    priority: 0,
    description: OF_CREATION,
    cell: |object, _| object["metadata"]["creationTimestamp"].clone(),
};

/// Returns the columns of a type, with `Name` first unless the type places it itself.
fn columns(resource: &ResourceType) -> Vec<&'static Column> {
    if resource.is_unstructured() {
        return vec![&NAME];
    }
    let own: &'static [Column] = resource.columns;
    if own.is_empty() {
        return vec![&NAME, &CREATED];
    }
    if own.iter().any(|column| column.name == "Name") {
        return own.iter().collect();
    }
    std::iter::once(&NAME).chain(own).collect()
}
