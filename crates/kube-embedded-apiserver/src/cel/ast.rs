//! The syntax tree.

use crate::cel::library::Function;

/// An expression, and where it is in the source, in characters.
#[derive(Debug)]
pub(super) struct Expr {
    /// Unique in the expression.
    pub(super) id: usize,
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// The nesting below it, which the parser limits.
    pub(super) depth: usize,
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
    SortBy,
    /// `optMap` and `optFlatMap` of optionals.
    OptMap,
    OptFlatMap,
}

impl MacroKind {
    /// Returns true if its value is made of all elements that are kept.
    pub(super) fn collects(self) -> bool {
        matches!(self, Self::Filter | Self::Map | Self::TransformMap | Self::SortBy)
    }
}
