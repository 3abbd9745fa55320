//! From a Service to the pods behind it.

use super::{
    Scope,
    wait::{self, Seen, WaitError, until},
};
use anyhow::Context as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use std::collections::{BTreeMap, BTreeSet};

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

    /// Waits until these pods are endpoints of a Service, ready or not.
    pub async fn endpoints_include(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("{} endpoints of {service}", pods.len()),
            self.rollout,
            |slices: &BTreeMap<String, EndpointSlice>| {
                let found = endpoints(slices.values()).into_keys().collect();
                if pods.is_subset(&found) {
                    return Seen::Done(());
                }
                Seen::Waiting(format!("{} endpoints", found.len()))
            },
        )
        .await
    }
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
}
