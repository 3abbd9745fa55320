//! Tests of a whole cluster through its clients: kube-rs in the process and over TLS, kubectl, curl and Python.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod article;
mod cli;
mod clients;
mod controllers;
mod crds;
mod dns;
mod examples;
mod exec;
mod external;
mod fixture;
mod fuzz;
mod hostile_clients;
mod ingress;
mod ingress_traffic;
mod kubectl;
mod library;
mod limits;
mod pod_network;
mod policies;
mod port_forward;
mod python;
mod rbac;
mod requests;
mod rules;
mod service_accounts;
mod tables;
mod watches;
