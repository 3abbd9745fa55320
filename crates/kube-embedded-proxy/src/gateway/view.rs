//! The objects of which the plan of Gateways is made.

use super::api::{
    BackendTlsPolicy, Gateway, GatewayClass, ListenerSet, NamespaceLabels, ReferenceGrant,
};
use kube_embedded_core::informer::ObjectKey;
use std::{collections::BTreeSet, sync::Arc};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The `spec.controllerName` of GatewayClasses that are served here.
pub const GATEWAY_CONTROLLER: &str = "canary-labs.dev/edge";

/// A Service and its port, and how it is to be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) service: ObjectKey,
    pub(super) port: i32,
    pub(super) protocol: TargetProtocol,
    /// The Secret of the certificate that the Gateway shows.
    pub(super) client: Option<ObjectKey>,
}

impl Target {
    /// Returns what precedes all targets of a Service.
    pub(super) fn first_of(service: &ObjectKey) -> Self {
        let (service, protocol) = (service.clone(), TargetProtocol::Http);
        Self { service, port: i32::MIN, protocol, client: None }
    }
}

/// What a kind of route speaks to its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TargetProtocol {
    /// HTTP/1.1, or what the Service says.
    Http,
    /// HTTP/2, whatever the Service says.
    Grpc,
    Stream,
    Udp,
}

/// The objects besides routes, Services and endpoints, and what is known of those that they name.
pub(super) struct View<'a> {
    pub(super) classes: &'a [Arc<GatewayClass>],
    pub(super) gateways: &'a [Arc<Gateway>],
    pub(super) listener_sets: &'a [Arc<ListenerSet>],
    pub(super) policies: &'a [Arc<BackendTlsPolicy>],
    pub(super) grants: &'a [Arc<ReferenceGrant>],
    pub(super) namespaces: &'a NamespaceLabels,
    /// Returns why a Secret is no certificate, as the rest of a sentence.
    pub(super) secret_problem: &'a dyn Fn(&ObjectKey) -> Option<String>,
    /// Returns the certificate authorities in a ConfigMap, or why there are none.
    pub(super) authorities: &'a dyn Fn(&ObjectKey) -> Result<Vec<CertificateDer<'static>>, String>,
}

/// The names of objects that are to be watched.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) secrets: BTreeSet<ObjectKey>,
    pub(super) config_maps: BTreeSet<ObjectKey>,
}
