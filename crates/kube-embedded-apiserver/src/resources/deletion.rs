//! Deletion behavior of a resource type: the part of a strategy that kube-apiserver spreads over
//! `RESTGracefulDeleteStrategy`, `GarbageCollectionDeleteStrategy` and `ReturnDeletedObject`.

use serde_json::Value;

/// The handling of the dependents of a deleted object (`propagationPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
}

/// The behavior of deletions.
pub struct Deletion {
    /// Returns the grace period in seconds for an object, given the one that the client requested. `None` where
    /// the type has no grace period, not even one of zero.
    pub grace_period: fn(&Value, Option<i64>) -> Option<i64>,
    /// The propagation where the client names none; with `None`, finalizers stay as they are, which means
    /// background.
    pub default_propagation: Option<Propagation>,
    /// The warning for clients that leave the propagation to the default.
    pub default_propagation_warning: Option<&'static str>,
    /// Responds with the last state of the object instead of a `Status`.
    pub returns_object: bool,
    /// Names that may not be deleted, and the reason.
    pub protected: Option<(&'static [&'static str], &'static str)>,
    /// Changes an object whose deletion begins.
    pub begin: fn(&mut Value),
    /// Returns true while something besides `metadata.finalizers` holds the object back.
    pub is_held: fn(&Value) -> bool,
    /// Watchers see the state that the deletion made (`true`) or the last one that was stored before it.
    pub reports_final_state: bool,
}

impl Deletion {
    /// Deletion at once, which is what most types want.
    pub const IMMEDIATE: Self = Self {
        grace_period: |_, _| Some(0),
        default_propagation: None,
        default_propagation_warning: None,
        returns_object: false,
        protected: None,
        begin: |_| {},
        is_held: |_| false,
        reports_final_state: false,
    };
}
