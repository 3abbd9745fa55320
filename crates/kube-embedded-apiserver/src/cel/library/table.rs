//! The lines of the table of functions.

use crate::cel::{
    budget::{Budget, EvalError},
    value::Val,
};

/// What a function does. With arguments of other types it is [`EvalError::Overload`].
pub(super) type Run = for<'a, 'v> fn(&'v [Val<'a>], &mut Budget) -> Result<Val<'a>, EvalError>;

/// One line of the table: a name, `target.(arguments) result` for each overload, and what it does.
/// A type in angle brackets has its parameters separated by spaces.
pub(super) struct Row(pub(super) &'static str, pub(super) &'static [&'static str], pub(super) Run);
