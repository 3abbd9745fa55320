//! External addresses of load balancers and Ingresses, and the first response from there.

use super::{
    namespace_client::NamespaceClient,
    wait::{self, Objects, Progress, WaitError, until},
};
use crate::sampler::{Failure, Reply, Sampler};
use k8s_openapi::{
    NamespaceResourceScope, Resource,
    api::{core::v1::Service, networking::v1::Ingress},
};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// The external address of a load balancer or an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExternalAddress {
    /// Address or name, as the object's status shows it.
    pub host: String,
    /// The requested port, or the one published instead of it.
    pub port: u16,
    /// The first address that the host resolves to.
    pub socket: SocketAddr,
}

impl fmt::Display for ExternalAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A resource whose status shows an external address.
pub(crate) trait Exposed:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Resource
    + Clone
    + DeserializeOwned
    + fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The first address or name in its status.
    fn address(&self) -> Option<String>;

    /// The reason why it will never have an address.
    fn without_address(&self) -> Option<String> {
        None
    }
}

impl Exposed for Service {
    fn address(&self) -> Option<String> {
        let balancer = self.status.as_ref()?.load_balancer.as_ref()?;
        let first = balancer.ingress.as_ref()?.first()?;
        first.ip.clone().or_else(|| first.hostname.clone())
    }

    fn without_address(&self) -> Option<String> {
        let type_ = self.spec.as_ref()?.type_.as_deref().unwrap_or("ClusterIP");
        (type_ != "LoadBalancer").then(|| format!("a Service of type {type_} gets none"))
    }
}

impl Exposed for Ingress {
    fn address(&self) -> Option<String> {
        let balancer = self.status.as_ref()?.load_balancer.as_ref()?;
        let first = balancer.ingress.as_ref()?.first()?;
        first.ip.clone().or_else(|| first.hostname.clone())
    }
}

impl NamespaceClient {
    /// Waits until a load balancer or an Ingress has an external address. `port` is the port of the
    /// Service, or the one an Ingress listens on: 80, or 443 for TLS.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_external_address<K: Exposed>(
        &self,
        name: &str,
        port: u16,
    ) -> Result<ExternalAddress, WaitError> {
        let awaited = format!("external address of {name}");
        let (host, port) = until(
            self.api::<K>(),
            wait::by_name(name),
            &awaited,
            self.address(),
            |found: &Objects<K>| match found.get(name) {
                None => Progress::Pending(format!("no such {}", K::KIND)),
                Some(object) => match published_address(&**object, port) {
                    Some(found) => Progress::Done(found),
                    None => match object.without_address() {
                        Some(why) => Progress::Failed(why),
                        None => Progress::Pending(PENDING.into()),
                    },
                },
            },
        )
        .await?;
        // No manifest gives an object its address.
        let unresolved = |why: String| WaitError::Environment {
            awaited: awaited.clone(),
            source: anyhow::anyhow!("{host} cannot be resolved: {why}"),
        };
        let mut sockets = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|error| unresolved(error.to_string()))?;
        let socket = sockets.next().ok_or_else(|| unresolved("no address".into()))?;
        Ok(ExternalAddress { host: host.clone(), port, socket })
    }

    /// Returns a sampler of `/version` at an address.
    pub(crate) fn sampler(&self, external: &ExternalAddress) -> Sampler {
        Sampler::new(external.socket, &external.host, "/version", self.request)
    }

    /// Returns a sampler of `/version` at an address once it responds there.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_sampler(
        &self,
        external: &ExternalAddress,
    ) -> Result<Sampler, WaitError> {
        let sampler = self.sampler(external);
        self.wait_good_response(&sampler, &external.to_string()).await?;
        Ok(sampler)
    }

    /// Waits for the first good response. `at` completes “no response at …”.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_good_response(
        &self,
        sampler: &Sampler,
        at: &str,
    ) -> Result<Reply, WaitError> {
        self.wait_response(sampler, &format!("response at {at}"), |result| {
            result.as_ref().ok().cloned()
        })
        .await
    }

    /// Waits for the first response of any status, which shows that a proxy listens there.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_any_response(
        &self,
        sampler: &Sampler,
        at: &str,
    ) -> Result<(), WaitError> {
        let responded = |result: &Result<Reply, Failure>| {
            matches!(result, Ok(_) | Err(Failure::Status(_))).then_some(())
        };
        self.wait_response(sampler, &format!("response of any status at {at}"), responded).await
    }

    async fn wait_response<T>(
        &self,
        sampler: &Sampler,
        awaited: &str,
        accept: impl Fn(&Result<Reply, Failure>) -> Option<T>,
    ) -> Result<T, WaitError> {
        let after = self.address();
        let deadline = tokio::time::Instant::from(Instant::now() + after);
        let mut last_seen = "nothing".to_owned();
        let mut pace = tokio::time::interval(PROBE_INTERVAL);
        loop {
            pace.tick().await;
            let Ok(result) = timeout_at(deadline, sampler.request()).await else {
                let awaited = awaited.to_owned();
                return Err(WaitError::TimedOut { awaited, last_seen, after });
            };
            if let Err(Failure::Local(why)) = &result {
                let (awaited, source) = (awaited.to_owned(), anyhow::anyhow!(why.clone()));
                return Err(WaitError::Environment { awaited, source });
            }
            match (accept(&result), result) {
                (Some(found), _) => return Ok(found),
                (None, Err(failure)) => last_seen = failure.to_string(),
                (None, Ok(_)) => last_seen = "a good response".to_owned(),
            }
        }
    }
}

/// The placeholder that kubectl prints for an address not yet assigned.
pub(crate) const PENDING: &str = "<pending>";
/// The annotation that maps ports to those published instead, where a load balancer lacks the privilege
/// to bind them: `80=10080,443=10443`.
const PUBLISHED_PORT: &str = "canary-labs.dev/published-port";
/// The interval between two probing requests.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the address of an object, with the port that is published for `port`.
pub(crate) fn published_address<K: Exposed>(object: &K, port: u16) -> Option<(String, u16)> {
    let host = object.address()?;
    let mapping = object.annotations().get(PUBLISHED_PORT).into_iter();
    let mut pairs = mapping.flat_map(|text| text.split(',')).filter_map(|pair| {
        let (port, published) = pair.split_once('=')?;
        Some((port.trim().parse::<u16>().ok()?, published.trim().parse::<u16>().ok()?))
    });
    let port = pairs.find(|(of, _)| *of == port).map_or(port, |(_, published)| published);
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check<K: Exposed>(status: &Value, expected: Option<&str>) {
        let mut object = json!({"status": status});
        let read = |object: &Value| -> K { serde_json::from_value(object.clone()).unwrap() };
        let at = |port| expected.map(|host| (host.to_owned(), port));
        assert_eq!(published_address(&read(&object), 80), at(80), "{status}");
        object["metadata"] = json!({"annotations": {PUBLISHED_PORT: "443=10443,80=10080"}});
        for (port, published_port) in [(80, 10080), (443, 10443), (8443, 8443)] {
            assert_eq!(published_address(&read(&object), port), at(published_port), "{status}");
        }
    }

    #[test]
    fn address_is_read_from_status_and_annotation() {
        for (status, expected) in [
            (json!({}), None),
            (json!({"loadBalancer": {}}), None),
            (json!({"loadBalancer": {"ingress": []}}), None),
            (json!({"loadBalancer": {"ingress": [{"ip": "127.1.1.1"}]}}), Some("127.1.1.1")),
            (json!({"loadBalancer": {"ingress": [{"hostname": "x.elb"}]}}), Some("x.elb")),
        ] {
            check::<Service>(&status, expected);
            check::<Ingress>(&status, expected);
        }
    }
}
