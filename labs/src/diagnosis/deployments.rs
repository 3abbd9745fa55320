//! The facts about Deployments, compared with those of the article.

use crate::expectation::{self, ExpectedDeployment};
use crate::kubernetes::{checks::selector_text, pods};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use serde::Serialize;

/// The state of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeploymentFacts {
    /// Its name.
    pub name: String,
    /// The number of replicas it asks for.
    pub replicas: i32,
    /// The number that the lab needs at this step.
    pub expected_replicas: Option<i32>,
    /// The image of its first container.
    pub image: String,
    /// The image that the lab needs at this step.
    pub expected_image: Option<String>,
    /// How the labels of its pods differ from the article's.
    pub other_labels: Option<String>,
    /// Why its pods cannot be created.
    pub replica_failure: Option<String>,
    /// The number of its templates so far.
    pub revision: u32,
    /// How a rollout may take away all pods at once.
    pub takes_all: Option<String>,
    /// What restricts its pods to certain nodes.
    pub pinned: Option<String>,
}

impl DeploymentFacts {
    /// Reads the state of a Deployment.
    pub(super) fn of(deployment: &Deployment, expected: Option<&ExpectedDeployment>) -> Self {
        let name = deployment.name_any();
        let spec = deployment.spec.clone().unwrap_or_default();
        let template = spec.template.spec.unwrap_or_default();
        let image = template.containers.first().and_then(|c| c.image.clone()).unwrap_or_default();
        let labels = spec.template.metadata.and_then(|meta| meta.labels).unwrap_or_default();
        let other_labels = expected.filter(|expected| {
            let mut wanted = expectation::labels(expected.labels);
            !wanted.all(|(key, value)| labels.get(key).is_some_and(|label| label == value))
        });
        let other_labels = other_labels.map(|expected| {
            let found = selector_text(&labels);
            format!(
                "the pods of {name} have the labels `{found}`, the article's `{}`",
                expected.labels
            )
        });
        let revision = deployment.annotations().get("deployment.kubernetes.io/revision");
        let replicas = spec.replicas.unwrap_or(1);
        let pinned = template.node_name.map(|node| format!("`nodeName: {node}`"));
        let pinned = pinned.or_else(|| {
            let selector = template.node_selector.filter(|selector| !selector.is_empty())?;
            Some(format!("`nodeSelector` {}", selector_text(&selector)))
        });
        let pinned = pinned.or_else(|| {
            let affinity = template.affinity?;
            (affinity.node_affinity.is_some() || affinity.pod_affinity.is_some())
                .then(|| "its affinity".to_owned())
        });
        Self {
            replicas,
            expected_replicas: expected.map(|expected| expected.replicas),
            image,
            expected_image: expected.map(|expected| expected.image.clone()),
            other_labels,
            replica_failure: pods::replica_failure(deployment),
            revision: revision.and_then(|text| text.parse().ok()).unwrap_or(0),
            takes_all: takes_all(deployment, replicas),
            pinned,
            name,
        }
    }
}

/// Returns how a rollout of this Deployment may take away all pods at once.
fn takes_all(deployment: &Deployment, replicas: i32) -> Option<String> {
    let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
    if strategy.type_.as_deref() == Some("Recreate") {
        return Some("its strategy is `Recreate`".to_owned());
    }
    let unavailable = strategy.rolling_update.as_ref()?.max_unavailable.as_ref()?;
    let (text, count) = match unavailable {
        IntOrString::Int(count) => (count.to_string(), *count),
        IntOrString::String(text) => {
            let percent: i32 = text.trim_end_matches('%').parse().ok()?;
            // Rounded down, as the Deployment controller does.
            (text.clone(), replicas.saturating_mul(percent) / 100)
        }
    };
    (replicas > 0 && count >= replicas)
        .then(|| format!("its strategy has `maxUnavailable: {text}` of {replicas}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn facts(spec: &Value, expected: Option<&ExpectedDeployment>) -> DeploymentFacts {
        let deployment = json!({"metadata": {"name": "d",
            "annotations": {"deployment.kubernetes.io/revision": "2"}}, "spec": spec});
        DeploymentFacts::of(&serde_json::from_value(deployment).unwrap(), expected)
    }

    fn spec() -> Value {
        let container = json!({"name": "c", "image": "kubeapp:1.0"});
        let labels = json!({"app": "kubeapp", "env": "canary", "more": "x"});
        json!({"replicas": 3, "selector": {}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [container]}}})
    }

    #[test]
    fn deployment_is_compared_with_the_articles() {
        let mut expected = ExpectedDeployment {
            replicas: 1,
            image: "kubeapp:2.0".into(),
            labels: "app=kubeapp,env=canary",
            ready: true,
        };
        let found = facts(&spec(), Some(&expected));
        assert_eq!((found.replicas, found.expected_replicas), (3, Some(1)));
        assert_eq!(
            (&*found.image, found.expected_image.as_deref()),
            ("kubeapp:1.0", Some("kubeapp:2.0"))
        );
        assert_eq!((found.other_labels, found.revision), (None, 2));
        expected.labels = "app=kubeapp,env=production";
        let found = facts(&spec(), Some(&expected)).other_labels;
        assert!(
            found.is_some_and(|why| why.ends_with("the article's `app=kubeapp,env=production`"))
        );
        assert_eq!(facts(&spec(), None).expected_replicas, None);
    }

    #[test]
    fn strategy_that_may_take_all_pods_is_recognized() {
        let rolling =
            |value: Value| json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": value}});
        for (strategy, takes) in [
            (json!({"type": "Recreate"}), true),
            (rolling(json!(3)), true),
            (rolling(json!("100%")), true),
            (rolling(json!(1)), false),
            (rolling(json!("67%")), false),
            (json!({"type": "RollingUpdate"}), false),
        ] {
            let mut spec = spec();
            spec["strategy"] = strategy.clone();
            assert_eq!(facts(&spec, None).takes_all.is_some(), takes, "{strategy}");
        }
    }

    #[test]
    fn restriction_to_nodes_is_recognized() {
        for (field, value) in [
            ("nodeName", json!("node-2")),
            ("nodeSelector", json!({"disk": "ssd"})),
            ("affinity", json!({"nodeAffinity": {}})),
        ] {
            let mut spec = spec();
            assert_eq!(facts(&spec, None).pinned, None);
            spec["template"]["spec"][field] = value;
            assert!(facts(&spec, None).pinned.is_some(), "{field}");
        }
    }
}
