//! What an expression may cost at most, estimated before there is an object: Kubernetes refuses a
//! CustomResourceDefinition with rules whose estimate is too high.
//!
//! Stands for `checker/cost.go` of cel-go, the estimates of its extensions, and those of
//! `k8s.io/apiserver/pkg/cel/library/cost.go`. Clients rely on the same verdict, so the estimates
//! are the same to the unit, oddities included. cel-go estimates expanded macros; here, each macro
//! has the sum of its expansion.

mod estimate;
mod functions;
mod lists;
mod macros;
mod path;
mod range;
mod sizes;

pub(super) use estimate::estimate;
pub(crate) use range::Range;
pub(crate) use sizes::{Inside, Sizes};

/// The cost of going through a character, and of applying one of a pattern to a character.
const TEXT: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// The costs of an access, and of making a list or a map.
const ACCESS: u64 = 1;
const NEW_LIST: u64 = 10;
const NEW_MAP: u64 = 30;
