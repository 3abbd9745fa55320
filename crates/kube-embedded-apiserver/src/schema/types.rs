//! The terms in which schemas are written: the fields of a structure, their types, and how their
//! values merge.
//!
//! Kubernetes has them as Go types with `+listType`, `+mapType` and `patchStrategy` markers, and
//! for server-side apply as `sigs.k8s.io/structured-merge-diff/schema`. This file is a leaf: the
//! rest of `schema` and all of `patch` import it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Any JSON value (`RawExtension`, `FieldsV1`).
    Any,
    Boolean,
    Int32,
    Int64,
    Float,
    String,
    /// Base64.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// A structure of a built-in type.
    Struct(StructureRef),
    /// A structure that occurs once, in the schema of a custom resource.
    Inline(Arc<Structure>),
    /// Decided by the value: a map whose entries have owners of their own, or a scalar or list
    /// owned as a whole (`__untyped_deduced_` in structured-merge-diff).
    Deduced,
}

impl Shape {
    /// Returns the structure of a value of this type, if it is one.
    pub(crate) fn structure(&self) -> Option<&Structure> {
        match self {
            Self::Struct(reference) => reference.get(),
            Self::Inline(structure) => Some(structure),
            _ => None,
        }
    }
}

/// A reference to a structure of a built-in type. Such structures live as long as the process.
///
/// A cell instead of a plain reference, because types refer to themselves (`JSONSchemaProps`): the
/// references of a structure are made before the structures that they refer to.
#[derive(Clone, Copy)]
pub(crate) struct StructureRef(&'static OnceLock<Structure>);

impl StructureRef {
    /// Creates a reference to a structure that is to be set later, by [`StructureRef::set`].
    pub(crate) fn unset() -> Self {
        // Leaked on purpose: a few hundred, made once and used until the process exits.
        Self(Box::leak(Box::default()))
    }

    /// Sets the structure; the first call counts.
    pub(crate) fn set(self, structure: Structure) {
        let _ = self.0.set(structure);
    }

    /// Returns the structure, once it is set.
    pub(crate) fn get(self) -> Option<&'static Structure> {
        self.0.get()
    }
}

impl PartialEq for StructureRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl fmt::Debug for StructureRef {
    /// The name alone: a structure that refers to itself would have no end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get().map_or("unset", |structure| &structure.name))
    }
}

/// How the parts of a value are owned in server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One owner for the whole value. The default of lists.
    Atomic,
    /// One owner for each field of a structure or entry of a map.
    Granular,
    /// A list of distinct scalars, each with its owner (`+listType=set`).
    Set,
    /// A list of objects that are identified by these fields (`+listType=map`).
    Keyed(&'static [&'static str]),
    /// [`Topology::Keyed`], with keys and their defaults from the schema of a custom resource.
    KeyedBy(Arc<[(String, Option<Value>)]>),
}

/// How a strategic merge patch treats a field. A list without one is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PatchStrategy {
    /// The merge key; `None` for lists of scalars and for structures. Unlike server-side apply, a
    /// patch knows one key for a list, so container ports merge by `containerPort` alone.
    pub(crate) key: Option<&'static str>,
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// Clients send `$retainKeys`.
    pub(crate) retain_keys: bool,
}

/// How Go encodes a field that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset {
    /// Left out, as are `""`, 0 and false: `omitempty`, and no pointer.
    Omitted,
    /// Written with `""`, 0 or false.
    Zero,
    /// Written as null: a list, a pointer or a time without `omitempty`.
    Null,
}

/// What the Go type of a field says that a JSON schema does not. Of custom resources, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GoField {
    /// How the field is encoded that has no value; `None` where the table says nothing.
    pub(crate) unset: Option<Unset>,
    /// The type of the field or of its elements, if it is a named scalar: `v1.RestartPolicy`.
    pub(crate) scalar: Option<&'static str>,
    /// The embedded struct that the field is of, as messages name it: `IngressRuleValue`.
    pub(crate) embedded: Option<&'static str>,
}

/// A field of a structure.
#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) topology: Topology,
    pub(crate) strategy: Option<PatchStrategy>,
    /// Kubernetes encodes the field even if it is empty, because its Go type is a structure or a
    /// list without `omitempty`.
    pub(crate) always: bool,
    /// What Go's type says of it besides.
    pub(crate) go: GoField,
}

/// An object with named fields: a Go struct, or an `object` in the schema of a custom resource.
#[derive(Debug, PartialEq)]
pub(crate) struct Structure {
    /// `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: String,
    /// Sorted by name.
    pub(crate) fields: Vec<Field>,
    /// The type of fields that are not named; without it, there are none.
    pub(crate) other: Option<Box<Field>>,
}

impl Structure {
    /// Returns the field of a name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match self.fields.binary_search_by(|field| field.name.as_str().cmp(name)) {
            Ok(at) => self.fields.get(at),
            Err(_) => self.other.as_deref(),
        }
    }

    /// `PodSpec`.
    pub(crate) fn short_name(&self) -> &str {
        short_name(&self.name)
    }
}

/// Returns the last part of a definition's name: `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
pub(crate) fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// Returns the full name of the definition that a JSON schema refers to.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

/// Returns the type of a value as Go's JSON decoder names it: `string`, `object`, …
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
