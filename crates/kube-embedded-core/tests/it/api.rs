//! The API server in this process.

use kube::Client;
use kube_embedded_apiserver::{api, store::Store};
use kube_embedded_core::network::{Addresses, Sandbox};

/// Returns a client of an API server that stores nothing yet.
pub(crate) fn client() -> Client {
    let addresses = Addresses { block: 77, sandbox: Sandbox::Plain };
    api::Api::new(Store::default(), addresses).client()
}
