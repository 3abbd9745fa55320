//! Gateways and HTTP routes of the Gateway API, as far as the labs read them: the class that serves them,
//! addresses, conditions, and whether a route is live.

use super::{
    external::{Exposed, PROBE_INTERVAL},
    namespace_client::NamespaceClient,
    wait::{self, Objects, Progress, WaitError, until},
};
use crate::sampler::Sampler;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde::Deserialize;
use serde_json::Value;
use std::time::Instant;

/// The API group.
const GROUP: &str = "gateway.networking.k8s.io";
/// The response header with the name of the route that a response came by, which the manifests set.
const ROUTE_HEADER: &str = "x-route";
/// The reason of a route that asks for something that its implementation does not support.
const UNSUPPORTED: &str = "UnsupportedValue";
/// The number of responses in a row that show that a change of a route is live.
const LIVE: usize = 20;

/// Declares resources with what the labs read of their status.
macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $plural:literal, $status:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        pub(crate) struct $name {
            #[serde(default)]
            metadata: ObjectMeta,
            #[serde(default)]
            status: $status,
        }

        impl k8s_openapi::Resource for $name {
            const API_VERSION: &'static str = "gateway.networking.k8s.io/v1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $name {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

resources! {
    /// A Gateway.
    Gateway, "Gateway", "gateways", GatewayStatus;
    /// A route of HTTP requests.
    HttpRoute, "HTTPRoute", "httproutes", RouteStatus;
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct GatewayStatus {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
    listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ListenerStatus {
    name: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RouteStatus {
    parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ParentStatus {
    conditions: Vec<Condition>,
}

impl Exposed for Gateway {
    fn address(&self) -> Option<String> {
        let programmed = self.status.conditions.iter().any(|c| is(c, "Programmed", "True"));
        let first = self.status.addresses.first().filter(|_| programmed)?;
        Some(first.value.clone())
    }

    fn without_address(&self) -> Option<String> {
        let own = self.status.conditions.iter().map(|condition| ("", condition));
        let of_listeners = self.status.listeners.iter().flat_map(|listener| {
            listener.conditions.iter().map(|condition| (&*listener.name, condition))
        });
        let mut all = own.chain(of_listeners);
        let (of, refused) = all.find(|(_, condition)| is(condition, "Accepted", "False"))?;
        let of = if of.is_empty() { String::new() } else { format!("listener {of}: ") };
        Some(format!("{of}{}", text(refused)))
    }
}

/// Returns true if the condition has this type and status.
fn is(condition: &Condition, type_: &str, status: &str) -> bool {
    condition.type_ == type_ && condition.status == status
}

/// Formats a condition: `Accepted=False (NoMatchingParent): …`.
fn text(condition: &Condition) -> String {
    let Condition { type_, status, reason, message, .. } = condition;
    format!("{type_}={status} ({reason}): {message}")
}

/// Returns the progress of a route to be accepted by its Gateway, with all references resolved, in its
/// newest form. References may be to objects that the implementation is about to see, so only a value
/// that it does not support is final.
fn accepted(route: &HttpRoute) -> Progress<()> {
    let generation = route.metadata.generation;
    let current = |condition: &&Condition| condition.observed_generation == generation;
    let of = |parent: &ParentStatus| {
        let conditions: Vec<_> = parent.conditions.iter().filter(current).cloned().collect();
        let has = |type_| conditions.iter().any(|c| is(c, type_, "True"));
        match conditions.iter().find(|c| c.status == "False") {
            Some(refused) if refused.reason == UNSUPPORTED => Progress::Failed(text(refused)),
            Some(refused) => Progress::Pending(text(refused)),
            None if has("Accepted") && has("ResolvedRefs") => Progress::Done(()),
            None => Progress::Pending("the change has not been observed yet".into()),
        }
    };
    let mut parents = route.status.parents.iter().map(of);
    match parents.find(|progress| *progress != Progress::Done(())) {
        Some(other) => other,
        None if route.status.parents.is_empty() => Progress::Pending("no Gateway has it".into()),
        None => Progress::Done(()),
    }
}

/// Returns true if the wait failed because the implementation does not support what the route asks for.
pub(crate) fn is_unsupported(error: &WaitError) -> bool {
    matches!(error, WaitError::Failed { why, .. } if why.contains(UNSUPPORTED))
}

impl NamespaceClient {
    /// Returns the Gateway class to use, or why there is none. A class that is named is awaited: it may be
    /// about to be created.
    pub(crate) async fn gateway_class(
        &self,
        wanted: Option<&str>,
    ) -> anyhow::Result<Result<String, String>> {
        let deadline = Instant::now() + self.stall();
        let mut pace = tokio::time::interval(PROBE_INTERVAL);
        loop {
            let found = match self.gateway_objects(GATEWAY_CLASS).await {
                Ok(classes) => choose_class(&classes, wanted),
                Err(kube::Error::Api(status)) if status.code == 404 => Err(format!(
                    "the cluster does not serve the Gateway API: it has no CustomResourceDefinition \
                     gatewayclasses.{GROUP}"
                )),
                Err(error) => return Err(error.into()),
            };
            if found.is_ok() || wanted.is_none() || Instant::now() > deadline {
                return Ok(found);
            }
            pace.tick().await;
        }
    }

    async fn gateway_objects(&self, kind: (&str, &str)) -> kube::Result<Vec<DynamicObject>> {
        let gvk = GroupVersionKind::gvk(GROUP, "v1", kind.0);
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.1);
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// Waits until a route is accepted and its references are resolved.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_route_accepted(&self, name: &str) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::by_name(name),
            &format!("acceptance of HTTPRoute {name}"),
            self.address(),
            |routes: &Objects<HttpRoute>| match routes.get(name) {
                None => Progress::Pending("no such HTTPRoute".into()),
                Some(route) => accepted(route),
            },
        )
        .await
    }

    /// Waits until every response of some in a row names this route. Behind several proxies they must
    /// last for the propagation delay. Which version responds does not matter, so waiting cannot make
    /// a wrong share look right.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_route_live(
        &self,
        sampler: &Sampler,
        route: &str,
    ) -> Result<(), WaitError> {
        let (after, started) = (self.address(), Instant::now());
        let (mut run, mut since) = (0, started);
        let mut last_seen = "nothing".to_owned();
        let mut pace = tokio::time::interval(PROBE_INTERVAL);
        while started.elapsed() < after {
            let seen = match sampler.fetch().await {
                Ok(response) => match response.header(ROUTE_HEADER) {
                    Some(name) if name == route => Ok(()),
                    other => Err(format!("status {}, route {other:?}", response.status)),
                },
                Err(failure) => Err(failure.to_string()),
            };
            if let Err(why) = seen {
                (run, since, last_seen) = (0, Instant::now(), why);
                pace.tick().await;
                continue;
            }
            run += 1;
            if run >= LIVE && since.elapsed() >= self.propagation {
                return Ok(());
            }
        }
        let awaited = format!("{LIVE} responses in a row by route {route}");
        Err(WaitError::TimedOut { awaited, last_seen, after })
    }
}

const GATEWAY_CLASS: (&str, &str) = ("GatewayClass", "gatewayclasses");

/// Chooses the class of that name, or else the only one, among those that a controller has accepted.
fn choose_class(classes: &[DynamicObject], wanted: Option<&str>) -> Result<String, String> {
    let accepted = |class: &&DynamicObject| {
        let conditions = class.data.pointer("/status/conditions").and_then(Value::as_array);
        let is_accepted = |c: &Value| c["type"] == "Accepted" && c["status"] == "True";
        conditions.is_some_and(|all| all.iter().any(is_accepted))
    };
    let names: Vec<String> =
        classes.iter().filter(accepted).map(|class| class.name_any()).collect();
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match (wanted, &*names) {
        (Some(wanted), _) if names.iter().any(|name| name == wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(format!(
            "no controller serves the Gateway class `{wanted}`; those served: {listed}"
        )),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err("no controller serves a Gateway class; see docs/gateway.md".to_owned()),
        (None, _) => Err(format!(
            "the cluster has several Gateway classes ({listed}); `--gateway-class <name>` chooses one"
        )),
    }
}

/// Sets the class of a Gateway.
pub(super) fn set_class(gateway: &mut Value, class: Option<&String>) {
    let is_gateway = gateway["kind"] == "Gateway"
        && gateway["apiVersion"].as_str().is_some_and(|version| version.starts_with(GROUP));
    if let (true, Some(class)) = (is_gateway, class) {
        gateway["spec"]["gatewayClassName"] = Value::from(class.as_str());
    }
}

/// The kinds that the labs create.
pub(crate) fn kinds() -> [ApiResource; 2] {
    [("HTTPRoute", "httproutes"), ("Gateway", "gateways")].map(|(kind, plural)| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", kind), plural)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn condition(type_: &str, status: &str, reason: &str, generation: i64) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "m",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn route_is_accepted_once_its_newest_form_is() {
        let progress = |conditions: &[Value]| {
            let parents = json!([{"conditions": conditions}]);
            accepted(&read(json!({"metadata": {"generation": 2}, "status": {"parents": parents}})))
        };
        let accepted_2 = condition("Accepted", "True", "Accepted", 2);
        let done = [accepted_2.clone(), condition("ResolvedRefs", "True", "ResolvedRefs", 2)];
        assert_eq!(progress(&done), Progress::Done(()));
        let old = [accepted_2.clone(), condition("ResolvedRefs", "True", "ResolvedRefs", 1)];
        assert!(matches!(progress(&old), Progress::Pending(_)));
        let missing = [accepted_2, condition("ResolvedRefs", "False", "BackendNotFound", 2)];
        let text = "ResolvedRefs=False (BackendNotFound): m".to_owned();
        assert_eq!(progress(&missing), Progress::Pending(text));
        let unsupported = [condition("Accepted", "False", "UnsupportedValue", 2)];
        assert!(matches!(progress(&unsupported), Progress::Failed(_)));
        let none = accepted(&read(json!({"metadata": {"generation": 1}})));
        assert_eq!(none, Progress::Pending("no Gateway has it".into()));
    }

    #[test]
    fn gateway_has_an_address_once_it_is_programmed() {
        let gateway = |conditions: Value, listeners: Value| -> Gateway {
            read(json!({"status": {"addresses": [{"value": "127.1.3.1"}],
                "conditions": conditions, "listeners": listeners}}))
        };
        let programmed = gateway(json!([condition("Programmed", "True", "P", 1)]), json!([]));
        assert_eq!(programmed.address(), Some("127.1.3.1".into()));
        let refused = condition("Accepted", "False", "UnsupportedProtocol", 1);
        let pending = gateway(json!([]), json!([{"name": "http", "conditions": [refused]}]));
        assert_eq!(pending.address(), None);
        let why = "listener http: Accepted=False (UnsupportedProtocol): m";
        assert_eq!(pending.without_address(), Some(why.into()));
    }

    #[test]
    fn class_is_the_one_named_or_the_only_one() {
        let class = |name: &str, accepted: &str| -> DynamicObject {
            let status = json!({"conditions": [{"type": "Accepted", "status": accepted}]});
            read(json!({"metadata": {"name": name}, "status": status}))
        };
        let (a, b, refused) = (class("a", "True"), class("b", "True"), class("r", "False"));
        let both = [a.clone(), b, refused.clone()];
        assert_eq!(choose_class(&both, Some("b")), Ok("b".into()));
        assert_eq!(choose_class(&[a, refused], None), Ok("a".into()));
        for (classes, wanted, text) in [
            (&both[..], Some("r"), "`r`; those served: a, b"),
            (&both, None, "several Gateway classes (a, b)"),
            (&[], None, "no controller serves"),
            (&[], Some("a"), "those served: none"),
        ] {
            let error = choose_class(classes, wanted).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn class_of_gateways_alone_is_set() {
        let object = |kind: &str| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "spec": {"gatewayClassName": "kube-embedded"}})
        };
        for (kind, class, expected) in [
            ("Gateway", Some("eg"), "eg"),
            ("Gateway", None, "kube-embedded"),
            ("X", Some("eg"), "kube-embedded"),
        ] {
            let mut changed = object(kind);
            set_class(&mut changed, class.map(str::to_owned).as_ref());
            assert_eq!(changed["spec"]["gatewayClassName"], expected, "{kind}");
        }
    }
}
