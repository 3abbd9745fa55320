//! The class of the labs' Ingress on the target cluster, and hints for a class that no controller serves.

use super::{checks, namespace_client::NamespaceClient};
use crate::expectation::ExpectedRoute;
use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Event, Secret, Service},
    networking::v1::{Ingress, IngressClass as IngressClassResource},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use lab_environment::IngressClass;
use serde_json::{Value, json};

/// The annotation used before `spec.ingressClassName` existed, and still required on GKE.
const ANNOTATION: &str = "kubernetes.io/ingress.class";
/// The annotation that marks the default class.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Makes an Ingress name its class in this way and no other.
pub(super) fn set_class(ingress: &mut Value, class: &IngressClass) {
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
        // Indexing above turned a missing object into null, which the API server rejects.
        (None, None) => *object = json!({}),
    }
}

impl NamespaceClient {
    /// Returns an error if no IngressClass of that name exists, since an address would never be assigned.
    /// A class named by annotation is not checked: it needs no IngressClass.
    pub(crate) async fn check_ingress_class(&self, class: &IngressClass) -> anyhow::Result<()> {
        let IngressClass::Field(name) = class else { return Ok(()) };
        let classes = self.classes().await?;
        if !classes.iter().any(|class| class.name_any() == *name) {
            bail!("no controller serves the Ingress class `{name}`: {}", available(&classes));
        }
        Ok(())
    }

    /// Returns the fault of an Ingress that names a class which does not exist.
    pub(crate) async fn check_class_exists(&self, name: &str) -> anyhow::Result<()> {
        let ingress = self.api::<Ingress>().get(name).await.context("failed to get the Ingress")?;
        let classes = self.classes().await?;
        let classes: Vec<String> = classes.iter().map(|class| class.name_any()).collect();
        checks::class_fault(&ingress, &classes).map_or(Ok(()), |fault| Err(fault.into()))
    }

    /// Returns how an Ingress routes one of these requests elsewhere than expected.
    pub(crate) async fn misroute(
        &self,
        name: &str,
        expected: &[ExpectedRoute],
    ) -> anyhow::Result<Option<String>> {
        let ingress = self.api::<Ingress>().get(name).await.context("failed to get the Ingress")?;
        let all = ListParams::default();
        let services = self.api::<Service>().list(&all).await.context("failed to list Services")?;
        let secrets = self.api::<Secret>().list_metadata(&all).await;
        let secrets = secrets.context("failed to list Secrets")?;
        let secrets = secrets.iter().map(|secret| secret.name_any()).collect();
        let fault = expected.iter().find_map(|request| {
            checks::missing_fault(&ingress, request, &services.items, &secrets)
                .or_else(|| checks::route_fault(&ingress, request))
        });
        Ok(fault.map(|fault| fault.why))
    }

    /// Describes why an Ingress of that class has no address, from its events and the cluster's classes.
    pub(crate) async fn explain_pending_ingress(&self, name: &str, class: &IngressClass) -> String {
        let guess = self.unserved_class_hint(class).await;
        match self.last_warning("Ingress", name).await {
            Ok(Some(warning)) => format!("last warning event: {warning}; {guess}"),
            Ok(None) => guess,
            Err(error) => format!("{guess}; {error:#}"),
        }
    }

    async fn unserved_class_hint(&self, class: &IngressClass) -> String {
        let classes = match self.classes().await {
            Ok(classes) => classes,
            Err(error) => return format!("{error:#}"),
        };
        let hint = match class {
            IngressClass::Unnamed => {
                "perhaps no controller serves an Ingress that names no class".to_owned()
            }
            IngressClass::Annotation(name) => {
                format!(
                    "perhaps no controller serves the Ingress class `{name}` of the annotation {ANNOTATION}"
                )
            }
            IngressClass::Field(name) => {
                format!(
                    "perhaps no controller serves the Ingress class `{name}`, although it exists"
                )
            }
        };
        format!("{hint}: {}", available(&classes))
    }

    /// Returns the newest warning event about an object.
    async fn last_warning(&self, kind: &str, name: &str) -> anyhow::Result<Option<String>> {
        let about = format!("type=Warning,involvedObject.kind={kind},involvedObject.name={name}");
        let found = self.api::<Event>().list(&ListParams::default().fields(&about)).await;
        let events = found.context("failed to list events")?.items;
        let newest = events.into_iter().max_by_key(event_time);
        Ok(newest.map(|event| {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message);
            format!("{reason}: {}", message.unwrap_or_default())
        }))
    }

    async fn classes(&self) -> anyhow::Result<Vec<IngressClassResource>> {
        let classes: Api<IngressClassResource> = Api::all(self.client.clone());
        let found = classes.list(&ListParams::default()).await;
        Ok(found.context("failed to list Ingress classes")?.items)
    }
}

/// Returns the time of an event; newer recorders leave out the older fields.
fn event_time(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0)).or(created)
}

/// Formats the available classes.
fn available(classes: &[IngressClassResource]) -> String {
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
    fn class_is_set_in_exactly_one_way() {
        let plain = json!({"metadata": {"name": "i"}, "spec": {"rules": []}});
        let both = json!({
            "metadata": {"name": "i", "annotations": {ANNOTATION: "a", "other": "stays"}},
            "spec": {"ingressClassName": "f", "rules": []}});
        let with_class = |of: &Value, class: IngressClass| {
            let mut ingress = of.clone();
            set_class(&mut ingress, &class);
            ingress
        };
        assert_eq!(with_class(&both, IngressClass::Unnamed), both);
        assert_eq!(
            with_class(&plain, IngressClass::Annotation("gce".into())),
            json!({"metadata": {"name": "i", "annotations": {ANNOTATION: "gce"}},
                "spec": {"rules": []}})
        );
        assert_eq!(
            with_class(&both, IngressClass::Annotation("gce".into())),
            json!({"metadata": {"name": "i", "annotations": {ANNOTATION: "gce", "other": "stays"}},
                "spec": {"rules": []}})
        );
        let field = with_class(&plain, IngressClass::Field("nginx".into()));
        assert_eq!(field["spec"], json!({"ingressClassName": "nginx", "rules": []}));
        assert_eq!(field["metadata"]["annotations"], json!({}));
        let field = with_class(&both, IngressClass::Field("nginx".into()));
        assert_eq!(field["metadata"]["annotations"], json!({"other": "stays"}));
    }
}
