//! The endpoints of Services.

use super::{
    checks,
    namespace_client::NamespaceClient,
    pods,
    wait::{self, Objects, Progress, WaitError, lasting, until},
};
use crate::sampler::Sampler;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt as _, api::ListParams};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The time after which a Service without a change is judged.
const RESTS: Duration = Duration::from_secs(2);

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

fn awaited(service: &str, pods: &BTreeSet<String>) -> String {
    format!("match of {service}'s endpoints with its {} pods", pods.len())
}

fn slices_of(service: &str) -> String {
    format!("kubernetes.io/service-name={service}")
}

fn ready(endpoints: BTreeMap<String, bool>) -> BTreeSet<String> {
    endpoints.into_iter().filter_map(|(pod, ready)| ready.then_some(pod)).collect()
}

impl NamespaceClient {
    /// Checks that a Service selects these pods and, if a port is given, that it leads to one that they
    /// listen on.
    ///
    /// # Errors
    /// The fault, or an error of the API.
    pub(crate) async fn check_service(
        &self,
        service: &str,
        port: Option<u16>,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        let awaited = format!("traffic from {service} to its pods");
        let environment = |error: kube::Error| WaitError::Environment {
            awaited: awaited.clone(),
            source: error.into(),
        };
        let found = self.api::<Service>().get_opt(service).await.map_err(environment)?;
        let Some(found) = found else {
            let why = format!("there is no Service {service}");
            return Err(WaitError::Failed { awaited, why });
        };
        let all = self.api::<Pod>().list(&ListParams::default()).await.map_err(environment)?;
        let pods: Vec<&Pod> =
            checks::current(&all.items).filter(|pod| pods.contains(&pod.name_any())).collect();
        let fault = checks::selector_fault(&found, pods.iter().copied())
            .or_else(|| checks::port_fault(&found, port?, pods));
        match fault {
            Some(fault) => Err(WaitError::Failed { awaited, why: fault.why }),
            None => Ok(()),
        }
    }

    /// Waits until exactly these pods are the ready endpoints of a Service and respond to the sampler.
    pub(crate) async fn wait_balanced(
        &self,
        service: &str,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        self.wait_endpoints(service, pods).await?;
        let found = self.api::<Service>().get(service).await;
        let spec = found.ok().and_then(|found| found.spec).unwrap_or_default();
        // One client would never meet the other pods.
        if spec.session_affinity.as_deref() == Some("ClientIP") && pods.len() > 1 {
            let awaited = format!("response from each of {} pods alone", pods.len());
            let why = format!("{service} has `sessionAffinity: ClientIP`");
            return Err(WaitError::Failed { awaited, why });
        }
        self.wait_converged(sampler, pods).await
    }

    /// Completes when a Service that has not changed for [`RESTS`] does not select these pods, or selects
    /// another that nothing has deleted in that time.
    async fn selects_others(&self, service: &str, pods: &BTreeSet<String>) -> WaitError {
        let mut others = BTreeSet::new();
        loop {
            // One that is being changed may be right in a moment.
            let selector = |services: &Objects<Service>| {
                let spec = services.get(service).and_then(|found| found.spec.as_ref());
                Some(spec.and_then(|spec| spec.selector.clone()))
            };
            lasting(self.api(), wait::by_name(service), RESTS, selector).await;
            if let Err(error) = self.check_service(service, None, pods).await {
                return error;
            }
            let before = std::mem::take(&mut others);
            others = self.selected_besides(service, pods).await.unwrap_or_default();
            if let Some(other) = others.intersection(&before).next() {
                let awaited = awaited(service, pods);
                let why = format!("{service} selects {other} as well");
                return WaitError::Failed { awaited, why };
            }
        }
    }

    /// Returns the ready pods that a Service selects, without these.
    async fn selected_besides(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> kube::Result<BTreeSet<String>> {
        let found = self.api::<Service>().get(service).await?;
        let all = self.api::<Pod>().list(&ListParams::default()).await?;
        let selected = checks::current(&all.items)
            .filter(|pod| pods::is_ready(pod) && checks::selects(&found, pod));
        let names = selected.map(|pod| pod.name_any());
        Ok(names.filter(|name| !pods.contains(name)).collect())
    }

    /// Waits until exactly these pods are the ready endpoints of a Service. Ends soon if it does not
    /// select them.
    pub(crate) async fn wait_endpoints(
        &self,
        service: &str,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        let awaited = awaited(service, pods);
        let matched = until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &awaited,
            self.rollout(),
            |slices: &Objects<EndpointSlice>| {
                let ready = ready(endpoints(slices.values().map(|slice| &**slice)));
                if ready == *pods {
                    Progress::Done(())
                } else {
                    Progress::Pending(difference(&ready, pods))
                }
            },
        );
        tokio::select! {
            biased;
            matched = matched => matched,
            error = self.selects_others(service, pods) => Err(error),
            fault = self.node_fault() => {
                Err(WaitError::Environment { awaited: awaited.clone(), source: fault.into() })
            }
        }
    }

    /// Waits until a pod is an endpoint of a Service with this readiness.
    pub(crate) async fn wait_endpoint_readiness(
        &self,
        service: &str,
        pod: &str,
        ready: bool,
    ) -> Result<(), WaitError> {
        let word = if ready { "ready" } else { "unready" };
        let found = self.api::<Service>().get(service).await.ok().and_then(|found| found.spec);
        if !ready && found.and_then(|spec| spec.publish_not_ready_addresses) == Some(true) {
            let awaited = format!("{word} endpoint {pod} of {service}");
            let why = format!("{service} has `publishNotReadyAddresses`");
            return Err(WaitError::Failed { awaited, why });
        }
        until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &format!("{word} endpoint {pod} of {service}"),
            self.rollout(),
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
        let awaited = format!("{} endpoints of {service}", pods.len());
        let included = until(
            self.api(),
            wait::Config::default().labels(&slices_of(service)),
            &awaited,
            self.rollout(),
            |slices: &Objects<EndpointSlice>| {
                let found = endpoints(slices.values().map(|slice| &**slice)).into_keys().collect();
                if pods.is_subset(&found) {
                    return Progress::Done(());
                }
                Progress::Pending(format!("{} endpoints", found.len()))
            },
        );
        tokio::select! {
            biased;
            included = included => included,
            error = self.selects_others(service, pods) => Err(error),
        }
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
