//! The backends of routes: the endpoints of Service ports, and how they are spoken to.

use super::{
    attachment::FoundBackend,
    objects::{GatewayEvent, Objects},
    policies::Policies,
    references::Unresolved,
    view::{Target, TargetProtocol},
};
use crate::{
    config::Topology,
    http_proxy::{
        backend::{Backend, Upstream},
        upstream_tls::UpstreamTls,
    },
    route::{Route, Routing},
    secrets::Secrets,
    services::plan::port_routing,
};
use std::sync::Arc;

/// Returns the backend of a target with the endpoints that it has at the moment. It is the one that is
/// `known` as long as it is used in the same way, so that requests of an older route table get the current
/// endpoints.
pub(super) fn find_backend(
    target: &Target,
    policies: &Policies,
    known: Option<&Arc<Backend>>,
    objects: &Objects,
    topology: &Topology,
    secrets: &Secrets<GatewayEvent>,
) -> FoundBackend {
    let port = service_port(target, objects, topology)?;
    let upstream = upstream(target, &port, policies, secrets, known.map(|known| &**known));
    let Some(upstream) = upstream else { return Ok(None) };
    if let Some(known) = known {
        known.route.set(port.routing.clone());
        if known.upstream == upstream {
            return Ok(Some(known.clone()));
        }
    }
    let name = format!("{}:{}", target.service, target.port);
    let route = Arc::new(Route::new(port.routing, Arc::default()));
    Ok(Some(Arc::new(Backend::new(name, route, upstream))))
}

/// A port of a Service, as a backend.
struct ServicePort {
    routing: Routing,
    name: String,
    app_protocol: Option<String>,
}

/// Returns the endpoints of a Service port, or why there is none.
fn service_port(
    target: &Target,
    objects: &Objects,
    topology: &Topology,
) -> Result<ServicePort, Unresolved> {
    let Target { service: key, port, .. } = target;
    let missing = |message| Err(("BackendNotFound", message));
    let service = objects.service(key);
    let Some(spec) = service.as_ref().and_then(|service| service.spec.as_ref()) else {
        return missing(format!("Service {key} does not exist"));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(("InvalidKind", format!("Service {key} is of type ExternalName")));
    }
    let transport = if target.protocol == TargetProtocol::Udp { "UDP" } else { "TCP" };
    // A port may be there for both.
    let found = spec.ports.iter().flatten().find(|known| {
        known.port == *port && known.protocol.as_deref().unwrap_or("TCP") == transport
    });
    let Some(found) = found else {
        return missing(format!("Service {key} has no {transport} port {port}"));
    };
    let slices = objects.slices_of(key);
    let routing = port_routing(spec, found, slices.iter().map(|slice| &**slice), topology);
    let name = found.name.clone().unwrap_or_default();
    Ok(ServicePort { routing, name, app_protocol: found.app_protocol.clone() })
}

/// Returns how a backend is spoken to, or `None` if its policy is invalid. TLS that is `known` already is
/// kept, with its sessions.
fn upstream(
    target: &Target,
    port: &ServicePort,
    policies: &Policies,
    secrets: &Secrets<GatewayEvent>,
    known: Option<&Backend>,
) -> Option<Upstream> {
    let http2 = match target.protocol {
        TargetProtocol::Http => port.app_protocol.as_deref() == Some("kubernetes.io/h2c"),
        TargetProtocol::Grpc => true,
        TargetProtocol::Stream | TargetProtocol::Udp => false,
    };
    let Some(validation) = policies.of(&target.service, &port.name) else {
        return Some(Upstream { http2, tls: None });
    };
    let validation = validation?;
    let client = target.client.as_ref().and_then(|secret| secrets.content(secret).ok());
    let client = client.map(|secret| &secret.key);
    let known = known.and_then(|known| known.upstream.tls.clone());
    if let Some(known) = known.filter(|known| known.is(validation, client, http2)) {
        return Some(Upstream { http2, tls: Some(known) });
    }
    match UpstreamTls::new(validation.clone(), client.cloned(), http2) {
        Ok(tls) => Some(Upstream { http2, tls: Some(Arc::new(tls)) }),
        Err(error) => {
            tracing::warn!(service = %target.service, %error, "failed to set up TLS to a backend");
            None
        }
    }
}
