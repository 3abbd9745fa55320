//! The built-in resource types, one file each: the strategy (`pkg/registry/*/strategy.go`),
//! defaults (`pkg/apis/*/v1/defaults.go`), validation (`pkg/apis/*/validation`) and printer columns
//! (`pkg/printers/internalversion`) that Kubernetes keeps in four places. Messages, column names
//! and descriptions are Kubernetes' own.

pub(crate) mod config_map;
pub(crate) mod cron_job;
pub(crate) mod custom_resource_definition;
pub(crate) mod daemon_set;
pub(crate) mod deployment;
pub(crate) mod endpoint_slice;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod horizontal_pod_autoscaler;
pub(crate) mod ingress;
pub(crate) mod ingress_class;
pub(crate) mod job;
pub(crate) mod lease;
pub(crate) mod limit_range;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod persistent_volume;
pub(crate) mod pod;
pub(crate) mod pod_template;
pub(crate) mod quota;
pub(crate) mod replica_set;
pub(crate) mod replication_controller;
pub(crate) mod review;
pub(crate) mod role;
pub(crate) mod role_binding;
pub(crate) mod scale;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod service_account;
pub(crate) mod stateful_set;
pub(crate) mod validating_admission_policy;
pub(crate) mod validating_admission_policy_binding;
