//! To be written.

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Config {}
/// A running cluster.
#[derive(Debug)]
pub struct Cluster {}
/// Why a cluster could not start.
#[derive(Debug)]
pub struct StartError {}
