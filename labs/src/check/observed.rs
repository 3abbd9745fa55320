//! The state of a participant's namespace.

use crate::claim::Verdict;
use crate::kubernetes::{
    external::{Exposed, ExternalAddress, published_address},
    namespace_client::NamespaceClient,
    pods, service,
    wait::split_infra_errors,
};
use crate::reset;
use crate::sampler::{Sample, Sampler};
use crate::verdicts;
use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use lab_environment::Environment;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The timeout of the first request of a check.
const CONNECT: Duration = Duration::from_secs(5);

/// The objects of a namespace, and what is needed to ask for more.
pub(super) struct Observed<'a> {
    pub(super) client: kube::Client,
    pub(super) environment: &'a Environment,
    pub(super) namespace: NamespaceClient,
    pub(super) deployments: BTreeMap<String, Deployment>,
    pub(super) sets: Vec<ReplicaSet>,
    pub(super) pods: Vec<Pod>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) ingresses: BTreeMap<String, Ingress>,
    slices: Vec<EndpointSlice>,
    pub(super) events: Vec<Event>,
    samples: Mutex<Vec<(String, Sample)>>,
}

impl<'a> Observed<'a> {
    pub(super) async fn read(
        client: kube::Client,
        environment: &'a Environment,
        name: &str,
    ) -> anyhow::Result<Self> {
        exists(&client, name).await?;
        let namespace = NamespaceClient::new(client.clone(), name, &environment.timeouts);
        let (deployments, sets, pods, services, ingresses, slices, events) = tokio::try_join!(
            list::<Deployment>(namespace.api()),
            list::<ReplicaSet>(namespace.api()),
            list::<Pod>(namespace.api()),
            list::<Service>(namespace.api()),
            list::<Ingress>(namespace.api()),
            list::<EndpointSlice>(namespace.api()),
            list::<Event>(namespace.api()),
        )?;
        let observed = Self {
            client,
            environment,
            namespace,
            deployments: by_name(deployments),
            sets,
            pods: pods.into_iter().filter(|pod| !pods::is_terminating(pod)).collect(),
            services: by_name(services),
            ingresses: by_name(ingresses),
            slices,
            events,
            samples: Mutex::default(),
        };
        observed.is_here(name).await?;
        Ok(observed)
    }

    /// Fails if the namespace is empty and another holds the app.
    async fn is_here(&self, name: &str) -> anyhow::Result<()> {
        let published = self.services.keys().any(|service| service != "kubernetes");
        if published || !self.deployments.is_empty() {
            return Ok(());
        }
        match elsewhere(&self.client).await {
            Some(other) => bail!(
                "namespace `{name}` is empty, but `{other}` holds the app: it was applied there; \
                 check that one with `--namespace {other}`, or delete it there and apply it with \
                 `kubectl --namespace={name}`"
            ),
            None => Ok(()),
        }
    }

    /// Returns true if something was edited, or other pods or endpoints are there, or with another readiness.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let pods = |observed: &Self| -> BTreeSet<_> {
            let pods = observed.pods.iter();
            pods.map(|pod| (pod.uid(), pods::is_ready(pod), pods::image(pod).to_owned())).collect()
        };
        let specs = |observed: &Self| {
            let deployments = observed.deployments.values().map(|d| d.spec.clone());
            let services = observed.services.values().map(|s| s.spec.clone());
            let ingresses = observed.ingresses.values().map(|i| i.spec.clone());
            let (deployments, services): (Vec<_>, Vec<_>) =
                (deployments.collect(), services.collect());
            let endpoints = observed.slices.iter().map(|slice| slice.endpoints.clone());
            (deployments, services, ingresses.collect::<Vec<_>>(), endpoints.collect::<Vec<_>>())
        };
        pods(self) != pods(other) || specs(self) != specs(other)
    }

    /// The names of ready pods with these labels.
    pub(super) fn ready(&self, labels: &str) -> BTreeSet<String> {
        let ready = self.pods.iter().filter(|p| pods::is_ready(p) && pods::has_labels(p, labels));
        pods::names(ready)
    }

    /// The names of a Service's ready endpoints.
    pub(super) fn endpoints(&self, name: &str) -> BTreeSet<String> {
        let of = |slice: &&EndpointSlice| {
            slice.labels().get("kubernetes.io/service-name").is_some_and(|service| service == name)
        };
        let all = service::endpoints(self.slices.iter().filter(of));
        all.into_iter().filter_map(|(pod, ready)| ready.then_some(pod)).collect()
    }

    /// Returns true if a Deployment of that name was there, as its events tell.
    pub(super) fn existed(&self, deployment: &str) -> bool {
        self.events.iter().any(|event| {
            let object = &event.involved_object;
            let name = object.name.as_deref().unwrap_or_default();
            object.kind.as_deref() == Some("Deployment") && name == deployment
        })
    }

    /// The image in a Deployment's template.
    pub(super) fn image(&self, deployment: &str) -> Option<&str> {
        let template = &self.deployments.get(deployment)?.spec.as_ref()?.template;
        template.spec.as_ref()?.containers.first()?.image.as_deref()
    }

    /// Returns the address that an object is published at, if it has one.
    pub(super) async fn external<K: Exposed>(
        &self,
        object: Option<&K>,
        port: u16,
    ) -> anyhow::Result<Option<ExternalAddress>> {
        let Some(object) = object.filter(|object| published_address(*object, port).is_some())
        else {
            return Ok(None);
        };
        let name = object.meta().name.clone().unwrap_or_default();
        Ok(split_infra_errors(self.namespace.wait_external_address::<K>(&name, port).await)?.ok())
    }

    /// Sends requests.
    pub(super) async fn sample(&self, sampler: &Sampler, n: u64) -> anyhow::Result<Sample> {
        let sample = sampler.take(n, |_| {}).await?;
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push(("the requests of the check".to_owned(), sample.clone()));
        Ok(sample)
    }

    /// What was sampled so far.
    pub(super) fn samples(&self) -> Vec<(String, Sample)> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges that every request gets one version.
    pub(super) async fn all_are(
        &self,
        sampler: &Sampler,
        n: u64,
        version: &str,
    ) -> anyhow::Result<Verdict> {
        Ok(verdicts::all_are(&self.sample(sampler, n).await?, version))
    }

    /// A kubectl command in this namespace.
    pub(super) fn kubectl(&self, arguments: &str) -> String {
        format!("kubectl --namespace={} {arguments}", self.namespace.name())
    }
}

/// Returns another namespace that holds the app.
async fn elsewhere(client: &kube::Client) -> Option<String> {
    let everywhere: Api<Deployment> = Api::all(client.clone());
    // Not everyone may list all namespaces.
    let found = everywhere.list(&ListParams::default().labels("app=kubeapp")).await.ok()?;
    let namespaces = found.items.iter().filter_map(ResourceExt::namespace);
    for namespace in namespaces.collect::<BTreeSet<_>>() {
        // An exercise left there is no mistake.
        if !reset::is_ours(client, &namespace).await.unwrap_or(false) {
            return Some(namespace);
        }
    }
    None
}

/// Returns an error unless the cluster responds and the namespace exists.
pub(super) async fn exists(client: &kube::Client, name: &str) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let found = tokio::time::timeout(CONNECT, api.get_opt(name)).await;
    let found = found.map_err(anyhow::Error::from).and_then(|found| Ok(found?));
    let found = found.map_err(|error| match error.downcast_ref() {
        Some(kube::Error::Api(status)) => {
            anyhow::anyhow!("failed to read namespace `{name}`: {}", status.message)
        }
        _ => {
            let why = error.root_cause();
            anyhow::anyhow!(
                "the cluster does not respond ({why}); is it still running? see `cargo xtask status`"
            )
        }
    })?;
    let Some(found) = found else {
        let other = elsewhere(client)
            .await
            .map(|other| format!("; `{other}` holds the app, which `--namespace {other}` checks"));
        bail!(
            "there is no namespace `{name}`: create it with `kubectl create namespace {name}`{}",
            other.unwrap_or_default()
        );
    };
    if found.metadata.deletion_timestamp.is_some() {
        bail!(
            "namespace `{name}` is being deleted; create it again once it is gone, and start over"
        );
    }
    Ok(())
}

async fn list<K>(api: Api<K>) -> anyhow::Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + Debug + Resource<DynamicType = ()>,
{
    let listed = api.list(&ListParams::default()).await;
    Ok(listed.with_context(|| format!("failed to list {}", K::plural(&())))?.items)
}

fn by_name<K: ResourceExt>(objects: Vec<K>) -> BTreeMap<String, K> {
    objects.into_iter().map(|object| (object.name_any(), object)).collect()
}
