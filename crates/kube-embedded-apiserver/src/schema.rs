//! Schemas: which fields the objects of a resource type have, of which types, and how lists and
//! maps merge.
//!
//! Those of built-in types come from `k8s-openapi` ([`tree`]), with merge keys from a table
//! ([`merge_keys`]); those of custom resources from their CustomResourceDefinition
//! ([`structural`]). In Kubernetes these are the Go types with their markers, and
//! `k8s.io/apiextensions-apiserver/pkg/apiserver/schema`. Knows no resource types: those hand in
//! their [`types::Structure`] or [`structural::Schema`].

mod check;
pub(crate) mod conversion;
pub(crate) mod expression_types;
mod go_types;
pub(crate) mod merge_keys;
pub(crate) mod object_schema;
pub(crate) mod structural;
pub(crate) mod tree;
pub(crate) mod types;
pub(crate) mod unset;

#[cfg(test)]
mod tests;
