//! Capabilities of containers, as containerd grants them.

/// The names of Kubernetes (without `CAP_`), by the number of the capability.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd grants if nothing is asked for.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Capabilities(pub(super) u64);

impl Default for Capabilities {
    fn default() -> Self {
        Self(DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |all, bit| all | bit))
    }
}

impl Capabilities {
    /// Applies `securityContext.capabilities` to the default, in the order of containerd: `ALL` first,
    /// then the names that are added, then those that are dropped.
    ///
    /// # Errors
    /// When a name is unknown, or `SYS_ADMIN` would be granted.
    pub(crate) fn new(add: &[String], drop: &[String]) -> Result<Self, String> {
        const EVERYTHING: u64 = (1 << NAMES.len()) - 1;
        let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let Self(mut set) = Self::default();
        if all(add) {
            set = EVERYTHING;
        }
        if all(drop) {
            set = 0;
        }
        for name in named(add) {
            set |= bit(name).ok_or_else(|| unknown("add", name))?;
        }
        for name in named(drop) {
            set &= !bit(name).ok_or_else(|| unknown("drop", name))?;
        }
        let set = Self(set);
        if set.has("SYS_ADMIN") {
            return Err(
                "securityContext.capabilities.add: SYS_ADMIN is not available, also not as part of \
                 ALL: a container that has it can undo read-only mounts; drop SYS_ADMIN"
                    .to_owned(),
            );
        }
        Ok(set)
    }

    pub(super) fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn named(names: &[String]) -> impl Iterator<Item = &String> {
    names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"))
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|n| n.eq_ignore_ascii_case(name)).map(|number| 1 << number)
}

fn unknown(list: &str, name: &str) -> String {
    format!(
        "securityContext.capabilities.{list}: unknown capability {name:?}; allowed are ALL and the \
         names of capabilities(7) without CAP_, such as NET_BIND_SERVICE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped_as_containerd_does() {
        let set = |add: &[&str], drop: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
            Capabilities::new(&owned(add), &owned(drop)).map(|set| set.0)
        };
        let default = 0xa804_25fb; // as in /proc/1/status of any container of containerd or Docker
        let table: [(&[&str], &[&str], u64); 8] = [
            (&[], &[], default),
            (&[], &["ALL"], 0),
            (&[], &["KILL"], default & !(1 << 5)),
            (&["NET_ADMIN"], &[], default | 1 << 12),
            (&["NET_BIND_SERVICE"], &["ALL"], 1 << 10),
            (&["net_admin"], &["all"], 1 << 12),
            (&["KILL"], &["KILL"], default & !(1 << 5)),
            (&["ALL"], &["SYS_ADMIN"], 0x1ff_ffff_ffff & !(1 << 21)),
        ];
        for (add, drop, expected) in table {
            assert_eq!(set(add, drop), Ok(expected), "add {add:?} drop {drop:?}");
        }
        for (add, drop, message) in [
            (&["CAP_KILL"][..], &[][..], "add: unknown capability \"CAP_KILL\""),
            (&[], &["NOPE"], "drop: unknown capability \"NOPE\""),
            (&["SYS_ADMIN"], &[], "SYS_ADMIN is not available"),
            (&["ALL"], &[], "SYS_ADMIN is not available"),
        ] {
            let error = set(add, drop).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
