//! Options of the edge of an external cluster.

use std::{collections::BTreeMap, net::SocketAddr};

/// What cannot be read from the API.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Node ports and where they are published, for clusters whose nodes cannot be reached.
    pub published: BTreeMap<u16, SocketAddr>,
    /// Never connect to nodes, whatever their addresses.
    pub unreachable: bool,
    /// The one namespace whose Services and Ingresses are served; `None` for all.
    pub namespace: Option<String>,
}
