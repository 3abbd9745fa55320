//! The types that expressions see of a schema (`SchemaDeclType` in `k8s.io/apiserver/pkg/cel/common`).

use crate::{
    cel::{
        RESERVED,
        types::{Field, ListType as CelList, Merge, ObjectType, Type},
    },
    schema::structural::schema::{Additional, ListType, Schema},
};
use std::{collections::BTreeMap, sync::Arc};

/// Returns the type of a node; `None` for what expressions do not see, since nothing is known of
/// it. `root` is true for a resource, whose metadata has names.
pub(super) fn declare(schema: &Schema, root: bool, name: &str) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    Some(match &*schema.type_name {
        "array" => {
            let items = schema.items.as_deref()?;
            let element = declare(items, items.embedded_resource, &format!("{name}.@idx"))?;
            let merge = match &schema.list {
                ListType::Atomic => Merge::Atomic,
                ListType::Set => Merge::Set,
                ListType::Map(keys) => Merge::Keyed(keys.clone()),
            };
            Type::List(Arc::new(CelList { element, merge }))
        }
        "object" => match &schema.additional {
            Additional::Like(like) => {
                let value = declare(like, like.embedded_resource, &format!("{name}.@elem"))?;
                Type::map(Type::Text, value)
            }
            _ => object(schema, root, name),
        },
        "string" => match &*schema.format {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::Text,
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => return None,
    })
}

fn object(schema: &Schema, root: bool, name: &str) -> Type {
    let mut fields = BTreeMap::new();
    for (given, below) in &schema.properties {
        let Some(escaped) = escape(given) else { continue };
        let declared = declare(below, below.embedded_resource, &format!("{name}.{escaped}"));
        if let Some(kind) = declared {
            fields.insert(escaped, Field { name: given.clone(), kind });
        }
    }
    if root {
        let text =
            |name: &str| (name.to_owned(), Field { name: name.to_owned(), kind: Type::Text });
        let names = ["name", "generateName"].into_iter().map(text).collect();
        let metadata = ObjectType { name: format!("{name}.metadata"), fields: names };
        fields.extend(["kind", "apiVersion"].into_iter().map(text));
        let kind = Type::Object(Arc::new(metadata));
        fields.insert("metadata".to_owned(), Field { name: "metadata".to_owned(), kind });
    }
    Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields }))
}

/// Returns the type of a property of an object.
pub(super) fn child(kind: &Type, name: &str, schema: &Schema) -> Option<Type> {
    match (kind, escape(name)) {
        (Type::Object(of), Some(escaped)) => of.fields.get(&escaped).map(|f| f.kind.clone()),
        // A name that expressions cannot write.
        (_, None) => declare(schema, schema.embedded_resource, "selfType"),
        _ => None,
    }
}

/// Returns the type of the elements of a list or of the values of a map.
pub(super) fn element(kind: &Type) -> Option<Type> {
    match kind {
        Type::List(of) => Some(of.element.clone()),
        Type::Map(of) => Some(of.1.clone()),
        _ => None,
    }
}

/// Words that are escaped as a whole, besides those that the language reserves.
const LITERALS: [&str; 4] = ["true", "false", "null", "in"];

/// Returns the name by which expressions access a property; `None` if they cannot.
pub(super) fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if LITERALS.contains(&name) || RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (part, width) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '-' => ("__dash__", 1),
            '.' => ("__dot__", 1),
            '/' => ("__slash__", 1),
            c if c.is_ascii_alphanumeric() || c == '_' => (&rest[..1], 1),
            _ => return None,
        };
        escaped.push_str(part);
        rest = &rest[width..];
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_in_kubernetes() {
        for (name, escaped) in [
            ("a", Some("a")),
            ("namespace", Some("__namespace__")),
            ("a-b", Some("a__dash__b")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("_a", Some("_a")),
            ("___", Some("__underscores___")),
            ("1a", None),
            ("a b", None),
            ("ä", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }
}
