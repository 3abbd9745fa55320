//! The resource limits of containers, and how they are enforced on this machine.

use crate::cgroups::{Cgroups, Limits};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube_embedded_core::quantity;
use std::{fmt, fs, sync::OnceLock};

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

/// The most bytes that a container can write to its root file system, which is in memory, unless it has a
/// limit of its own.
const DEFAULT_STORAGE: u64 = 1 << 30;

/// Returns the `oom_score_adj` of a container: that of the kubelet by the class of its pod, but never one by
/// which the kernel would kill the cluster first.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container) -> i32 {
    static OWN: OnceLock<i32> = OnceLock::new();
    let own = *OWN.get_or_init(|| {
        let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    });
    let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
    let request = container.resources.as_ref().and_then(|all| all.requests.as_ref()?.get("memory"));
    let request = request.and_then(|memory| quantity::parse(&memory.0).ok()).unwrap_or(0);
    let share = request / i128::from(2 * max_storage()) / 1_000_000;
    score(class.unwrap_or_default(), i32::try_from(share).unwrap_or(1000)).max(own)
}

/// `thousandths`: the share of the machine's memory that a container requests.
fn score(class: &str, thousandths: i32) -> i32 {
    match class {
        // -997 in Kubernetes.
        "Guaranteed" => 0,
        "Burstable" => 1000_i32.saturating_sub(thousandths).clamp(3, 999),
        _ => 1000,
    }
}

/// Returns the limit of a container's `ephemeral-storage`.
pub(crate) fn storage_limit(container: &Container) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    let bytes = quantity::parse(&limits.get("ephemeral-storage")?.0).ok()? / 1_000_000_000;
    u64::try_from(bytes).ok()
}

/// Returns the most that a root file system may take: half of the memory of this machine, as the kernel
/// has it for any file system in memory.
pub(crate) fn max_storage() -> u64 {
    static MAX: OnceLock<u64> = OnceLock::new();
    *MAX.get_or_init(|| {
        let info = rustix::system::sysinfo();
        (info.totalram as u64).saturating_mul(info.mem_unit.into()) / 2
    })
}

/// Returns the size of a container's root file system, of which there may be `max` bytes.
pub(crate) fn storage(container: &Container, max: u64) -> u64 {
    storage_limit(container).unwrap_or(DEFAULT_STORAGE.min(max / 2)).min(max)
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

    #[test]
    fn container_is_killed_for_memory_by_its_class_and_before_the_cluster() {
        let table = [("BestEffort", 0, 1000), ("Burstable", 0, 999), ("Burstable", 250, 750)];
        let more = [("Burstable", 1000, 3), ("Guaranteed", 10, 0)];
        for (class, thousandths, expected) in table.into_iter().chain(more) {
            assert_eq!(score(class, thousandths), expected, "{class} {thousandths}");
        }
        let half = max_storage().to_string();
        let resources = json!({ "requests": { "memory": half } });
        let container =
            serde_json::from_value(json!({ "name": "c", "resources": resources })).unwrap();
        let pod = serde_json::from_value(json!({ "status": { "qosClass": "Burstable" } })).unwrap();
        assert!((500..=501).contains(&oom_score_adj(&pod, &container)));
    }

    #[test]
    fn storage_is_the_limit_or_a_share_of_the_memory() {
        let of = |limits: serde_json::Value, max| {
            let container = json!({ "name": "c", "resources": { "limits": limits } });
            storage(&serde_json::from_value(container).unwrap(), max)
        };
        assert_eq!(of(json!({}), 16 << 30), 1 << 30);
        assert_eq!(of(json!({}), 1 << 30), 512 << 20);
        assert_eq!(of(json!({ "ephemeral-storage": "4Mi" }), 1 << 30), 4 << 20);
        assert_eq!(of(json!({ "ephemeral-storage": "3Gi" }), 4 << 30), 3 << 30);
        assert_eq!(of(json!({ "ephemeral-storage": "3Gi" }), 2 << 30), 2 << 30);
        assert!(max_storage() > 64 << 20);
    }
}
