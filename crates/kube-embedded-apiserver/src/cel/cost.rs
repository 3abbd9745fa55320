//! What an expression costs: at most, estimated before there is an object, since Kubernetes refuses
//! a CustomResourceDefinition with rules whose estimate is too high; and calls, when it is evaluated.
//!
//! Stands for `checker/cost.go` of cel-go, the estimates of its extensions, and those of
//! `k8s.io/apiserver/pkg/cel/library/cost.go`. Clients rely on the same verdict, so the estimates
//! are the same to the unit, oddities included. cel-go estimates expanded macros; here, each macro
//! has the sum of its expansion.

pub(super) mod calls;
mod estimate;
mod functions;
mod lists;
mod macros;
mod node;
mod path;
mod range;
mod sizes;

pub(super) use estimate::estimate;
pub(super) use macros::Loop;
pub(crate) use range::Range;
pub(crate) use sizes::{Inside, Sizes};

/// The cost of going through a character, and of applying one of a pattern to a character.
const TEXT: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// The costs of an access, and of making a list or a map.
pub(super) const ACCESS: u64 = 1;
pub(super) const NEW_LIST: u64 = 10;
pub(super) const NEW_MAP: u64 = 30;
