//! The ClusterRole aggregation controller (`clusterrole-aggregation-controller`): a role with an aggregation rule has the
//! rules of all roles that it selects.

mod plan;

use crate::{
    controller::{Controller, Reconciler},
    informers::Informers,
    patch,
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube_embedded_core::workqueue::Workqueue;
use std::{sync::Arc, time::Duration};

const NAME: &str = "clusterrole-aggregation-controller";
/// The only key: roles that aggregate may select each other, so they are planned together.
const ALL_ROLES: &str = "clusterroles";

pub(crate) struct AggregationReconciler {
    informers: Arc<Informers>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<AggregationReconciler> {
    let queue: Arc<Workqueue<&'static str>> = Arc::default();
    let enqueued = queue.clone();
    informers.cluster_roles.add_event_handler(move |_, _| enqueued.add(ALL_ROLES));
    Controller::new(NAME, 1, queue, AggregationReconciler { informers: informers.clone() })
}

impl Reconciler for AggregationReconciler {
    type Key = &'static str;

    async fn reconcile(&self, _: &&'static str) -> kube::Result<Option<Duration>> {
        let Informers { client, cluster_roles, .. } = &*self.informers;
        let api: Api<ClusterRole> = Api::all(client.clone());
        for (old, new) in plan::plan(&cluster_roles.list()) {
            patch::update(&api, cluster_roles, &*old, &new).await?;
        }
        Ok(None)
    }
}
