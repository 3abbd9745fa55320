//! The syntax tree.

use crate::cel::library::{self, Function};

/// An expression, and where it is in the source, in characters.
#[derive(Debug)]
pub(super) struct Expr {
    /// Unique in the expression.
    pub(super) id: usize,
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// It has the same value always, and costs nothing, because cel-go evaluates it beforehand.
    pub(super) is_constant: bool,
    /// The nesting below it, which the parser limits.
    pub(super) depth: usize,
}

impl Expr {
    /// Returns the text of a literal.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns true for what cel-go calls an attribute: a variable, and selections and indices
    /// after any value. Their costs are those of their parts.
    pub(super) fn is_attribute(&self) -> bool {
        match &self.kind {
            Kind::Ident(_) => !self.is_constant,
            Kind::Select { .. } | Kind::Conditional(_) => true,
            Kind::Call { name, .. } => matches!(&**name, "_[_]" | "_[?_]"),
            _ => false,
        }
    }

    /// Returns true for an attribute that costs an access of its own, which is not counted where
    /// the attribute is part of another.
    pub(super) fn has_own_access(&self) -> bool {
        self.is_attribute() && !matches!(self.kind, Kind::Conditional(_))
    }
}

/// Functions that cel-go calls beforehand if their argument is a constant.
const CONVERSIONS: [&str; 10] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

impl Kind {
    /// Returns true if it has the same value always.
    pub(super) fn is_constant(&self) -> bool {
        match self {
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Uint(_)
            | Self::Double(_)
            | Self::Text(_)
            | Self::Bytes(_) => true,
            Self::Ident(name) => library::is_type(name),
            Self::List(all) => all.iter().all(|(one, optional)| one.is_constant && !optional),
            Self::Map(all) => all.iter().all(|(key, value)| key.is_constant && value.is_constant),
            Self::Call { name, args, .. } => {
                CONVERSIONS.contains(&&**name) && matches!(&args[..], [one] if one.is_constant)
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Ident(String),
    /// `of.field`, or `of.?field`.
    Select {
        of: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// `has(of.field)`.
    Has {
        of: Box<Expr>,
        field: String,
    },
    /// A function; its target, if it has one, is the first argument.
    Call {
        name: String,
        /// Not set if there is none of the name.
        function: Option<&'static Function>,
        method: bool,
        args: Vec<Expr>,
    },
    /// More than two operands are one node, so that a long rule is not a deep one.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Conditional(Box<[Expr; 3]>),
    /// Elements, and whether an empty optional is left out.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr)>),
    Macro(Box<Macro>),
}

/// A comprehension over a list or the keys of a map.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) kind: MacroKind,
    pub(super) over: Expr,
    pub(super) variable: String,
    /// The variable for the value, when the first is for the index or key.
    pub(super) second: Option<String>,
    /// A condition, or a condition and a value.
    pub(super) condition: Option<Expr>,
    pub(super) body: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformMap,
    /// The entries of maps, whose keys all differ.
    TransformMapEntry,
    SortBy,
    /// `optMap` and `optFlatMap` of optionals.
    OptMap,
    OptFlatMap,
}

impl MacroKind {
    /// Returns true if its value is made of all elements that are kept.
    pub(super) fn collects(self) -> bool {
        self.makes_map() || matches!(self, Self::Filter | Self::Map | Self::SortBy)
    }

    /// Returns true if its value is a map.
    pub(super) fn makes_map(self) -> bool {
        matches!(self, Self::TransformMap | Self::TransformMapEntry)
    }
}
