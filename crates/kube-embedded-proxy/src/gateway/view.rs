//! The objects of which a plan is made.

use super::api::{Gateway, GatewayClass, HttpRoute, NamespaceLabels, ReferenceGrant};
use kube_embedded_core::informer::ObjectKey;
use std::sync::Arc;

/// The `spec.controllerName` of GatewayClasses that are served here.
pub const GATEWAY_CONTROLLER: &str = "canary-labs.dev/edge";

/// A Service and its port.
pub(super) type Target = (ObjectKey, i32);

/// The objects, and what is known of those that they name.
pub(super) struct View<'a> {
    pub(super) classes: &'a [Arc<GatewayClass>],
    pub(super) gateways: &'a [Arc<Gateway>],
    pub(super) http_routes: &'a [Arc<HttpRoute>],
    pub(super) grants: &'a [Arc<ReferenceGrant>],
    pub(super) namespaces: &'a NamespaceLabels,
    /// Returns why a Secret is no certificate, as the rest of a sentence.
    pub(super) secret_problem: &'a dyn Fn(&ObjectKey) -> Option<String>,
}
