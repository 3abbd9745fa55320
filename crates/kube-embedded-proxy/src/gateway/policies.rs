//! BackendTLSPolicies: which Service ports are spoken to over TLS, and what their certificates must be.

use super::{
    api::{AncestorStatus, BackendTlsPolicy, BackendTlsPolicySpec, ParentRef, SubjectAltName},
    conditions::condition,
    object::GROUP,
    references::Unresolved,
    view::{GATEWAY_CONTROLLER, Names, View},
};
use crate::http_proxy::upstream_tls::{AlternativeName, Validation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube_embedded_core::informer::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use tokio_rustls::rustls::pki_types::ServerName;

/// A Service, and the name of one of its ports, or none for all others.
type PolicyKey = (ObjectKey, Option<String>);

/// The Gateways through which each Service is reached, and by how many routes.
pub(super) type Ancestors = BTreeMap<ObjectKey, BTreeMap<ObjectKey, usize>>;

/// The policies of all Services.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// `None` where the policy is invalid: its backends are not spoken to at all.
    by_target: BTreeMap<PolicyKey, Option<Validation>>,
    /// The conditions of each policy, and the Services that it names.
    conditions: BTreeMap<ObjectKey, (Vec<Condition>, BTreeSet<ObjectKey>)>,
}

impl Policies {
    /// Reads all policies; of several for the same port, the oldest counts.
    pub(super) fn new(view: &View<'_>, names: &mut Names) -> Self {
        let mut found = Self::default();
        let mut policies: Vec<&BackendTlsPolicy> = view.policies.iter().map(|p| &**p).collect();
        policies.sort_by_cached_key(|policy| precedence(&policy.metadata));
        for policy in policies {
            found.add(policy, view, names);
        }
        found
    }

    fn add(&mut self, policy: &BackendTlsPolicy, view: &View<'_>, names: &mut Names) {
        let key = ObjectKey::of(policy);
        let generation = policy.metadata.generation;
        let (validation, unresolved) = validation(&policy.spec, &key.namespace, view, names);
        let mut accepted = match &validation {
            Ok(_) => condition("Accepted", true, "Accepted", "", generation),
            Err((reason, message)) => {
                condition("Accepted", false, reason, message.clone(), generation)
            }
        };
        let mut services = BTreeSet::new();
        let targets = policy.spec.target_refs.iter();
        for target in targets.filter(|target| (&*target.group, &*target.kind) == ("", "Service")) {
            let service = ObjectKey::new(&key.namespace, &target.name);
            services.insert(service.clone());
            let target = (service, target.section_name.clone());
            match self.by_target.entry(target) {
                Entry::Vacant(vacant) => {
                    vacant.insert(validation.clone().ok());
                }
                Entry::Occupied(_) => {
                    let message = "an older BackendTLSPolicy has the same target";
                    accepted = condition("Accepted", false, "Conflicted", message, generation);
                }
            }
        }
        let resolved = match unresolved {
            None => condition("ResolvedRefs", true, "ResolvedRefs", "", generation),
            Some((reason, message)) => {
                condition("ResolvedRefs", false, reason, message, generation)
            }
        };
        self.conditions.insert(key, (vec![accepted, resolved], services));
    }

    /// Returns the policy of a Service port: `None` if there is none, and `Some(None)` if it is
    /// invalid.
    pub(super) fn of(&self, service: &ObjectKey, port: &str) -> Option<Option<&Validation>> {
        let of = |section: Option<&str>| {
            self.by_target.get(&(service.clone(), section.map(str::to_owned)))
        };
        of(Some(port)).or_else(|| of(None)).map(Option::as_ref)
    }

    /// Returns the statuses of the policies, for the Gateways through which each Service is reached.
    pub(super) fn statuses(
        &self,
        ancestors: &Ancestors,
    ) -> BTreeMap<ObjectKey, Vec<AncestorStatus>> {
        let status =
            |(key, (conditions, services)): (&ObjectKey, &(Vec<Condition>, BTreeSet<_>))| {
                let gateways: BTreeSet<&ObjectKey> = services
                    .iter()
                    .filter_map(|service| ancestors.get(service))
                    .flat_map(BTreeMap::keys)
                    .collect();
                let ancestors = gateways.into_iter().map(|gateway| AncestorStatus {
                    ancestor_ref: ParentRef {
                        group: Some(GROUP.to_owned()),
                        kind: Some("Gateway".to_owned()),
                        namespace: Some(gateway.namespace.clone()),
                        name: gateway.name.clone(),
                        ..ParentRef::default()
                    },
                    controller_name: GATEWAY_CONTROLLER.to_owned(),
                    conditions: conditions.clone(),
                });
                (key.clone(), ancestors.collect())
            };
        self.conditions.iter().map(status).collect()
    }
}

/// The oldest first, then by namespace and name.
pub(super) fn precedence(
    meta: &ObjectMeta,
) -> (Option<jiff::Timestamp>, Option<String>, Option<String>) {
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    (created, meta.namespace.clone(), meta.name.clone())
}

/// Returns what a policy asks for, or why it is not accepted; and the first reference that is not
/// resolved.
fn validation(
    spec: &BackendTlsPolicySpec,
    namespace: &str,
    view: &View<'_>,
    names: &mut Names,
) -> (Result<Validation, Unresolved>, Option<Unresolved>) {
    let (mut authorities, mut unresolved) = (Vec::new(), None);
    let given = &spec.validation;
    for reference in &given.ca_certificate_refs {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, &reference.name);
        if (group, kind) != ("", "ConfigMap") {
            let message = format!("{kind}.{group} {key} is not a ConfigMap");
            unresolved.get_or_insert(("InvalidKind", message));
            continue;
        }
        names.config_maps.insert(key.clone());
        match (view.authorities)(&key) {
            Ok(found) => authorities.extend(found),
            Err(why) => {
                let message = format!("ConfigMap {key} {why}");
                unresolved.get_or_insert(("InvalidCACertificateRef", message));
            }
        }
    }
    let names = given.subject_alt_names.iter().map(alternative_name).collect::<Result<_, _>>();
    let hostname = ServerName::try_from(given.hostname.clone());
    let validation = match (hostname, names) {
        (Err(_), _) => Err(("Invalid", format!("{:?} is no hostname", given.hostname))),
        (_, Err(why)) => Err(("Invalid", why)),
        _ if given.well_known_ca_certificates.is_some() => {
            let message = "wellKnownCACertificates are not supported; use caCertificateRefs";
            Err(("Invalid", message.to_owned()))
        }
        _ if authorities.is_empty() => {
            let message = "no caCertificateRef has a certificate authority".to_owned();
            Err(("NoValidCACertificate", message))
        }
        (Ok(hostname), Ok(alternative_names)) => {
            Ok(Validation { authorities, hostname, alternative_names })
        }
    };
    (validation, unresolved)
}

fn alternative_name(given: &SubjectAltName) -> Result<AlternativeName, String> {
    match (&*given.r#type, &given.hostname, &given.uri) {
        ("Hostname", Some(name), _) => ServerName::try_from(name.clone())
            .map(AlternativeName::Hostname)
            .map_err(|_| format!("{name:?} is no hostname")),
        ("URI", _, Some(uri)) => Ok(AlternativeName::Uri(uri.clone())),
        (other, ..) => Err(format!("a subjectAltName of type {other:?} has no value of its type")),
    }
}
