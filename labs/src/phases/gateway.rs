//! What the phases with a Gateway share: its address, and routes that are applied and live.

use crate::claim::Verdict;
use crate::context::Context;
use crate::expectation::{ExpectedDeployment, ExpectedService};
use crate::kubernetes::{
    external::ExternalAddress,
    gateway::{Gateway, is_unsupported},
    mutate,
    namespace_client::NamespaceClient,
    pods,
    wait::{WaitError, split_infra_errors},
};
use crate::sampler::Sampler;
use crate::step::Command;
use anyhow::Context as _;
use lab_environment::Environment;

/// Names in the manifests.
pub(super) const PRODUCTION: &str = "kubeapp-production";
pub(super) const CANARY: &str = "kubeapp-canary";
pub(super) const CONTAINER: &str = "kubeapp";
pub(super) const STABLE_PODS: &str = "app=kubeapp,env=production";
pub(super) const CANARY_PODS: &str = "app=kubeapp,env=canary";
const GATEWAY: &str = "app-gateway";
const ROUTE: &str = "app-route";
const HTTP: u16 = 80;
/// The Service of each version, and the labels of its pods.
const SERVICES: [(&str, &str); 2] =
    [("kubeapp-production-service", STABLE_PODS), ("kubeapp-canary-service", CANARY_PODS)];

/// Sets `$GATEWAY`, which later commands of a step use, and asks there.
pub(super) const ADDRESS: Command = Command::Look(
    "GATEWAY=$(kubectl --namespace get gateway/app-gateway -o jsonpath='{.status.addresses[0].value}'); curl -i http://$GATEWAY/version",
);

/// Both versions, a pod each, behind a Gateway.
pub(super) struct Routed<'a> {
    pub(super) context: &'a Context,
    pub(super) namespace: NamespaceClient,
    /// That of the context, with the class of the Gateway.
    pub(super) environment: Environment,
    external: ExternalAddress,
}

/// Returns the environment with the class of the Gateway, or skips every claim of the lab where no
/// Gateway can be had.
pub(super) async fn environment(context: &Context) -> anyhow::Result<Option<Environment>> {
    let wanted = context.environment().gateway_class.as_deref();
    match context.namespace_client().gateway_class(wanted).await? {
        Ok(class) => {
            let environment = context.environment().clone();
            Ok(Some(Environment { gateway_class: Some(class), ..environment }))
        }
        Err(why) => {
            let open: Vec<_> = context.open_claims().map(|claim| claim.id).collect();
            for claim in open {
                context.judge(claim, Verdict::skipped(why.clone())).await?;
            }
            Ok(None)
        }
    }
}

impl<'a> Routed<'a> {
    /// Applies one pod of each version, then the Gateway and a route that sends all requests to stable.
    pub(super) async fn set_up(
        context: &'a Context,
        environment: Environment,
    ) -> anyhow::Result<Self> {
        let namespace = context.namespace_client();
        context.expect(|expected| {
            for (service, selects) in SERVICES {
                let service_expected = ExpectedService { selects, port: HTTP, type_: "NodePort" };
                expected.services.insert(service, service_expected);
            }
        });
        let versions = [
            (PRODUCTION, STABLE_PODS, context.stable()?, "ingress/app-production.yml"),
            (CANARY, CANARY_PODS, context.canary()?, "ingress/app-canary.yml"),
        ];
        for (name, labels, image, file) in versions {
            let image = image.name.clone();
            context.expect(|expected| {
                let deployment = ExpectedDeployment { replicas: 1, image, labels, ready: true };
                expected.deployments.insert(name, deployment);
            });
            if name == PRODUCTION {
                namespace.apply_edited(&environment, file, mutate::single).await?;
            } else {
                namespace.apply_file(&environment, file).await?;
            }
        }
        namespace.apply_file(&environment, "gateway/gateway.yml").await?;
        namespace.apply_file(&environment, "gateway/route-0.yml").await?;
        for (name, ..) in versions {
            namespace.wait_rolled_out(name).await?;
        }
        let found = namespace.wait_external_address::<Gateway>(GATEWAY, HTTP).await;
        let external = found.context("failed to reach the Gateway")?;
        let routed = Self { context, namespace, environment, external };
        routed.wait_settled().await?.map_err(anyhow::Error::msg)?;
        routed.wait_live("weight-0").await?.map_err(anyhow::Error::msg)?;
        Ok(routed)
    }

    /// The address of the Gateway.
    pub(super) fn address(&self) -> String {
        self.external.to_string()
    }

    /// A sampler of `/version`.
    pub(super) fn sampler(&self) -> Sampler {
        self.namespace.sampler(&self.external)
    }

    /// Applies a route and waits until it is live. The inner error says why it is not.
    ///
    /// # Errors
    /// If the manifest was refused, or the cluster is lost.
    pub(super) async fn route(&self, name: &str) -> anyhow::Result<Result<(), Unrouted>> {
        self.namespace.apply_file(&self.environment, &format!("gateway/route-{name}.yml")).await?;
        let name = match name.parse::<u8>() {
            Ok(weight) => format!("weight-{weight}"),
            Err(_) => name.to_owned(),
        };
        match self.namespace.wait_route_accepted(ROUTE).await {
            Ok(()) => Ok(self.wait_live(&name).await?.map_err(Unrouted::Fails)),
            Err(WaitError::Failed { why, awaited }) => {
                let error = WaitError::Failed { why: why.clone(), awaited };
                let unsupported = is_unsupported(&error);
                Ok(Err(if unsupported { Unrouted::Unsupported(why) } else { Unrouted::Fails(why) }))
            }
            Err(error) => Ok(split_infra_errors(Err(error))?.map_err(Unrouted::Fails)),
        }
    }

    /// Waits until no pod is ending, and each Service has exactly the pods that are left. The inner error
    /// says what did not happen.
    ///
    /// # Errors
    /// If the cluster is lost.
    pub(super) async fn wait_settled(&self) -> anyhow::Result<Result<(), String>> {
        let Self { namespace, .. } = self;
        if let Err(why) = split_infra_errors(namespace.wait_none_ending().await)? {
            return Ok(Err(why));
        }
        for (service, labels) in SERVICES {
            let pods = pods::names(&namespace.pods(labels).await?);
            let known = namespace.wait_endpoints(service, &pods).await;
            if let Err(why) = split_infra_errors(known)? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    async fn wait_live(&self, route: &str) -> anyhow::Result<Result<(), String>> {
        split_infra_errors(self.namespace.wait_route_live(&self.sampler(), route).await)
    }
}

/// The reason why a route is not live.
pub(super) enum Unrouted {
    /// The implementation does not support it.
    Unsupported(String),
    /// Any other.
    Fails(String),
}

impl Unrouted {
    /// The verdict on a claim that needs the route.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Unsupported(why) => {
                Verdict::skipped(format!("the Gateway's implementation does not support it: {why}"))
            }
            Self::Fails(why) => Verdict::fails(why),
        }
    }

    /// The reason.
    pub(super) fn why(self) -> String {
        match self {
            Self::Unsupported(why) | Self::Fails(why) => why,
        }
    }
}
