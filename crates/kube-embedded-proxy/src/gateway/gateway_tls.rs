//! `spec.tls` of a Gateway: the certificates of clients, and the one that it shows to backends.

use super::{
    api::{FrontendTls, Gateway},
    conditions::condition,
    references::{Referrer, Unresolved, object_of},
    view::{Names, View},
};
use crate::http_proxy::client_certificates::ClientValidation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_embedded_core::informer::ObjectKey;

/// What a listener asks of its clients, and what is wrong with it.
#[derive(Default)]
pub(super) struct ClientPlan {
    pub(super) validation: Option<ClientValidation>,
    /// The first reference that is not resolved.
    pub(super) unresolved: Option<Unresolved>,
    /// Why no client could be verified.
    pub(super) invalid: Option<Unresolved>,
}

/// Plans the validation of the clients of a port with HTTPS listeners.
pub(super) fn clients(
    gateway: &Gateway,
    port: i32,
    view: &View<'_>,
    names: &mut Names,
) -> ClientPlan {
    let mut plan = ClientPlan::default();
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let Some(FrontendTls { default, per_port }) = frontend else { return plan };
    let of_port = per_port.iter().find(|config| config.port == port);
    let config = of_port.map_or(default, |config| &config.tls);
    let Some(validation) = &config.validation else { return plan };
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let from = Referrer { kind: "Gateway", namespace };
    let mut authorities = Vec::new();
    for reference in &validation.ca_certificate_refs {
        let kind = "InvalidCACertificateKind";
        let found = object_of(reference, "ConfigMap", kind, from, view.grants).and_then(|key| {
            names.config_maps.insert(key.clone());
            let invalid = |why| ("InvalidCACertificateRef", format!("ConfigMap {key} {why}"));
            (view.authorities)(&key).map_err(invalid)
        });
        match found {
            Ok(found) => authorities.extend(found),
            Err(why) => drop(plan.unresolved.get_or_insert(why)),
        }
    }
    if authorities.is_empty() {
        let message = "no caCertificateRef has a certificate authority".to_owned();
        plan.invalid = Some(("NoValidCACertificate", message));
        return plan;
    }
    let allow_insecure = validation.mode.as_deref() == Some("AllowInsecureFallback");
    plan.validation = Some(ClientValidation { authorities, allow_insecure });
    plan
}

/// Returns the Secret of the certificate that backends are shown, and the conditions of the Gateway that
/// are about certificates.
pub(super) fn backends(
    gateway: &Gateway,
    view: &View<'_>,
    names: &mut Names,
) -> (Option<ObjectKey>, Vec<Condition>) {
    let generation = gateway.metadata.generation;
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let from = Referrer { kind: "Gateway", namespace };
    let (mut client, mut conditions) = (None, Vec::new());
    let tls = gateway.spec.tls.clone().unwrap_or_default();
    let frontend = tls.frontend.unwrap_or_default();
    let of_ports = frontend.per_port.iter().map(|config| &config.tls);
    let mut configs = of_ports.chain([&frontend.default]).filter_map(|c| c.validation.as_ref());
    if configs.any(|config| config.mode.as_deref() == Some("AllowInsecureFallback")) {
        let (r#type, reason) = ("InsecureFrontendValidationMode", "ConfigurationChanged");
        let message = "clients without a valid certificate are served";
        conditions.push(condition(r#type, true, reason, message, generation));
    }
    if let Some(reference) = tls.backend.and_then(|backend| backend.client_certificate_ref) {
        let invalid = "InvalidClientCertificateRef";
        let found = object_of(&reference, "Secret", invalid, from, view.grants).and_then(|key| {
            names.secrets.insert(key.clone());
            match (view.secret_problem)(&key) {
                None => Ok(key),
                Some(why) => Err((invalid, format!("Secret {key} {why}"))),
            }
        });
        conditions.push(match found {
            Ok(key) => {
                client = Some(key);
                condition("ResolvedRefs", true, "ResolvedRefs", "", generation)
            }
            Err((reason, message)) => condition("ResolvedRefs", false, reason, message, generation),
        });
    }
    (client, conditions)
}
