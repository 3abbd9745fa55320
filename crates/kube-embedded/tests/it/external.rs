//! The edge on the host of an external cluster that has no load balancer implementation, such as one of
//! kind. It connects over TLS, with nothing but the kubeconfig; each pod responds with its name.

mod edge_command;
mod foreign_objects;
mod ingress;
mod lease;
mod services;
