//! What the edge leaves in a cluster of somebody else's besides its Lease, and takes back: the class of
//! its Ingresses, and addresses. Those are of the blocks that clusters of ours claim: others give
//! loopback addresses, too, as `minikube tunnel` does with 127.0.0.1.

use super::{ANSWER, EdgeError};
use crate::{
    PUBLISHED_PORT,
    balancer::{Status, is_of_an_edge},
    ingress::{CLASS, CONTROLLER},
};
use k8s_openapi::{
    Metadata, NamespaceResourceScope,
    api::{core::v1::Service, networking::v1::IngressClass},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use tokio::time;

/// Who made the class.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

/// Makes the class known. One of that name that is there stays as it is.
pub(super) async fn announce(client: &Client) -> Result<(), EdgeError> {
    let class = json!({
        "metadata": { "name": CLASS, "labels": { MADE_BY.0: MADE_BY.1 } },
        "spec": { "controller": CONTROLLER },
    });
    let made = async {
        let class = serde_json::from_value(class).map_err(kube::Error::SerdeError)?;
        match Api::<IngressClass>::all(client.clone()).create(&PostParams::default(), &class).await
        {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            made => made.map(drop),
        }
    };
    made.await.map_err(EdgeError::api("make the IngressClass of the edge"))
}

/// Takes back the addresses of this edge, or of one that was killed, and the class.
pub(super) async fn withdraw(client: &Client) -> Result<(), EdgeError> {
    let all = async {
        withdraw_from(client, |service: &Service| Status::of(service)).await?;
        withdraw_from(client, Status::of_ingress).await?;
        let classes: Api<IngressClass> = Api::all(client.clone());
        if let Some(class) = classes.get_opt(CLASS).await?.filter(is_made_here) {
            let uid = class.metadata.uid;
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            gone_is_fine(classes.delete(CLASS, &params).await.map(drop))?;
        }
        Ok(())
    };
    time::timeout(ANSWER, all).await?.map_err(EdgeError::api("take back the edge's addresses"))
}

async fn withdraw_from<K>(client: &Client, status: fn(&K) -> Status) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Metadata<Ty = ObjectMeta>,
    K: Clone + Debug + DeserializeOwned,
{
    for object in Api::<K>::all(client.clone()).list(&ListParams::default()).await? {
        let status = status(&object);
        let ours = status.address().is_some_and(is_of_an_edge);
        if !ours && status.published_port.is_none() {
            continue;
        }
        let meta = Metadata::metadata(&object).clone();
        let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        let params = PatchParams::default();
        let annotation = json!({
            "metadata": { "uid": meta.uid, "annotations": { PUBLISHED_PORT: null } },
        });
        let address = json!({
            "metadata": { "uid": meta.uid }, "status": { "loadBalancer": { "ingress": null } },
        });
        if status.published_port.is_some() {
            gone_is_fine(api.patch(&name, &params, &Patch::Merge(annotation)).await.map(drop))?;
        }
        if ours {
            gone_is_fine(api.patch_status(&name, &params, &Patch::Merge(address)).await.map(drop))?;
        }
    }
    Ok(())
}

fn is_made_here(class: &IngressClass) -> bool {
    let labels = class.metadata.labels.as_ref();
    let made_by = labels.and_then(|labels| labels.get(MADE_BY.0));
    let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
    made_by.is_some_and(|by| by == MADE_BY.1) && controller == Some(CONTROLLER)
}

/// Somebody may delete what we only wanted to change.
fn gone_is_fine(done: kube::Result<()>) -> kube::Result<()> {
    match done {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        done => done,
    }
}
