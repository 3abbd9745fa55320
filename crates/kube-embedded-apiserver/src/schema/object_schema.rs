//! The schema of one resource type, as decoding and defaulting use it.
//!
//! kube-apiserver decodes built-in objects into Go structs, and custom resources into
//! `unstructured.Unstructured` with a structural schema alongside. Here both are JSON, so what Go's
//! decoder does to them has to be done by hand.

use serde_json::Value;

use crate::schema::{
    check::{self, Pruned},
    conversion,
    structural::Schema,
    tree::object_meta,
    types::Structure,
    unset,
};

/// The schema of a resource type's objects.
#[derive(Clone, Copy)]
pub(crate) enum ObjectSchema<'a> {
    /// A built-in type.
    Typed(&'a Structure),
    /// A custom resource; only its `metadata` has a Go type.
    Unstructured(&'a Schema),
}

impl ObjectSchema<'_> {
    /// Returns an error for each field that the type does not have, worded as strict decoding does
    /// (`fieldValidation=Strict`): `unknown field "spec.template.spec.containers[0].imagee"`.
    pub(crate) fn unknown_fields(self, object: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        let mut report = |path: &str| errors.push(format!("unknown field \"{path}\""));
        match self {
            Self::Typed(structure) => {
                check::unknown(structure, object, &mut String::new(), &mut report);
            }
            Self::Unstructured(schema) => {
                let mut pruned = object.clone();
                schema.prune(&mut pruned, &mut report);
                if let Some(metadata) = pruned.get("metadata") {
                    check::unknown(object_meta(), metadata, &mut "metadata".into(), &mut report);
                }
            }
        }
        errors
    }

    /// Removes fields that the type does not have.
    pub(crate) fn prune(self, object: &mut Value) {
        match self {
            Self::Typed(structure) => check::prune(structure, object, Pruned::Unknown),
            Self::Unstructured(schema) => {
                schema.prune(object, &mut |_| {});
                prune_metadata(object, Pruned::Unknown);
            }
        }
    }

    /// Removes what decoding into Go types and encoding again would lose of known fields: nulls,
    /// and empty lists and maps.
    pub(crate) fn normalize(self, object: &mut Value) {
        match self {
            Self::Typed(structure) => check::prune(structure, object, Pruned::Empty),
            Self::Unstructured(_) => prune_metadata(object, Pruned::Empty),
        }
    }

    /// Adds what encoding writes of fields that are not set.
    pub(crate) fn complete(self, object: &mut Value) {
        match self {
            Self::Typed(structure) => unset::complete(structure, object),
            Self::Unstructured(_) => {
                if let Some(metadata) = object.get_mut("metadata") {
                    unset::complete(object_meta(), metadata);
                }
            }
        }
    }

    /// Brings an object into the form in which it is read from the storage again.
    pub(crate) fn to_stored_form(self, object: &mut Value) {
        self.complete(object);
        if let Self::Typed(structure) = self {
            unset::clear_empty_lists(structure, object);
        }
    }

    /// [`ObjectSchema::check_types`] of what a strategic merge patch makes.
    pub(crate) fn check_conversion(self, object: &Value) -> Result<(), String> {
        match self {
            Self::Typed(structure) => conversion::types(structure, object),
            Self::Unstructured(_) => self.check_types(object),
        }
    }

    /// Checks that every value has the type of its field.
    ///
    /// # Errors
    /// Worded as Kubernetes' decoder does: `json: cannot unmarshal string into Go struct field
    /// DeploymentSpec.spec.replicas of type int32`.
    pub(crate) fn check_types(self, object: &Value) -> Result<(), String> {
        match self {
            Self::Typed(structure) => check::types(structure, object),
            Self::Unstructured(_) => check::types(object_meta(), &object["metadata"]),
        }
    }
}

fn prune_metadata(object: &mut Value, pruned: Pruned) {
    if let Some(metadata) = object.get_mut("metadata") {
        check::prune(object_meta(), metadata, pruned);
    }
}
