//! The shares of this process's file descriptors, so that clients of one component cannot take those
//! of another: idle connections to an Ingress must not stop the API.

use std::{fs, sync::OnceLock};

/// The soft limit that the process raises its own to, where the hard limit allows it.
pub const OPEN_FILES: u64 = 65_536;
/// The least that a component gets, however low the limit is.
const LEAST: usize = 16;

/// The descriptors of each component that serves connections. Together they are half of all; the
/// rest is for the kubelet, whose pods need some each, and for everything that is opened briefly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections to the API server.
    pub api: usize,
    /// Connections of clients to Services and Ingresses.
    pub clients: usize,
    /// Connections of the proxy to endpoints, for HTTP.
    pub upstreams: usize,
    /// Listeners inside pods.
    pub pod_listeners: usize,
}

impl Shares {
    /// Divides this many descriptors.
    pub fn of(limit: u64) -> Self {
        let eighth = usize::try_from(limit / 8).unwrap_or(usize::MAX).max(LEAST);
        Self { api: eighth, clients: eighth, upstreams: eighth, pod_listeners: eighth }
    }

    /// Divides the descriptors of this process: the soft limit, as it is or will be raised.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<Shares> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
            // Without /proc there is nothing better than the usual soft limit.
            let (soft, hard) = open_files(&limits).unwrap_or((1024, 1024));
            Self::of(soft.max(hard.min(OPEN_FILES)))
        })
    }
}

/// Returns the soft and the hard limit in `/proc/PID/limits` (proc(5)).
fn open_files(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_ascii_whitespace();
    let mut limit = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some((limit()?, limit()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_half_of_the_descriptors() {
        for (limit, each) in [(64, 16), (256, 32), (1024, 128), (OPEN_FILES, 8192)] {
            let shares = Shares::of(limit);
            let all = [shares.api, shares.clients, shares.upstreams, shares.pod_listeners];
            assert_eq!(all, [each; 4], "of {limit}");
        }
    }

    #[test]
    fn limits_are_read_from_proc() {
        let text = "Limit  Soft  Hard  Units\nMax processes 1 2 processes\n\
                    Max open files            1024                 unlimited            files\n";
        assert_eq!(open_files(text), Some((1024, u64::MAX)));
        assert_eq!(open_files("Max open files"), None);
        assert!(open_files(&fs::read_to_string("/proc/self/limits").unwrap()).is_some());
    }
}
