//! How a value divides into parts that have owners of their own, and the set of an object's fields
//! (`structured-merge-diff/typed`: `TypedValue.ToFieldSet`).

use serde_json::{Map, Value};

use crate::{
    patch::field_set::FieldSet,
    schema::{
        merge_keys::is_atomic_structure,
        types::{Field, Shape, Structure, Topology},
    },
};

/// The parts of a value, by its type and topology.
pub(crate) enum Parts<'a> {
    /// None: the value has one owner.
    Leaf,
    /// The fields of a structure.
    Struct(&'a Structure),
    /// The entries of a map.
    Map(&'a Shape),
    /// The elements of a list, identified by keys.
    Keyed(&'a Shape, Keys<'a>),
    /// The distinct scalars of a list.
    Set,
}

/// The fields that identify the elements of a list.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'a> {
    BuiltIn(&'static [&'static str]),
    CustomResource(&'a [(String, Option<Value>)]),
}

impl<'a> Keys<'a> {
    /// Returns the keys and their defaults. Those of built-in types are the zero values, or `TCP`: applied objects
    /// are not defaulted, but a port without a protocol must be the same port as the stored one.
    fn each(self) -> impl Iterator<Item = (&'a str, Option<Value>)> {
        let (built_in, custom): (&[&str], &[(String, Option<Value>)]) = match self {
            Self::BuiltIn(keys) => (keys, &[]),
            Self::CustomResource(keys) => (&[], keys),
        };
        let default = |key: &str| {
            Some(match key {
                "protocol" => "TCP".into(),
                "containerPort" | "port" => 0.into(),
                _ => "".into(),
            })
        };
        let built_in = built_in.iter().map(move |key| (*key, default(key)));
        built_in.chain(custom.iter().map(|(key, default)| (key.as_str(), default.clone())))
    }
}

/// Returns the parts of a field's value.
pub(crate) fn parts_of(field: &Field) -> Parts<'_> {
    parts(&field.shape, Some(&field.topology))
}

/// Returns the parts of a value; elements of maps and lists have no topology of their own.
pub(crate) fn parts<'a>(shape: &'a Shape, topology: Option<&'a Topology>) -> Parts<'a> {
    match (shape, topology) {
        // `+structType=atomic`, of an element. That of a field is in its topology.
        (Shape::Struct(reference), None)
            if reference.get().is_some_and(|structure| is_atomic_structure(&structure.name)) =>
        {
            Parts::Leaf
        }
        (Shape::Struct(_) | Shape::Inline(_), None | Some(Topology::Granular)) => {
            shape.structure().map_or(Parts::Leaf, Parts::Struct)
        }
        (Shape::Map(element), None | Some(Topology::Granular)) => Parts::Map(element),
        (Shape::Deduced, None | Some(Topology::Granular)) => Parts::Map(shape),
        (Shape::List(element), Some(Topology::Keyed(keys))) => {
            Parts::Keyed(element, Keys::BuiltIn(keys))
        }
        (Shape::List(element), Some(Topology::KeyedBy(keys))) => {
            Parts::Keyed(element, Keys::CustomResource(keys))
        }
        (Shape::List(_), Some(Topology::Set)) => Parts::Set,
        _ => Parts::Leaf,
    }
}

/// Returns the path element of an element of a keyed list.
pub(crate) fn key_step(item: &Value, keys: Keys<'_>) -> String {
    format!("k:{}", Value::Object(key_of(item, keys)))
}

fn key_of(item: &Value, keys: Keys<'_>) -> Map<String, Value> {
    let mut step = Map::new();
    for (key, default) in keys.each() {
        if let Some(value) = item.get(key).cloned().or(default) {
            step.insert(key.to_owned(), value);
        }
    }
    step
}

/// Returns the path element of an element of a list; none if the list has one owner.
///
/// # Errors
/// If nothing identifies the element, in the words of `fieldpath`.
pub(crate) fn element_step(list: &Parts<'_>, item: &Value) -> Result<Option<String>, String> {
    match (list, item) {
        (Parts::Keyed(..), Value::Null) => {
            Err("associative list with keys may not have a null element".to_owned())
        }
        (Parts::Keyed(_, keys), Value::Object(_)) => {
            let step = key_of(item, *keys);
            if step.is_empty() {
                let keys: Vec<String> = keys.each().map(|(key, _)| format!("{key:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and \
                     doesn't have default values for any key fields)",
                    keys.join(" ")
                ));
            }
            Ok(Some(format!("k:{}", Value::Object(step))))
        }
        (Parts::Keyed(..), _) => {
            Err("associative list with keys may not have non-map elements".to_owned())
        }
        (Parts::Set, Value::Null) => {
            Err("associative list without keys has an element that's an explicit null".to_owned())
        }
        (Parts::Set, Value::Object(_)) => {
            Err("associative list without keys has an element that's a map type".to_owned())
        }
        (Parts::Set, Value::Array(_)) => {
            Err("not supported: associative list with lists as elements".to_owned())
        }
        (Parts::Set, _) => Ok(Some(format!("v:{item}"))),
        _ => Ok(None),
    }
}

/// Returns the set of all fields of an object, which the manager that applies it owns.
pub(crate) fn fields_of(structure: &Structure, object: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    add_fields(&Parts::Struct(structure), object, &mut set);
    set.member = false;
    set
}

/// Adds the fields of a value to its node in the set.
fn add_fields(parts_here: &Parts<'_>, value: &Value, set: &mut FieldSet) {
    match (parts_here, value) {
        (Parts::Struct(structure), Value::Object(object)) => {
            for (name, value) in object {
                let Some(field) = structure.field(name) else { continue };
                let mut child = FieldSet::default();
                add_fields(&parts_of(field), value, &mut child);
                // A structure is a member only if it has no fields that could be.
                let empty = value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || value.is_null();
                // An empty list has no elements to own. Its node must not be kept: `fieldsV1` does
                // not distinguish it from a member, so the next apply would find other fields.
                if !child.is_empty() {
                    set.children.insert(format!("f:{name}"), child);
                }
            }
        }
        (Parts::Map(element), Value::Object(object)) => {
            for (name, value) in object {
                let child = set.child(format!("f:{name}"));
                child.member = true;
                add_fields(&parts(element, None), value, child);
            }
        }
        (Parts::Keyed(element, keys), Value::Array(items)) => {
            for item in items {
                let child = set.child(key_step(item, *keys));
                child.member = true;
                add_fields(&parts(element, None), item, child);
            }
        }
        (Parts::Set, Value::Array(items)) => {
            for item in items {
                set.child(format!("v:{item}")).member = true;
            }
        }
        _ => set.member = true,
    }
}
