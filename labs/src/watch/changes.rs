//! The changes of a namespace.

use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

/// The changes of everything that a check reads, as the API server reports them.
pub(super) fn changes(client: &Client, name: &str) -> SelectAll<BoxStream<'static, ()>> {
    let mut changes = SelectAll::new();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    changes.push(watcher(namespaces, only).default_backoff().map(drop).boxed());
    macro_rules! of {
        ($($kind:ty),*) => {$(
            let api: Api<$kind> = Api::namespaced(client.clone(), name);
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            changes.push(stream.map(drop).boxed());
        )*};
    }
    of!(Deployment, Pod, Service, EndpointSlice, Ingress);
    changes
}

/// The result of a check in progress; never without one.
pub(super) async fn ended<T>(checking: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match checking {
        Some(checking) => checking.await,
        None => std::future::pending().await,
    }
}
