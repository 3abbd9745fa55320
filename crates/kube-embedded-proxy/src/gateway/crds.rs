//! The CustomResourceDefinitions of the Gateway API in a form of our own, without descriptions and
//! without the rules that the official ones have; and the class of the embedded cluster. Definitions
//! that a user installs instead are served as well.

use super::{
    api::{GatewayClass, GatewayClassSpec},
    object::{GROUP, Gvk},
    view::GATEWAY_CONTROLLER,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Client, Resource,
    api::{PostParams, Request},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// The name of the GatewayClass that an embedded cluster has.
pub const GATEWAY_CLASS: &str = "kube-embedded";

/// What differs between the definitions.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    scope: &'static str,
    /// The version that is stored.
    version: &'static str,
    /// Columns of `kubectl get`.
    columns: &'static [(&'static str, &'static str)],
}

const KINDS: [Kind; 10] = [
    Kind {
        kind: "GatewayClass",
        plural: "gatewayclasses",
        short: &["gc"],
        scope: "Cluster",
        version: "v1",
        columns: &[
            ("Controller", ".spec.controllerName"),
            ("Accepted", r#".status.conditions[?(@.type=="Accepted")].status"#),
        ],
    },
    Kind {
        kind: "Gateway",
        plural: "gateways",
        short: &["gtw"],
        scope: "Namespaced",
        version: "v1",
        columns: &[
            ("Class", ".spec.gatewayClassName"),
            ("Address", ".status.addresses[*].value"),
            ("Programmed", r#".status.conditions[?(@.type=="Programmed")].status"#),
        ],
    },
    Kind {
        kind: "HTTPRoute",
        plural: "httproutes",
        short: &[],
        scope: "Namespaced",
        version: "v1",
        columns: &[("Hostnames", ".spec.hostnames")],
    },
    Kind {
        kind: "GRPCRoute",
        plural: "grpcroutes",
        short: &[],
        scope: "Namespaced",
        version: "v1",
        columns: &[("Hostnames", ".spec.hostnames")],
    },
    Kind {
        kind: "TLSRoute",
        plural: "tlsroutes",
        short: &[],
        scope: "Namespaced",
        version: "v1",
        columns: &[],
    },
    Kind {
        kind: "TCPRoute",
        plural: "tcproutes",
        short: &[],
        scope: "Namespaced",
        version: "v1",
        columns: &[],
    },
    Kind {
        kind: "UDPRoute",
        plural: "udproutes",
        short: &[],
        scope: "Namespaced",
        version: "v1",
        columns: &[],
    },
    Kind {
        kind: "ListenerSet",
        plural: "listenersets",
        short: &["lset"],
        scope: "Namespaced",
        version: "v1",
        columns: &[("Accepted", r#".status.conditions[?(@.type=="Accepted")].status"#)],
    },
    Kind {
        kind: "BackendTLSPolicy",
        plural: "backendtlspolicies",
        short: &["btlspolicy"],
        scope: "Namespaced",
        version: "v1",
        columns: &[],
    },
    Kind {
        kind: "ReferenceGrant",
        plural: "referencegrants",
        short: &["refgrant"],
        scope: "Namespaced",
        version: "v1beta1",
        columns: &[],
    },
];

/// Creates the CustomResourceDefinitions that do not exist. Returns whether all do.
pub(super) async fn install(client: &Client) -> bool {
    for kind in &KINDS {
        let url = CustomResourceDefinition::url_path(&(), None);
        if !create::<CustomResourceDefinition>(client, &url, &kind.definition()).await {
            return false;
        }
    }
    true
}

impl Kind {
    fn definition(&self) -> Value {
        let Self { kind, plural, short, scope, .. } = self;
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{GROUP}"),
                "annotations": {
                    // Groups below k8s.io need one.
                    "api-approved.kubernetes.io":
                        "https://github.com/kubernetes-sigs/gateway-api/pull/4530",
                },
            },
            "spec": {
                "group": GROUP,
                "scope": scope,
                "names": {
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                    "plural": plural,
                    "singular": kind.to_ascii_lowercase(),
                    "categories": ["gateway-api"],
                    "shortNames": short,
                },
                "versions": [self.version("v1"), self.version("v1beta1")],
            },
        })
    }

    fn version(&self, name: &str) -> Value {
        let column = |name: &str, r#type: &str, path: &str| json!({ "name": name, "type": r#type, "jsonPath": path });
        let columns = self.columns.iter().map(|(name, path)| column(name, "string", path));
        let age = column("Age", "date", ".metadata.creationTimestamp");
        let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        json!({
            "name": name,
            "served": true,
            "storage": name == self.version,
            "subresources": { "status": {} },
            "additionalPrinterColumns": columns.chain([age]).collect::<Vec<_>>(),
            "schema": { "openAPIV3Schema": {
                "type": "object",
                "required": ["spec"],
                "properties": { "spec": open, "status": open },
            } },
        })
    }
}

/// Creates the class unless it exists. Returns whether it does.
pub(super) async fn create_class(client: &Client) -> bool {
    let class = json!({
        "apiVersion": format!("{GROUP}/{}", GatewayClassSpec::VERSION),
        "kind": GatewayClassSpec::KIND,
        "metadata": { "name": GATEWAY_CLASS },
        "spec": { "controllerName": GATEWAY_CONTROLLER },
    });
    create::<GatewayClass>(client, &GatewayClass::url_path(&(), None), &class).await
}

/// Creates an object unless it exists. Returns whether it does.
async fn create<K: Clone + Debug + DeserializeOwned>(
    client: &Client,
    url: &str,
    object: &Value,
) -> bool {
    let body = object.to_string().into_bytes();
    let request = Request::new(url).create(&PostParams::default(), body);
    let created = match request {
        Ok(request) => client.request::<K>(request).await.map(drop),
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    match created {
        Ok(()) => true,
        Err(kube::Error::Api(status)) if status.code == 409 => true,
        Err(error) => {
            tracing::warn!(url, %error, "failed to create an object of the Gateway API");
            false
        }
    }
}
