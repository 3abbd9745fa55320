//! Times as Kubernetes writes them (`metav1.Time`).

use jiff::Timestamp;

/// Returns the current time.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// Formats a time as `2026-11-23T09:33:35Z`.
pub(crate) fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
