//! Every kind that a cluster serves at a moment: those of the table, and the custom resources that
//! its CustomResourceDefinitions define. A request holds on to one such moment.

use super::{Custom, Kind, all, find, find_kind};
use std::sync::Arc;

/// See the module. Without custom resources by default.
#[derive(Debug, Default)]
pub struct Served {
    custom: Vec<Arc<Custom>>,
}

impl Served {
    pub(crate) fn new(custom: Vec<Arc<Custom>>) -> Self {
        Self { custom }
    }

    /// Every kind, those of the table first.
    pub fn kinds(&self) -> impl Iterator<Item = Kind<'_>> {
        all().iter().map(|kind| **kind).chain(self.custom_kinds())
    }

    /// The custom resources.
    pub fn custom_kinds(&self) -> impl Iterator<Item = Kind<'_>> {
        self.custom.iter().map(Custom::as_kind)
    }

    /// The kind behind a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Kind<'_>> {
        let fits = |kind: &Kind<'_>| {
            kind.group == group && kind.version == version && kind.plural == plural
        };
        let fixed: Option<&Kind<'_>> = find(group, version, plural);
        fixed.copied().or_else(|| self.custom_kinds().find(fits))
    }

    /// The kind of an object.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<Kind<'_>> {
        let fits =
            |found: &Kind<'_>| (found.group, found.version, found.kind) == (group, version, kind);
        let fixed: Option<&Kind<'_>> = find_kind(group, version, kind);
        fixed.copied().or_else(|| self.custom_kinds().find(fits))
    }

    /// Whether there is a group.
    pub fn has_group(&self, group: &str) -> bool {
        all().iter().any(|kind| kind.group == group)
            || self.custom.iter().any(|custom| custom.group == group)
    }

    /// Whether a group has a version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        all().iter().any(|kind| (kind.group, kind.version) == (group, version))
            || self.custom.iter().any(|c| c.group == group && c.version == version)
    }

    /// Something to keep a kind by for longer than a request.
    pub fn keep(kind: &Kind<'_>) -> Kept {
        match kind.custom {
            Some(custom) => Kept::Custom(custom.clone()),
            None => match find(kind.group, kind.version, kind.plural) {
                Some(kind) => Kept::Fixed(kind),
                None => Kept::Fixed(&super::namespace::KIND),
            },
        }
    }
}

/// A kind that is kept.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Of the table.
    Fixed(&'static Kind<'static>),
    /// A custom resource.
    Custom(Arc<Custom>),
}

impl Kept {
    /// The kind.
    pub fn kind(&self) -> Kind<'_> {
        match self {
            Self::Fixed(kind) => **kind,
            Self::Custom(custom) => custom.as_kind(),
        }
    }
}
