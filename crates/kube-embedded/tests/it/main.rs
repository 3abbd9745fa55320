//! A whole cluster, used as its users do: kube-rs in the process and over TLS, and kubectl.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be; helpers are no exception"
)]

mod article;
mod binary;
mod clients;
mod controllers;
mod custom;
mod examples;
mod exec;
mod fixture;
mod forward;
mod fuzz;
mod ingress;
mod ingress_traffic;
mod kubectl;
mod library;
mod limits;
mod outside;
mod pods;
mod python;
mod requests;
mod tokens;
mod watches;
