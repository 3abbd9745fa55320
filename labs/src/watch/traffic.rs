//! Traffic in the background, which catches a request that fails while a participant promotes.

use crate::check::{Judgment, State};
use crate::kubernetes::external::published_address;
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::kubernetes::pods;
use crate::sampler::{BackgroundTraffic, Counts};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests per second: seen at once, and little enough to run for hours.
const RATE: u32 = 100;

/// Background traffic to the load balancer, and what it has seen of a promotion.
#[derive(Default)]
pub(super) struct Traffic {
    running: Option<BackgroundTraffic>,
    counts: Arc<Mutex<(u64, u64)>>,
    /// The requests and failures when production began to run two images.
    before: Option<(u64, u64)>,
}

impl Traffic {
    /// Starts the traffic once the load balancer has an address, and judges a promotion that is over.
    pub(super) async fn observe(&mut self, namespace: &NamespaceClient) -> Option<Judgment> {
        if self.running.is_none() {
            self.start(namespace).await;
        }
        let labels = ListParams::default().labels("app=kubeapp,env=production");
        let found = namespace.api::<Pod>().list(&labels).await.ok()?;
        let images: BTreeSet<&str> =
            found.items.iter().filter(|pod| !pods::is_terminating(pod)).map(pods::image).collect();
        let now = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.is_some() && images.len() > 1 {
            self.before.get_or_insert(now);
            return None;
        }
        let (sent, failed) = self.before.take()?;
        let (sent, failed) = (now.0 - sent, now.1 - failed);
        let state = if failed == 0 { State::Holds } else { State::Fails };
        let evidence = format!("{failed} of {sent} requests failed while production was promoted");
        let command = format!(
            "kubectl --namespace={} get deployment/kubeapp-production -o yaml",
            namespace.name()
        );
        Some(Judgment { claim: "promotion-drops-nothing", state, evidence, command })
    }

    async fn start(&mut self, namespace: &NamespaceClient) {
        let Ok(Some(service)) = namespace.api::<Service>().get_opt("app-lb").await else { return };
        if published_address(&service, 80).is_none() {
            return;
        }
        let Ok(external) = namespace.wait_external_address::<Service>("app-lb", 80).await else {
            return;
        };
        let counts = self.counts.clone();
        let report = move |seen: &Counts| {
            *counts.lock().unwrap_or_else(PoisonError::into_inner) = seen.totals();
        };
        self.running = Some(namespace.sampler(&external).background(RATE, report));
    }
}
