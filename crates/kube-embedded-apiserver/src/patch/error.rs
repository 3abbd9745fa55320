//! The errors of patches, by the status that the client gets.

/// The reason why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum PatchError {
    /// 400 `BadRequest`: the patch is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 409 `Conflict`: other managers own fields that an apply would change.
    #[error("{message}")]
    Conflict {
        /// `Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas`.
        message: String,
        /// One for each field, for `details.causes` with reason `FieldManagerConflict`.
        causes: Vec<Conflict>,
    },
    /// 422 `Invalid`: the patch is well-formed but does not fit the object.
    #[error("{0}")]
    Unprocessable(String),
    /// 413 `RequestEntityTooLarge`.
    #[error("{0}")]
    TooLarge(String),
}

/// One field that another manager owns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    /// `.spec.replicas`.
    pub field: String,
    /// `conflict with "kubectl" using apps/v1`.
    pub message: String,
}
