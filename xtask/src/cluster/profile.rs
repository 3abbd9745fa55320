//! The differences between clusters that labs adapt to, apart from their address.

use lab_environment::{Alternative, Timeouts, UnsupportedClaim};

/// Deadlines, precision and gaps of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterProfile {
    /// Deadlines of the labs on this cluster.
    pub(crate) timeouts: Timeouts,
    /// How fine a traffic sample is affordable on this cluster.
    pub(crate) precision: Alternative,
    /// Claims that cannot be checked on this cluster.
    pub(crate) unsupported: Vec<UnsupportedClaim>,
}
