//! The schema of a custom resource, as its CustomResourceDefinition gives it in `openAPIV3Schema`:
//! it prunes, defaults and validates objects, and determines the owners of fields in server-side
//! apply.
//!
//! Stands for `k8s.io/apiextensions-apiserver/pkg/apiserver/{schema,validation}`.

mod declarations;
mod defaulting;
mod expressions;
mod given_rule;
mod ownership;
mod pruning;
mod rule_checks;
mod rule_costs;
mod rules;
mod schema;
mod sizes;
mod validator;

pub(crate) use declarations::{declare, escape};
pub(crate) use expressions::Rules;
pub(crate) use ownership::structure;
pub(crate) use rules::schema_errors;
pub(crate) use schema::Schema;
pub(crate) use validator::{validate, validate_status};

#[cfg(test)]
mod tests;
