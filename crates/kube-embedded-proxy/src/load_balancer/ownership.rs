//! Which Services and Ingresses may be served here.

use super::status::LoadBalanced;
use crate::config::{Config, Topology};

/// Tells objects that are served here from foreign ones.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(crate) topology: Topology,
    /// The one namespace that is served in an external cluster; `None` for all.
    namespace: Option<String>,
}

impl Ownership {
    pub(crate) fn new(config: &Config) -> Self {
        Self { topology: config.topology(), namespace: config.namespace.clone() }
    }

    /// Returns whether the object is in a namespace that is not served, or has an external address
    /// that another controller assigned. In an embedded cluster no other controller assigns any.
    pub(crate) fn is_foreign(&self, object: &impl LoadBalanced) -> bool {
        match self.topology {
            Topology::Embedded(_) => false,
            Topology::External(_) => {
                let elsewhere =
                    self.namespace.is_some() && self.namespace != object.meta().namespace;
                elsewhere || object.lb_status().is_foreign()
            }
        }
    }
}
