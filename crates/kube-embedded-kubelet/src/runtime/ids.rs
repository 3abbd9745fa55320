//! The user and group ids of pods: which ids of the host they are.
//!
//! A cluster that runs as root gives each pod 65,536 ids of its own that belong to no user of the
//! host, as the kubelet does for pods with `hostUsers: false`: root in a container is nobody outside.
//! An ordinary user can map one id only, that of the user.

use std::{
    fs, io,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// The number of ids that a pod gets, as in Kubernetes.
pub(super) const RANGE: u32 = 65_536;
/// The first of the ids that systemd's list of allocations leaves unused (0x70000000 to 0x7FFDFFFF).
const FIRST: u32 = 0x7000_0000;
/// The number of ranges from there. The next pod after the last one shares its ids with the first.
const RANGES: u32 = 0x0FFD;

/// The ids of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdMapping {
    /// No user namespace (the plain sandbox): programs run as the user of the cluster.
    Host,
    /// Exactly these two, which are the user and the group of the cluster outside of the pod.
    One { user: u32, group: u32 },
    /// All ids below [`RANGE`], which are those from `first` on outside of the pod.
    Range { first: u32 },
}

impl IdMapping {
    /// Returns the mapping for a new pod. `user` and `group` are its ids if it can have one only.
    pub(super) fn new(user: u32, group: u32) -> Self {
        static NEXT: OnceLock<AtomicU32> = OnceLock::new();
        if !ranges_are_possible() {
            return Self::One { user, group };
        }
        // Clusters do not know of each other, hence a random start.
        let next = NEXT.get_or_init(|| AtomicU32::new(rand::random::<u32>() % RANGES));
        let range = next.fetch_add(1, Ordering::Relaxed) % RANGES;
        Self::Range { first: FIRST + range * RANGE }
    }

    /// Returns the ids on the host of a user and a group of the pod, if files have to be given to
    /// them: with one id, they belong to it already.
    pub(super) fn owner(self, user: u32, group: u32) -> Option<(u32, u32)> {
        match self {
            Self::Range { first } => Some((first + user % RANGE, first + group % RANGE)),
            _ => None,
        }
    }

    /// Writes the mapping for the user namespace that the process `pid` has just created, if it is one
    /// that the process cannot write itself.
    pub(super) fn write(self, pid: libc::pid_t) -> io::Result<()> {
        let Self::Range { first } = self else { return Ok(()) };
        let map = format!("0 {first} {RANGE}\n");
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), map)
    }
}

/// Returns true if this process may map ids other than its own, and change to them.
pub(super) fn ranges_are_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        // SAFETY: geteuid takes no arguments and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        root && has_capabilities(&read("status"))
            && [read("uid_map"), read("gid_map")].iter().all(|map| maps_ranges(map))
    })
}

/// Judges `/proc/self/status`: SETGID, SETUID and SYS_ADMIN are needed.
fn has_capabilities(status: &str) -> bool {
    const NEEDED: u64 = 1 << 6 | 1 << 7 | 1 << 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & NEEDED == NEEDED)
}

/// Judges `/proc/self/uid_map`: in a container of Docker without user namespaces it maps everything,
/// in a rootless one nothing that we would use.
fn maps_ranges(map: &str) -> bool {
    map.lines().any(|line| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (inside, _, count) = (words.next(), words.next(), words.next());
        let (Some(inside), Some(count)) = (inside, count) else { return false };
        inside <= FIRST.into() && inside + count >= u64::from(FIRST) + u64::from(RANGES * RANGE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_need_capabilities_and_a_parent_that_maps_them() {
        assert!(has_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_capabilities("CapEff:\t00000000a80425fb\n"), "a container of Docker");
        assert!(!has_capabilities(""));
        assert!(maps_ranges("         0          0 4294967295\n"));
        assert!(!maps_ranges("0 1000 1\n1 100000 65536\n"), "rootless");
        assert!(!maps_ranges("x\n"));
    }

    #[test]
    fn owner_is_the_id_outside_of_the_pod() {
        let first = FIRST + RANGE;
        assert_eq!(IdMapping::Range { first }.owner(5, 6), Some((first + 5, first + 6)));
        assert_eq!(IdMapping::One { user: 0, group: 0 }.owner(0, 0), None);
    }
}
