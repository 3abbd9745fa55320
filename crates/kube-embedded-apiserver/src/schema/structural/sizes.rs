//! The sizes that the values of a schema may have (`SchemaDeclType` in
//! `k8s.io/apiserver/pkg/cel/common`), by which the cost of rules is estimated. Where the schema
//! sets no limit, the size of a request does.

use crate::{
    cel::cost::{Inside, Sizes},
    schema::structural::{
        declarations::escape,
        schema::{Additional, Schema},
    },
};

/// The limit to the size of a request, in bytes. Kubernetes takes it to be fixed.
pub(super) const REQUEST: u64 = 3 * 1024 * 1024;

/// The sizes of values, and of the shortest JSON of one.
pub(super) struct Declared {
    pub(super) sizes: Sizes,
    pub(super) shortest: u64,
}

impl Declared {
    fn new(max: u64, shortest: u64, inside: Inside) -> Self {
        Self { sizes: Sizes { max, inside }, shortest }
    }

    fn text(max: u64, shortest: u64) -> Self {
        Self::new(max, shortest, Inside::Nothing)
    }

    /// How often a value fits into a request, with a comma after each.
    pub(super) fn count_in_request(&self) -> u64 {
        REQUEST / self.shortest.saturating_add(1)
    }
}

/// Returns the sizes of a node; `None` for what expressions do not see. `root` is true for a
/// resource, whose metadata has names.
pub(super) fn declare_sizes(schema: &Schema, root: bool) -> Option<Declared> {
    // A character has up to four bytes.
    let max_length = schema.length.max.map(|max| max.saturating_mul(4));
    let unlimited = REQUEST - 2;
    if schema.int_or_string {
        return Some(Declared::text(max_length.unwrap_or(unlimited), 1));
    }
    Some(match (&*schema.type_name, &*schema.format) {
        ("array", _) => {
            let items = schema.items.as_deref()?;
            let Declared { sizes, shortest } = declare_sizes(items, items.embedded_resource)?;
            let fits = (REQUEST - 2) / shortest.saturating_add(1);
            let max = schema.items_count.max.unwrap_or(fits);
            Declared::new(max, 2, Inside::Elements(Box::new(sizes)))
        }
        ("object", _) => match &schema.additional {
            Additional::Like(like) => {
                let Declared { sizes, shortest } = declare_sizes(like, like.embedded_resource)?;
                // With the shortest key, its quotes, a colon and a comma.
                let fits = (REQUEST - 2) / shortest.saturating_add(6);
                let max = schema.properties_count.max.unwrap_or(fits);
                Declared::new(max, 2, Inside::Values(Box::new(sizes)))
            }
            _ => object(schema, root),
        },
        ("string", "byte") => Declared::text(schema.length.max.unwrap_or(unlimited), 2),
        ("string", "duration") => Declared::text(32, 3),
        ("string", "date") => Declared::text(12, 12),
        ("string", "date-time") => Declared::text(32, 21),
        ("string", _) => {
            let lengths = schema.allowed.iter().filter_map(|one| Some(one.as_str()?.len() as u64));
            let of_enum = (!schema.allowed.is_empty()).then(|| lengths.max().unwrap_or(0));
            Declared::text(max_length.or(of_enum).unwrap_or(unlimited), 2)
        }
        ("boolean", _) => Declared::text(0, 4),
        ("number" | "integer", _) => Declared::text(0, 1),
        _ => return None,
    })
}

fn object(schema: &Schema, root: bool) -> Declared {
    let mut fields = std::collections::BTreeMap::new();
    let mut shortest: u64 = 2;
    let replaced = root && !has_meta(schema);
    let mut add = |name: &str, below: Declared, has_default: bool| {
        if !has_default && schema.required.iter().any(|required| required == name) {
            let quoted = name.len() as u64 + 4;
            shortest = shortest.saturating_add(below.shortest).saturating_add(quoted);
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, below.sizes);
        }
    };
    for (name, below) in &schema.properties {
        if replaced && matches!(&**name, "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(declared) = declare_sizes(below, below.embedded_resource) {
            add(name, declared, below.default.is_some());
        }
    }
    if replaced {
        let text = || Declared::text(REQUEST - 2, 2);
        let names = ["name", "generateName"].map(|name| (name.to_owned(), text().sizes));
        let metadata = Declared::new(0, 2, Inside::Fields(names.into_iter().collect()));
        add("metadata", metadata, false);
        add("apiVersion", text(), false);
        add("kind", text(), false);
    }
    Declared::new(0, shortest, Inside::Fields(fields))
}

/// Returns true if the schema of a resource declares all that rules see of its metadata.
fn has_meta(schema: &Schema) -> bool {
    let is = |of: &Schema, name: &str, kind: &str| {
        of.properties.get(name).is_some_and(|field| field.type_name == kind)
    };
    let metadata = schema.properties.get("metadata");
    is(schema, "kind", "string")
        && is(schema, "apiVersion", "string")
        && is(schema, "metadata", "object")
        && metadata.is_some_and(|of| is(of, "name", "string") && is(of, "generateName", "string"))
}
