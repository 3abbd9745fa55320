//! The table of messages, parsed once from `messages.txt`.

use std::{collections::HashMap, sync::OnceLock};

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// The name in JSON; empty if the fields of the message are inlined.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) of: Type,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Omitted if zero, as the encoding does not distinguish zero from absent.
    Plain,
    /// Only sent if set: zero counts.
    Pointer,
    List,
    /// A map with string keys.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Float,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON within the bytes.
    Json,
    Message(&'static str),
    /// A message that is represented by one of its fields.
    Either(&'static str),
}

/// Returns the fields of a message, by its name in the table.
pub(crate) fn message(name: &str) -> Option<&'static [Field]> {
    all().get(name).map(Vec::as_slice)
}

/// Returns the name of a kind's message.
pub(crate) fn of_kind(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let group = group.split('.').next().unwrap_or_default();
    let names = [format!("{group}.{version}.{kind}"), format!("{group}.{kind}"), kind.to_owned()];
    names.iter().find_map(|name| all().get_key_value(name.as_str())).map(|(name, _)| *name)
}

pub(crate) fn all() -> &'static HashMap<&'static str, Vec<Field>> {
    static ALL: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    ALL.get_or_init(|| parse(include_str!("messages.txt")))
}

/// Parses the table. A test ensures that every line parses.
fn parse(text: &'static str) -> HashMap<&'static str, Vec<Field>> {
    let mut all = HashMap::<_, Vec<Field>>::new();
    let mut owner = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        if !line.starts_with(' ') {
            owner = words.next().unwrap_or_default();
        }
        all.entry(owner).or_default().extend(words.filter_map(field));
    }
    all
}

fn field(word: &'static str) -> Option<Field> {
    let (number, rest) = word.split_once(':')?;
    let (name, of) = rest.split_once(':')?;
    let (shape, of) = match (of.strip_prefix("[]"), of.strip_prefix("{}"), of.strip_prefix('*')) {
        (Some(of), ..) => (Shape::List, of),
        (_, Some(of), _) => (Shape::Map, of),
        (.., Some(of)) => (Shape::Pointer, of),
        _ => (Shape::Plain, of),
    };
    let of = match of {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "Time" => Type::Time,
        "MicroTime" => Type::MicroTime,
        "Quantity" => Type::Quantity,
        "IntOrString" => Type::IntOrString,
        "double" => Type::Float,
        "FieldsV1" | "JSON" => Type::Json,
        either if either.starts_with("JSONSchemaPropsOr") || either == "ExtraValue" => {
            Type::Either(either)
        }
        message => Type::Message(message),
    };
    let name = if name == "-" { "" } else { name };
    Some(Field { number: number.parse().ok()?, name, shape, of })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        resources::registry,
        schema::types::{self, Structure},
    };
    use std::collections::{BTreeMap, BTreeSet};

    /// Returns name and JSON type of every field, including those of inlined messages.
    fn fields_of(name: &str) -> BTreeMap<&'static str, String> {
        let mut found = BTreeMap::new();
        for field in message(name).unwrap() {
            match (field.name, field.of) {
                ("", Type::Message(inlined)) => found.extend(fields_of(inlined)),
                ("", _) => panic!("{name}: {field:?}"),
                _ => {
                    let of = match field.of {
                        // Without fields there is nothing to compare.
                        Type::Message(of) if message(of).is_some_and(<[_]>::is_empty) => {
                            "Any".into()
                        }
                        Type::Message(_) => "Struct".into(),
                        Type::Json | Type::Either(_) => "Any".into(),
                        of => format!("{of:?}"),
                    };
                    let shape = match field.shape {
                        Shape::List => format!("List({of})"),
                        Shape::Map => format!("Map({of})"),
                        _ => of,
                    };
                    found.insert(field.name, shape);
                }
            }
        }
        found
    }

    fn shape(of: &types::Shape) -> String {
        match of {
            types::Shape::Boolean => "Bool".into(),
            types::Shape::Struct(_) => "Struct".into(),
            types::Shape::List(of) => format!("List({})", shape(of)),
            types::Shape::Map(of) => format!("Map({})", shape(of)),
            other => format!("{other:?}"),
        }
    }

    /// Walks message and structure side by side, as a decoded object would be checked.
    fn compare(name: &'static str, structure: &Structure, seen: &mut BTreeSet<&'static str>) {
        if !seen.insert(name) {
            return;
        }
        let there: BTreeMap<&str, String> = fields_of(name);
        let known: BTreeMap<&str, String> = structure
            .fields
            .iter()
            .filter(|field| {
                !matches!(field.name.as_str(), "kind" | "apiVersion")
                    || there.contains_key(field.name.as_str())
            })
            .map(|field| (field.name.as_str(), shape(&field.shape)))
            .collect();
        assert_eq!(there, known, "{name} and {}", structure.name);
        below(name, structure, seen);
    }

    fn below(name: &'static str, structure: &Structure, seen: &mut BTreeSet<&'static str>) {
        for field in message(name).unwrap() {
            let Type::Message(of) = field.of else { continue };
            if message(of).unwrap().is_empty() {
                continue;
            }
            if field.name.is_empty() {
                below(of, structure, seen);
                continue;
            }
            let mut shape = &structure.field(field.name).unwrap().shape;
            if let types::Shape::List(of) | types::Shape::Map(of) = shape {
                shape = of;
            }
            compare(of, shape.structure().unwrap(), seen);
        }
    }

    #[test]
    fn table_matches_schema_of_every_kind() {
        let mut seen = BTreeSet::new();
        for resource in registry::all() {
            let name = of_kind(&resource.api_version(), resource.kind).expect(resource.kind);
            compare(name, resource.structure(), &mut seen);
        }
        assert!(seen.len() > 100, "{}", seen.len());
    }

    #[test]
    fn table_parses_and_references_resolve() {
        let text = include_str!("messages.txt");
        let words = text.lines().filter(|line| !line.starts_with('#'));
        let words = words.flat_map(str::split_whitespace).filter(|word| word.contains(':'));
        assert_eq!(words.count(), all().values().map(Vec::len).sum::<usize>());
        for (name, fields) in all() {
            let numbers: BTreeSet<u32> = fields.iter().map(|field| field.number).collect();
            assert_eq!(numbers.len(), fields.len(), "{name}");
            for field in fields {
                let (Type::Message(of) | Type::Either(of)) = field.of else { continue };
                assert!(message(of).is_some(), "{name}: {of}");
            }
        }
    }
}
