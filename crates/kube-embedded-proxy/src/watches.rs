//! Watches as streams of events, which reconcilers apply to their informers between two rounds.

use futures::{Stream, StreamExt, future};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, mem};

/// Events applied before a reconciler runs, so that a long list cannot hold it up.
pub(crate) const EVENTS_PER_ROUND: usize = 1024;

/// Watches a resource in all namespaces. Errors are retried with back-off; the list that follows
/// brings what was missed.
pub(crate) fn events<K>(client: &Client) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut failing = false;
    watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().filter_map(
        move |event| {
            match &event {
                Err(error) if !mem::replace(&mut failing, true) => {
                    tracing::warn!(resource = %K::plural(&()), %error, "failed to watch; retrying");
                }
                Ok(_) if mem::replace(&mut failing, false) => {
                    tracing::info!(resource = %K::plural(&()), "watching again");
                }
                _ => {}
            }
            future::ready(event.ok())
        },
    )
}
