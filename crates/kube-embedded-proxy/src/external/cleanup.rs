//! What the edge writes to an external cluster in addition to its Lease, and removes: the class of its
//! Ingresses, and addresses. Only addresses of blocks that an edge may claim are removed: other
//! controllers assign loopback addresses, too, as `minikube tunnel` does with 127.0.0.1.

use super::error::{EdgeError, REQUEST_TIMEOUT};
use crate::{
    ingress::{INGRESS_CLASS, INGRESS_CONTROLLER},
    load_balancer::{LoadBalanced, PUBLISHED_PORT, is_edge_address},
};
use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time;

/// The label of the class, which distinguishes it from one that a user created.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

/// Creates the IngressClass. An existing one of that name is kept.
pub(super) async fn create_ingress_class(client: &Client) -> Result<(), EdgeError> {
    let class = json!({
        "metadata": { "name": INGRESS_CLASS, "labels": { MANAGED_BY.0: MANAGED_BY.1 } },
        "spec": { "controller": INGRESS_CONTROLLER },
    });
    let create = async {
        let class = serde_json::from_value(class).map_err(kube::Error::SerdeError)?;
        let classes = Api::<IngressClass>::all(client.clone());
        match classes.create(&PostParams::default(), &class).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            created => created.map(drop),
        }
    };
    create.await.map_err(EdgeError::api("create the IngressClass of the edge"))
}

/// Removes the addresses of this edge, or of one that was killed, and the class.
pub(super) async fn clean_up(client: &Client) -> Result<(), EdgeError> {
    let all = async {
        remove_addresses::<Service>(client).await?;
        remove_addresses::<Ingress>(client).await?;
        let classes: Api<IngressClass> = Api::all(client.clone());
        if let Some(class) = classes.get_opt(INGRESS_CLASS).await?.filter(is_managed_here) {
            let uid = class.metadata.uid;
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            ignore_deleted(classes.delete(INGRESS_CLASS, &params).await.map(drop))?;
        }
        Ok(())
    };
    let removed = time::timeout(REQUEST_TIMEOUT, all).await?;
    removed.map_err(EdgeError::api("remove the addresses of the edge"))
}

async fn remove_addresses<K: LoadBalanced>(client: &Client) -> kube::Result<()> {
    for object in Api::<K>::all(client.clone()).list(&ListParams::default()).await? {
        let status = object.lb_status();
        let is_ours = status.address().is_some_and(is_edge_address);
        if !is_ours && status.published_port.is_none() {
            continue;
        }
        let meta = object.meta().clone();
        let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        let params = PatchParams::default();
        if status.published_port.is_some() {
            let annotations = json!({ PUBLISHED_PORT: null });
            let patch = json!({ "metadata": { "uid": meta.uid, "annotations": annotations } });
            ignore_deleted(api.patch(&name, &params, &Patch::Merge(patch)).await.map(drop))?;
        }
        if is_ours {
            let patch = json!({
                "metadata": { "uid": meta.uid },
                "status": { "loadBalancer": { "ingress": null } },
            });
            ignore_deleted(api.patch_status(&name, &params, &Patch::Merge(patch)).await.map(drop))?;
            tracing::info!(resource = %K::plural(&()), namespace, name, "external address removed");
        }
    }
    Ok(())
}

fn is_managed_here(class: &IngressClass) -> bool {
    let labels = class.metadata.labels.as_ref();
    let managed_by = labels.and_then(|labels| labels.get(MANAGED_BY.0));
    let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
    managed_by.is_some_and(|by| by == MANAGED_BY.1) && controller == Some(INGRESS_CONTROLLER)
}

/// Ignores that an object was deleted, or replaced by another one, before it could be changed.
fn ignore_deleted(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        result => result,
    }
}
