//! Ingress: HTTP by host and path, and TLS, on one address for each namespace that has any.
//!
//! The Ingresses of a namespace share an address and are one set of rules, in which the oldest wins;
//! another namespace cannot disturb them. A loop of its own beside that of the Services: neither
//! waits for the other, and both listen on the same data plane.

mod certificate;
pub(crate) mod front;
mod keeper;
mod objects;
mod plan;
pub(crate) mod proxy;
pub(crate) mod table;

use super::{
    Bind, Config, ROUND, Retry,
    plane::{Plane, Trouble},
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use keeper::Keeper;
use kube::Client;
use objects::{Objects, Secrets, Watches};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::mpsc;

/// The `spec.controller` of IngressClasses that are served here.
pub const CONTROLLER: &str = "canary-labs.dev/edge";

/// The name of the IngressClass that names it.
pub const CLASS: &str = "edge";

/// Keeps what listens for Ingresses as they ask for, until dropped. `troubled` is what the data
/// plane has to tell about its addresses.
pub(super) async fn run(
    client: Client,
    config: &Config,
    plane: Arc<Plane>,
    bind: Bind,
    mut troubled: mpsc::Receiver<(SocketAddr, Trouble)>,
) {
    let mut keeper = match Keeper::new(client.clone(), config, plane, bind) {
        Ok(keeper) => keeper,
        Err(error) => {
            eprintln!("edge: no Ingress is served: {error}");
            return;
        }
    };
    let mut watches = Watches::new();
    let mut secrets = Secrets::new(client.clone());
    let mut objects = Objects::new(client, &mut watches);
    let mut writes = FuturesUnordered::new();
    let (mut part, mut retry) = (config.part.clone(), Retry::default());
    loop {
        tokio::select! {
            Some(first) = watches.next() => {
                objects.see(first, &mut secrets);
                let more = std::iter::from_fn(|| watches.next().now_or_never().flatten());
                more.take(ROUND).for_each(|event| objects.see(event, &mut secrets));
            }
            Some(written) = writes.next() => keeper.written(written, &mut objects),
            Some((at, trouble)) = troubled.recv() => keeper.trouble(at, trouble),
            () = part.changes() => {
                keeper.place = config.place();
                objects.look_at_all();
            }
            () = retry.due(!keeper.unfinished.is_empty()) => {
                std::mem::take(&mut keeper.unfinished)
                    .into_iter()
                    .for_each(|namespace| objects.look_again(namespace));
            }
        }
        if objects.complete(&mut watches) {
            keeper.keep(&mut objects, &mut secrets, &mut watches, &mut writes).await;
        }
    }
}

#[cfg(test)]
mod tests;
