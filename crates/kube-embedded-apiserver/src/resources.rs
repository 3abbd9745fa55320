//! The resources that the API serves: the registry, one file for each built-in type, and the custom resources
//! that CustomResourceDefinitions define.

pub(crate) mod crd;
pub mod deletion;
pub(crate) mod descriptions;
pub(crate) mod pod_defaults;
pub mod registry;
pub mod resource_type;
pub mod table_columns;
pub(crate) mod types;
