//! Where a load balancer or an Ingress can be reached from outside, and the first answer from there.

use super::{
    Scope,
    wait::{self, Seen, WaitError, until},
};
use crate::sample::{Failure, Reply, Sampler};
use k8s_openapi::{
    NamespaceResourceScope, Resource,
    api::{core::v1::Service, networking::v1::Ingress},
};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// Where a load balancer or an Ingress answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Address or name, as the object's status shows it.
    pub host: String,
    /// The port asked for, or the one published in its stead.
    pub port: u16,
    /// The first address that the host stands for.
    pub socket: SocketAddr,
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A kind of object that gets an address to be reached at from outside.
pub trait Published:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Resource
    + Clone
    + DeserializeOwned
    + fmt::Debug
    + Send
    + 'static
{
    /// The first address or name in its status.
    fn address(&self) -> Option<String>;
}

impl Published for Service {
    fn address(&self) -> Option<String> {
        let balancer = self.status.as_ref()?.load_balancer.as_ref()?;
        let first = balancer.ingress.as_ref()?.first()?;
        first.ip.clone().or_else(|| first.hostname.clone())
    }
}

impl Published for Ingress {
    fn address(&self) -> Option<String> {
        let balancer = self.status.as_ref()?.load_balancer.as_ref()?;
        let first = balancer.ingress.as_ref()?.first()?;
        first.ip.clone().or_else(|| first.hostname.clone())
    }
}

impl Scope {
    /// Waits until a load balancer or an Ingress has an external address. `port` is the port that the
    /// Service has, or that an Ingress answers on: 80, or 443 for TLS.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn external<K: Published>(
        &self,
        name: &str,
        port: u16,
    ) -> Result<External, WaitError> {
        let awaited = format!("external address of {name}");
        let (host, port) = until(
            self.api::<K>(),
            wait::named(name),
            &awaited,
            self.address,
            |found: &BTreeMap<String, K>| match found.get(name) {
                None => Seen::Waiting(format!("no such {}", K::KIND)),
                Some(object) => match published(object, port) {
                    Some(found) => Seen::Done(found),
                    None => Seen::Waiting(PENDING.into()),
                },
            },
        )
        .await?;
        let unknown = |why: String| WaitError::Never {
            awaited: awaited.clone(),
            why: format!("{host} cannot be resolved: {why}"),
        };
        let mut sockets = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|error| unknown(error.to_string()))?;
        let socket = sockets.next().ok_or_else(|| unknown("no address".into()))?;
        Ok(External { host: host.clone(), port, socket })
    }

    /// Asks for `/version` at an address.
    pub fn sampler(&self, external: &External) -> Sampler {
        Sampler::new(external.socket, &external.host, "/version", self.request)
    }

    /// A sampler of `/version` at an address, once anything answers there.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn answering(&self, external: &External) -> Result<Sampler, WaitError> {
        let sampler = self.sampler(external);
        self.first_good(&sampler, &external.to_string()).await?;
        Ok(sampler)
    }

    /// Waits for the first good answer. `at` completes “no answer at …”.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn first_good(&self, sampler: &Sampler, at: &str) -> Result<Reply, WaitError> {
        self.first(sampler, &format!("answer at {at}"), |result| result.as_ref().ok().cloned())
            .await
    }

    /// Waits for the first answer of any status: somebody is there, whatever is behind them.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn first_of_any_status(&self, sampler: &Sampler, at: &str) -> Result<(), WaitError> {
        let answered = |result: &Result<Reply, Failure>| {
            matches!(result, Ok(_) | Err(Failure::Status(_))).then_some(())
        };
        self.first(sampler, &format!("answer of any status at {at}"), answered).await
    }

    async fn first<T>(
        &self,
        sampler: &Sampler,
        awaited: &str,
        is_it: impl Fn(&Result<Reply, Failure>) -> Option<T>,
    ) -> Result<T, WaitError> {
        let deadline = tokio::time::Instant::from(Instant::now() + self.address);
        let mut seen = "nothing".to_owned();
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            pace.tick().await;
            let Ok(result) = timeout_at(deadline, sampler.ask()).await else {
                let awaited = awaited.to_owned();
                return Err(WaitError::TimedOut { awaited, seen, after: self.address });
            };
            match (is_it(&result), result) {
                (Some(found), _) => return Ok(found),
                (None, Err(failure)) => seen = failure.to_string(),
                (None, Ok(_)) => seen = "a good answer".to_owned(),
            }
        }
    }
}

/// What kubectl shows in the place of an address that nobody has given yet.
pub const PENDING: &str = "<pending>";
/// Where a load balancer that may not bind a port says which it took instead, as `80=10080,443=10443`.
const PUBLISHED_PORT: &str = "canary-labs.dev/published-port";
/// Between two requests that ask whether something is so yet.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Where the object says that a port of its address is published.
fn published<K: Published>(object: &K, port: u16) -> Option<(String, u16)> {
    let host = object.address()?;
    let elsewhere = object.annotations().get(PUBLISHED_PORT).into_iter();
    let mut pairs = elsewhere.flat_map(|text| text.split(',')).filter_map(|pair| {
        let (of, at) = pair.split_once('=')?;
        Some((of.trim().parse::<u16>().ok()?, at.trim().parse::<u16>().ok()?))
    });
    let port = pairs.find(|(of, _)| *of == port).map_or(port, |(_, at)| at);
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check<K: Published>(status: &Value, expected: Option<&str>) {
        let mut object = json!({"status": status});
        let read = |object: &Value| -> K { serde_json::from_value(object.clone()).unwrap() };
        let at = |port| expected.map(|host| (host.to_owned(), port));
        assert_eq!(published(&read(&object), 80), at(80), "{status}");
        object["metadata"] = json!({"annotations": {PUBLISHED_PORT: "443=10443,80=10080"}});
        for (port, published_port) in [(80, 10080), (443, 10443), (8443, 8443)] {
            assert_eq!(published(&read(&object), port), at(published_port), "{status}");
        }
    }

    #[test]
    fn addresses_are_read_from_the_status() {
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
