//! Which class the labs' Ingress is of on the cluster at hand, and what to say where nobody serves it.

use super::Scope;
use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Event, networking::v1::IngressClass as Listed};
use kube::{Api, ResourceExt as _, api::ListParams};
use lab_environment::IngressClass;
use serde_json::{Value, json};

/// How classes were named before `spec.ingressClassName`, and on GKE still are.
pub(super) const ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Marks the class of Ingresses that name none.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Makes an Ingress name its class in that way and no other.
pub(super) fn fit(ingress: &mut Value, class: &IngressClass) {
    let (annotation, field) = match class {
        IngressClass::Unnamed => return,
        IngressClass::Annotation(name) => (Some(name), None),
        IngressClass::Field(name) => (None, Some(name)),
    };
    put(&mut ingress["metadata"]["annotations"], ANNOTATION, annotation);
    put(&mut ingress["spec"], "ingressClassName", field);
}

fn put(object: &mut Value, key: &str, value: Option<&String>) {
    match (value, object.as_object_mut()) {
        (Some(value), _) => object[key] = json!(value),
        (None, Some(object)) => _ = object.remove(key),
        // Indexing has made it null, which no API takes.
        (None, None) => *object = json!({}),
    }
}

impl Scope {
    /// An error if the class is one that the cluster does not know, so that nobody waits for an address
    /// in vain. Of a class in an annotation that cannot be told: it need not be listed.
    pub async fn knows_class(&self, class: &IngressClass) -> anyhow::Result<()> {
        let IngressClass::Field(name) = class else { return Ok(()) };
        let classes = self.classes().await?;
        if !classes.iter().any(|class| class.name_any() == *name) {
            bail!("nobody serves the Ingress class `{name}`: {}", listed(&classes));
        }
        Ok(())
    }

    /// Why that Ingress of that class has got no address, as far as its events and the cluster's classes
    /// tell.
    pub async fn unserved(&self, name: &str, class: &IngressClass) -> String {
        let guess = self.nobody_serves(class).await;
        match self.last_warning("Ingress", name).await {
            Ok(Some(said)) => format!("the cluster's last word on it: {said}; {guess}"),
            Ok(None) => guess,
            Err(error) => format!("{guess}; {error:#}"),
        }
    }

    async fn nobody_serves(&self, class: &IngressClass) -> String {
        let classes = match self.classes().await {
            Ok(classes) => classes,
            Err(error) => return format!("{error:#}"),
        };
        let who = match class {
            IngressClass::Unnamed => {
                "perhaps nobody serves an Ingress that names no class".to_owned()
            }
            IngressClass::Annotation(name) => {
                format!(
                    "perhaps nobody serves the Ingress class `{name}` of the annotation {ANNOTATION}"
                )
            }
            IngressClass::Field(name) => {
                format!(
                    "perhaps nobody serves the Ingress class `{name}`, though there is one of that name"
                )
            }
        };
        format!("{who}: {}", listed(&classes))
    }

    /// What the newest warning about an object says.
    async fn last_warning(&self, kind: &str, name: &str) -> anyhow::Result<Option<String>> {
        let about = format!("type=Warning,involvedObject.kind={kind},involvedObject.name={name}");
        let found = self.api::<Event>().list(&ListParams::default().fields(&about)).await;
        let events = found.context("failed to list events")?.items;
        let newest = events.into_iter().max_by_key(happened);
        Ok(newest.map(|event| {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message);
            format!("{reason}: {}", message.unwrap_or_default())
        }))
    }

    async fn classes(&self) -> anyhow::Result<Vec<Listed>> {
        let classes: Api<Listed> = Api::all(self.client.clone());
        let found = classes.list(&ListParams::default()).await;
        Ok(found.context("failed to list Ingress classes")?.items)
    }
}

/// Newer ways to write events leave the older times out.
fn happened(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0)).or(made)
}

/// What there is to choose from.
fn listed(classes: &[Listed]) -> String {
    let named = classes.iter().map(|class| {
        let marked = class.annotations().get(DEFAULT).is_some_and(|marked| marked == "true");
        format!("`{}`{}", class.name_any(), if marked { " (the default)" } else { "" })
    });
    match named.collect::<Vec<_>>().as_slice() {
        [] => {
            "`kubectl get ingressclass` lists none, so perhaps no Ingress controller runs there; \
               on GKE `--ingress-class gce` is one"
                .to_owned()
        }
        names => format!(
            "`kubectl get ingressclass` lists {}; `--ingress-class <name>` chooses one",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_names_its_class_in_one_way() {
        let plain = json!({"metadata": {"name": "i"}, "spec": {"rules": []}});
        let both = json!({
            "metadata": {"name": "i", "annotations": {ANNOTATION: "a", "other": "stays"}},
            "spec": {"ingressClassName": "f", "rules": []}});
        let fitted = |of: &Value, class: IngressClass| {
            let mut ingress = of.clone();
            fit(&mut ingress, &class);
            ingress
        };
        assert_eq!(fitted(&both, IngressClass::Unnamed), both);
        assert_eq!(
            fitted(&plain, IngressClass::Annotation("gce".into())),
            json!({"metadata": {"name": "i", "annotations": {ANNOTATION: "gce"}},
                "spec": {"rules": []}})
        );
        assert_eq!(
            fitted(&both, IngressClass::Annotation("gce".into())),
            json!({"metadata": {"name": "i", "annotations": {ANNOTATION: "gce", "other": "stays"}},
                "spec": {"rules": []}})
        );
        let field = fitted(&plain, IngressClass::Field("nginx".into()));
        assert_eq!(field["spec"], json!({"ingressClassName": "nginx", "rules": []}));
        assert_eq!(field["metadata"]["annotations"], json!({}));
        let field = fitted(&both, IngressClass::Field("nginx".into()));
        assert_eq!(field["metadata"]["annotations"], json!({"other": "stays"}));
    }
}
