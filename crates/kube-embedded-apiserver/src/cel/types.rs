//! The types of expressions.

use crate::cel::lexer::RESERVED;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    sync::{Arc, LazyLock},
};

/// The type of a value.
#[derive(Clone, Debug)]
#[expect(clippy::enum_variant_names, reason = "`type` is a type of CEL")]
pub(crate) enum Type {
    /// Any; checked when it is evaluated.
    Dyn,
    /// That of a part with an error, which has no more errors because of it.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<ListType>),
    Map(Arc<(Type, Type)>),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type,
    /// A type of a library: `net.IP`.
    Opaque(&'static str),
    /// The type parameter of a function.
    Param(u8),
}

/// A list, and how it merges: what is equal, and what `+` does, depends on it.
#[derive(Debug)]
pub(crate) struct ListType {
    pub(crate) element: Type,
    pub(crate) merge: Merge,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Merge {
    Atomic,
    Set,
    Keyed(Vec<String>),
}

/// An object with named fields.
#[derive(Clone, Debug)]
pub(crate) struct ObjectType {
    pub(crate) name: String,
    /// By their names in expressions.
    pub(crate) fields: BTreeMap<String, Field>,
}

impl ObjectType {
    /// Returns the field of a name as an expression writes it. A reserved word need not be escaped, since Kubernetes 1.31.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).or_else(|| {
            let escaped = RESERVED.contains(&name).then(|| format!("__{name}__"))?;
            self.fields.get(&escaped)
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// The name in the object.
    pub(crate) name: String,
    pub(crate) kind: Type,
}

/// The types of libraries, by their names in the table of functions.
const OPAQUE: [(&str, &str); 11] = [
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("url", "kubernetes.URL"),
    ("quantity", "kubernetes.Quantity"),
    ("format", "kubernetes.NamedFormat"),
    ("semver", "kubernetes.Semver"),
    ("regex", "regex"),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", RESOURCE_CHECK),
    ("decision", "kubernetes.authorization.Decision"),
];

const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";

/// The type of the variable `authorizer`. In Kubernetes, its field is a variable of its own, with a dot in its name.
static AUTHORIZER: LazyLock<Type> = LazyLock::new(|| {
    let field = ("requestResource", Type::Opaque(RESOURCE_CHECK));
    Type::object("kubernetes.authorization.Authorizer", [field])
});

impl Type {
    pub(crate) fn list(element: Self) -> Self {
        Self::List(Arc::new(ListType { element, merge: Merge::Atomic }))
    }

    pub(crate) fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub(crate) fn optional(of: Self) -> Self {
        Self::Optional(Arc::new(of))
    }

    /// An object whose fields have the same names in expressions.
    pub(crate) fn object<'n>(
        name: &str,
        fields: impl IntoIterator<Item = (&'n str, Self)>,
    ) -> Self {
        let fields = fields
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), Field { name: name.to_owned(), kind }));
        Self::Object(Arc::new(ObjectType { name: name.to_owned(), fields: fields.collect() }))
    }

    /// Adds a field to an object, or replaces the one of the name.
    pub(crate) fn set_field(&mut self, name: &str, kind: Self) {
        if let Self::Object(of) = self {
            let field = Field { name: name.to_owned(), kind };
            Arc::make_mut(of).fields.insert(name.to_owned(), field);
        }
    }

    /// The type of the variable `authorizer`.
    pub(crate) fn authorizer() -> Self {
        AUTHORIZER.clone()
    }

    /// Parses a type of the table of functions: `list<A>`, `string`.
    pub(super) fn parse(text: &str) -> Self {
        if let Some((name, inside)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
            return match (name, inside.split_once(' ')) {
                ("list", _) => Self::list(Self::parse(inside)),
                ("optional", _) => Self::optional(Self::parse(inside)),
                (_, Some((key, value))) => Self::map(Self::parse(key), Self::parse(value)),
                _ => Self::Dyn,
            };
        }
        match text {
            "null" => Self::Null,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::Text,
            "bytes" => Self::Bytes,
            "duration" => Self::Duration,
            "timestamp" => Self::Timestamp,
            "type" => Self::Type,
            "authorizer" => Self::authorizer(),
            "A" => Self::Param(0),
            "B" => Self::Param(1),
            _ => match OPAQUE.iter().find(|(name, _)| *name == text) {
                Some((_, name)) => Self::Opaque(name),
                None => Self::Dyn,
            },
        }
    }

    /// Returns true if a value of the other type is one of this type. Binds type parameters.
    pub(super) fn accepts(&self, other: &Self, bound: &mut [Option<Self>; 2]) -> bool {
        match (self, other) {
            (Self::Param(n), _) => match bound.get(usize::from(*n)).cloned().flatten() {
                // An empty list, or a value of any type, does not decide.
                Some(known) if other.accepts(&known, &mut [None, None]) && known.is_vague() => {
                    bound[usize::from(*n)] = Some(other.clone());
                    true
                }
                Some(known) => known.accepts(other, &mut [None, None]),
                None => {
                    bound[usize::from(*n)] = Some(other.clone());
                    true
                }
            },
            (Self::Dyn | Self::Error, _) | (_, Self::Dyn | Self::Error) => true,
            (Self::List(a), Self::List(b)) => a.element.accepts(&b.element, bound),
            (Self::Map(a), Self::Map(b)) => a.0.accepts(&b.0, bound) && a.1.accepts(&b.1, bound),
            (Self::Optional(a), Self::Optional(b)) => a.accepts(b, bound),
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b),
            (Self::Null, other) if other.is_nullable() => true,
            (this, Self::Null) if this.is_nullable() => true,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Returns the name that its values give as their type.
    pub(super) fn runtime_name(&self) -> String {
        match self {
            Self::Null => "null_type".to_owned(),
            Self::List(_) => "list".to_owned(),
            Self::Map(_) => "map".to_owned(),
            Self::Optional(_) => "optional_type".to_owned(),
            Self::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Self::Duration => "google.protobuf.Duration".to_owned(),
            other => other.to_string(),
        }
    }

    /// Replaces type parameters.
    pub(super) fn substitute(&self, bound: &[Option<Self>; 2]) -> Self {
        match self {
            Self::Param(n) => bound.get(usize::from(*n)).cloned().flatten().unwrap_or(Self::Dyn),
            Self::List(list) => Self::list(list.element.substitute(bound)),
            Self::Map(of) => Self::map(of.0.substitute(bound), of.1.substitute(bound)),
            Self::Optional(of) => Self::optional(of.substitute(bound)),
            other => other.clone(),
        }
    }

    /// Returns true if `null` is a value of the type, as far as checking goes.
    fn is_nullable(&self) -> bool {
        matches!(
            self,
            Self::Object(_)
                | Self::Duration
                | Self::Timestamp
                | Self::Opaque(_)
                | Self::Optional(_)
        )
    }

    fn is_vague(&self) -> bool {
        match self {
            Self::Dyn | Self::Error | Self::Null => true,
            Self::List(list) => list.element.is_vague(),
            Self::Map(of) => of.0.is_vague() || of.1.is_vague(),
            Self::Optional(of) => of.is_vague(),
            _ => false,
        }
    }
}

impl Display for Type {
    /// As cel-go's messages name it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "dyn",
            Self::Error => "!error!",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::Opaque(name) => name,
            Self::Object(of) => &of.name,
            Self::List(list) => return write!(f, "list({})", list.element),
            Self::Map(of) => return write!(f, "map({}, {})", of.0, of.1),
            Self::Optional(of) => return write!(f, "optional_type({of})"),
            Self::Param(n) => return write!(f, "{}", if *n == 0 { "A" } else { "B" }),
        })
    }
}
