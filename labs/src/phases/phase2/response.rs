//! The response of a running image.

/// The body of a container's response to `/version`, or why there is none.
pub(super) type VersionResponse = Result<String, String>;
