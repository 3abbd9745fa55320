//! The sizes that the values of variables may have, as their schema limits them.

use super::path::Step;
use std::collections::BTreeMap;

/// The sizes of a value and of what is inside.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// The greatest number of bytes or elements; 0 for an object with fields, a number and a flag.
    pub(crate) max: u64,
    pub(crate) inside: Inside,
}

/// The sizes of what is inside a value.
#[derive(Debug)]
pub(crate) enum Inside {
    Nothing,
    /// By their names in expressions.
    Fields(BTreeMap<String, Sizes>),
    Elements(Box<Sizes>),
    Values(Box<Sizes>),
}

impl Sizes {
    /// Returns the greatest size of the value at a path; `None` if there is no such path.
    pub(super) fn at<'e>(&self, path: impl Iterator<Item = Step<'e>>) -> Option<u64> {
        let mut this = self;
        for step in path {
            this = match (&this.inside, step) {
                (Inside::Fields(fields), Step::Field(name)) => fields.get(name)?,
                (Inside::Elements(inside) | Inside::Values(inside), Step::Inside) => inside,
                // Kubernetes does not limit the keys of a map, and counts them as empty.
                (Inside::Values(_), Step::Key) => return Some(0),
                _ => return None,
            };
        }
        Some(this.max)
    }
}
