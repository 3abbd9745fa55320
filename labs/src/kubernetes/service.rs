//! The endpoints of Services.

use super::{
    namespace_client::NamespaceClient,
    wait::{self, Objects, Progress, WaitError, until},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};

/// Returns the pods in EndpointSlices, each with its readiness.
pub(crate) fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> BTreeMap<String, bool> {
    let all = slices.into_iter().flat_map(|slice| slice.endpoints.iter().flatten());
    all.filter_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref()?.name.clone()?;
        // The API defines that consumers treat an unknown condition as ready.
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

impl NamespaceClient {
    /// Waits until exactly these pods are the ready endpoints of a Service.
    pub(crate) async fn wait_endpoints(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("match of {service}'s endpoints with its {} pods", pods.len()),
            self.rollout,
            |slices: &Objects<EndpointSlice>| {
                let ready = ready(endpoints(slices.values().map(|slice| &**slice)));
                if ready == *pods {
                    Progress::Done(())
                } else {
                    Progress::Pending(difference(&ready, pods))
                }
            },
        )
        .await
    }

    /// Waits until a pod is an endpoint of a Service with this readiness.
    pub(crate) async fn wait_endpoint_readiness(
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
            |slices: &Objects<EndpointSlice>| match endpoints(slices.values().map(|slice| &**slice))
                .get(pod)
            {
                Some(found) if *found == ready => Progress::Done(()),
                Some(true) => Progress::Pending("it is a ready endpoint".into()),
                Some(false) => Progress::Pending("it is an endpoint, not ready".into()),
                None => Progress::Pending("it is not an endpoint".into()),
            },
        )
        .await
    }

    /// Waits until these pods are endpoints of a Service, ready or not.
    pub(crate) async fn wait_endpoints_include(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("{} endpoints of {service}", pods.len()),
            self.rollout,
            |slices: &Objects<EndpointSlice>| {
                let found = endpoints(slices.values().map(|slice| &**slice)).into_keys().collect();
                if pods.is_subset(&found) {
                    return Progress::Done(());
                }
                Progress::Pending(format!("{} endpoints", found.len()))
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
    fn endpoints_are_collected_from_all_slices() {
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
    fn difference_names_missing_and_extra_pods() {
        for (ready, expected, text) in [
            (&["a"][..], &["a", "b"][..], "1 ready, missing: b"),
            (&["a", "b"], &["a"], "2 ready, too many: b"),
            (&["c"], &["a"], "1 ready, missing: a; too many: c"),
        ] {
            assert_eq!(difference(&set(ready), &set(expected)), text);
        }
    }
}
