//! From a Service to what answers behind it: endpoints, external address, and the moment from which
//! a sample means something.

use super::{
    Scope,
    wait::{self, Seen, WaitError, until},
};
use crate::sample::Sampler;
use anyhow::Context as _;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::api::ListParams;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// Where a load balancer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Address or name, as the Service's status shows it.
    pub host: String,
    /// The port of the Service, or the one published in its stead.
    pub port: u16,
    /// The first address that the host stands for.
    pub socket: SocketAddr,
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The pods behind a Service: name, and whether they get traffic.
pub fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> BTreeMap<String, bool> {
    let all = slices.into_iter().flat_map(|slice| slice.endpoints.iter().flatten());
    all.filter_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref()?.name.clone()?;
        // Unknown counts as ready: that is what the API asks of consumers.
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        Some((pod, ready))
    })
    .collect()
}

fn slices_of(service: &str) -> String {
    format!("kubernetes.io/service-name={service}")
}

fn ready(endpoints: BTreeMap<String, bool>) -> BTreeSet<String> {
    endpoints.into_iter().filter_map(|(pod, ready)| ready.then_some(pod)).collect()
}

impl Scope {
    /// The pods behind a Service as its EndpointSlices show them now.
    pub async fn endpoints(&self, service: &str) -> anyhow::Result<BTreeMap<String, bool>> {
        let selected = ListParams::default().labels(&slices_of(service));
        let slices = self.api::<EndpointSlice>().list(&selected).await;
        let slices =
            slices.with_context(|| format!("failed to list the endpoints of {service}"))?;
        Ok(endpoints(&slices.items))
    }

    /// Waits until exactly these pods are the ready endpoints of a Service.
    pub async fn endpoints_are(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("match of {service}'s endpoints with its {} pods", pods.len()),
            self.rollout,
            |slices: &BTreeMap<String, EndpointSlice>| {
                let ready = ready(endpoints(slices.values()));
                if ready == *pods {
                    Seen::Done(())
                } else {
                    Seen::Waiting(difference(&ready, pods))
                }
            },
        )
        .await
    }

    /// Waits until one pod is an endpoint of a Service, ready or not as asked.
    pub async fn endpoint_is(
        &self,
        service: &str,
        pod: &str,
        ready: bool,
    ) -> Result<(), WaitError> {
        let word = if ready { "ready" } else { "unready" };
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("{word} endpoint {pod} of {service}"),
            self.rollout,
            |slices: &BTreeMap<String, EndpointSlice>| match endpoints(slices.values()).get(pod) {
                Some(found) if *found == ready => Seen::Done(()),
                Some(true) => Seen::Waiting("it is a ready endpoint".into()),
                Some(false) => Seen::Waiting("it is an endpoint, not ready".into()),
                None => Seen::Waiting("it is no endpoint".into()),
            },
        )
        .await
    }

    /// Waits until a load balancer has an external address. `port` is the Service's port.
    pub async fn external(&self, service: &str, port: u16) -> Result<External, WaitError> {
        let awaited = format!("external address of {service}");
        let (host, port) = until(
            self.api(),
            wait::named(service),
            &awaited,
            self.address,
            |found: &BTreeMap<String, Service>| match found.get(service) {
                None => Seen::Waiting("no such Service".into()),
                Some(service) => match published(service, port) {
                    Some(found) => Seen::Done(found),
                    None => Seen::Waiting("<pending>".into()),
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

    /// A sampler of `/version` at an address, once anything answers there.
    pub async fn answering(&self, external: &External) -> Result<Sampler, WaitError> {
        let sampler = Sampler::new(external.socket, &external.host, "/version", self.request);
        let deadline = tokio::time::Instant::from(Instant::now() + self.address);
        let mut seen = "nothing".to_owned();
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            pace.tick().await;
            match timeout_at(deadline, sampler.ask()).await {
                Ok(Ok(_)) => return Ok(sampler),
                Ok(Err(failure)) => seen = failure.to_string(),
                Err(_) => {
                    let awaited = format!("answer at {external}");
                    return Err(WaitError::TimedOut { awaited, seen, after: self.address });
                }
            }
        }
    }

    /// Waits until each of these pods has answered, and for a while nobody else and without failure:
    /// what EndpointSlices show reaches the data plane a moment later (kube-proxy gathers changes for
    /// a second), and a sample that starts before would measure that moment. It looks at who answers,
    /// never at how often, so it cannot make a wrong split look right.
    pub async fn settled(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        let patience = self.address.min(SETTLES_WITHIN);
        let deadline = tokio::time::Instant::from(Instant::now() + patience);
        let mut run = Run::default();
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            match timeout_at(deadline, sampler.ask()).await {
                Ok(Ok(reply)) => run.answered(reply.pod, pods),
                Ok(Err(failure)) => {
                    run = Run { last: failure.to_string(), ..Run::default() };
                    pace.tick().await;
                }
                Err(_) => {
                    let awaited = format!("answer from each of {} pods alone", pods.len());
                    let seen = run.describe(pods);
                    return Err(WaitError::TimedOut { awaited, seen, after: patience });
                }
            }
            if run.is_settled(pods) {
                return Ok(());
            }
        }
    }
}

/// Where a load balancer that may not bind a port says which it took instead, as `80=10080,443=10443`.
const PUBLISHED_PORT: &str = "canary-labs.dev/published-port";
/// Cloud load balancers need minutes for an address, but only seconds to follow their endpoints.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Good answers in a row.
#[derive(Debug, Default)]
struct Run {
    seen: BTreeSet<String>,
    length: usize,
    last: String,
}

impl Run {
    fn answered(&mut self, pod: Option<String>, expected: &BTreeSet<String>) {
        let pod = pod.unwrap_or_default();
        if expected.contains(&pod) {
            self.length += 1;
            self.seen.insert(pod);
        } else {
            *self = Run { last: format!("an answer from `{pod}`"), ..Run::default() };
        }
    }

    fn is_settled(&self, expected: &BTreeSet<String>) -> bool {
        self.seen == *expected && self.length >= 3 * expected.len()
    }

    fn describe(&self, expected: &BTreeSet<String>) -> String {
        if self.length == 0 {
            return self.last.clone();
        }
        let silent: Vec<_> = expected.difference(&self.seen).map(String::as_str).collect();
        format!("{} answers in a row, none from {}", self.length, silent.join(", "))
    }
}

/// Where the status says that a port of a load balancer is published.
fn published(service: &Service, port: u16) -> Option<(String, u16)> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    let ingress = balancer.ingress.as_ref()?.first()?;
    let host = ingress.ip.clone().or_else(|| ingress.hostname.clone())?;
    let annotations = service.metadata.annotations.as_ref();
    let elsewhere = annotations.and_then(|all| all.get(PUBLISHED_PORT)).into_iter();
    let mut pairs = elsewhere.flat_map(|text| text.split(',')).filter_map(|pair| {
        let (of, at) = pair.split_once('=')?;
        Some((of.trim().parse::<u16>().ok()?, at.trim().parse::<u16>().ok()?))
    });
    let port = pairs.find(|(of, _)| *of == port).map_or(port, |(_, at)| at);
    Some((host, port))
}

fn difference(ready: &BTreeSet<String>, expected: &BTreeSet<String>) -> String {
    let list =
        |pods: Vec<&String>| pods.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let missing = list(expected.difference(ready).collect());
    let extra = list(ready.difference(expected).collect());
    match (missing.is_empty(), extra.is_empty()) {
        (false, true) => format!("{} ready, missing: {missing}", ready.len()),
        (true, false) => format!("{} ready, too many: {extra}", ready.len()),
        _ => format!("{} ready, missing: {missing}; too many: {extra}", ready.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn endpoints_come_from_all_slices() {
        let slice = |endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap()
        };
        let slices = [
            slice(json!([
                {"addresses": ["10.0.0.1"], "targetRef": {"name": "a"}, "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "targetRef": {"name": "b"}, "conditions": {"ready": false}}])),
            slice(json!([{"addresses": ["10.0.0.3"], "targetRef": {"name": "c"}},
                {"addresses": ["10.0.0.4"]}])),
            slice(json!(null)),
        ];
        let found = endpoints(&slices);
        let expected = [("a", true), ("b", false), ("c", true)];
        assert_eq!(found, expected.map(|(pod, ready)| (pod.to_owned(), ready)).into());
        assert_eq!(ready(found), set(&["a", "c"]));
    }

    #[test]
    fn differences_name_the_pods() {
        for (ready, expected, said) in [
            (&["a"][..], &["a", "b"][..], "1 ready, missing: b"),
            (&["a", "b"], &["a"], "2 ready, too many: b"),
            (&["c"], &["a"], "1 ready, missing: a; too many: c"),
        ] {
            assert_eq!(difference(&set(ready), &set(expected)), said);
        }
    }

    #[test]
    fn a_run_settles_when_all_and_only_the_expected_answer() {
        let expected = set(&["a", "b"]);
        for (answers, settled) in [
            (&["a", "b", "a", "b", "a", "b"][..], true),
            (&["a", "b"], false),
            (&["a", "a", "a", "a", "a", "a", "a"], false),
            (&["a", "b", "a", "b", "a", "gone"], false),
            (&["gone", "a", "b", "a", "b", "a", "a"], true),
        ] {
            let mut run = Run::default();
            answers.iter().for_each(|pod| run.answered(Some(pod.to_string()), &expected));
            assert_eq!(run.is_settled(&expected), settled, "{answers:?}");
        }
    }

    #[test]
    fn addresses_are_read_from_the_status() {
        for (status, expected) in [
            (json!({}), None),
            (json!({"loadBalancer": {}}), None),
            (json!({"loadBalancer": {"ingress": [{"ip": "127.1.1.1"}]}}), Some(("127.1.1.1", 80))),
            (json!({"loadBalancer": {"ingress": [{"hostname": "x.elb"}]}}), Some(("x.elb", 80))),
        ] {
            let mut service = serde_json::from_value(json!({"status": status})).unwrap();
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(published(&service, 80), expected, "{status}");
            let detour = [(PUBLISHED_PORT.to_owned(), "443=10443,80=10080".to_owned())];
            service.metadata.annotations = Some(detour.into());
            let expected = expected.map(|(host, _)| (host, 10080));
            assert_eq!(published(&service, 80), expected, "{status}");
        }
    }
}
