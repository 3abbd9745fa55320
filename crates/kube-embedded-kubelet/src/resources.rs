//! The resource limits of containers, and how they are enforced on this machine.

use crate::cgroups::{Cgroups, Limits};
use k8s_openapi::api::core::v1::Container;
use kube_embedded_core::quantity;
use std::fmt;

/// How the resource limits of containers are enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceLimits {
    /// The kernel enforces limits of memory and, if `cpu` is set, of processor time.
    Cgroups {
        /// Set if processor time can be limited.
        cpu: bool,
    },
    /// The kubelet measures the memory of containers and kills those above their limit; processor
    /// time is not limited.
    Measured {
        /// The reason why there are no cgroups.
        reason: String,
    },
}

impl fmt::Display for ResourceLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroups { cpu: true } => write!(f, "memory and cpu, by cgroups"),
            Self::Cgroups { cpu: false } => write!(f, "memory, by cgroups; cpu is not limited"),
            Self::Measured { reason } => {
                write!(f, "memory, by measuring; cpu is not limited, for lack of cgroups: {reason}")
            }
        }
    }
}

/// Finds out how limits are enforced, by creating a cgroup and removing it.
pub(crate) fn enforcement() -> ResourceLimits {
    match Cgroups::create() {
        Ok(cgroups) => ResourceLimits::Cgroups { cpu: cgroups.limits_cpu() },
        Err(reason) => ResourceLimits::Measured { reason },
    }
}

/// Returns the limits of a container.
pub(crate) fn limits(container: &Container) -> Limits {
    const ONE: i128 = 1_000_000_000;
    let limit = |name: &str| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        quantity::parse(&limits.get(name)?.0).ok()
    };
    let positive = |value: i128| u64::try_from(value).ok().filter(|value| *value > 0);
    Limits {
        memory: limit("memory").and_then(|bytes| positive(bytes / ONE)),
        milli_cpu: limit("cpu").and_then(|cpu| positive(cpu / (ONE / 1000))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_in_bytes_and_thousandths() {
        let of = |limits: serde_json::Value| {
            let container = json!({ "name": "c", "resources": { "limits": limits } });
            limits_of(&container)
        };
        fn limits_of(container: &serde_json::Value) -> (Option<u64>, Option<u64>) {
            let limits = limits(&serde_json::from_value(container.clone()).unwrap());
            (limits.memory, limits.milli_cpu)
        }
        assert_eq!(of(json!({ "memory": "64Mi", "cpu": "1.5" })), (Some(64 << 20), Some(1500)));
        assert_eq!(of(json!({ "cpu": "250m" })), (None, Some(250)));
        assert_eq!(of(json!({ "memory": "0", "cpu": "0" })), (None, None));
        assert_eq!(limits_of(&json!({ "name": "c" })), (None, None));
    }
}
