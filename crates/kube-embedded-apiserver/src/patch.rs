//! The four patch types of Kubernetes, and `metadata.managedFields`. Pure functions over JSON; the
//! write pipeline defaults, validates and stores the result.
//!
//! Stands for the patchers of `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, for
//! `k8s.io/apimachinery/pkg/util/strategicpatch`, and for server-side apply:
//! `k8s.io/apimachinery/pkg/util/managedfields` on top of `sigs.k8s.io/structured-merge-diff`.

mod apply;
mod compare;
mod error;
mod field_set;
mod json;
mod last_applied;
mod managed_fields;
mod parts;
mod strategic;
mod typed;

pub(crate) use apply::apply;
pub(crate) use error::PatchError;
pub(crate) use json::{json, merge};
pub(crate) use managed_fields::{Operation, track_update};
pub(crate) use strategic::strategic;
pub(crate) use typed::errors as typed_errors;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
