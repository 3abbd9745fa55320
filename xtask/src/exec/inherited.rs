//! What this program inherits and its children should not: ignored signals, and variables that belong to
//! the caller.
//!
//! Inherited on purpose: the umask (files that matter have modes of their own), limits (checked by
//! [`crate::doctor`]), and a SIGHUP that `nohup` ignores.

use rustix::process::Signal;
use signal_hook::flag;
use std::{
    env,
    ffi::OsString,
    fs,
    os::fd::RawFd,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
};

/// Handles the signals that the caller ignores by doing nothing. That is the same for this program, but
/// exec resets handled signals to their defaults, and passes ignored ones on: a shell cannot trap those,
/// and with SIGCHLD ignored no exit code can be waited for.
pub(crate) fn restore_defaults_for_children() {
    let ignored = ignored_signals();
    // SIGPIPE is reset by the standard library. The others are ignored for the whole job.
    let kept = [Signal::HUP, Signal::PIPE, Signal::TSTP, Signal::TTIN, Signal::TTOU];
    for number in (1..32).filter(|number| is_set(ignored, *number)) {
        if !kept.iter().any(|signal| signal.as_raw() == number) {
            // Fails for signals that cannot be handled, which cannot be ignored either.
            let _ = flag::register(number, Arc::new(AtomicBool::new(false)));
        }
    }
}

/// Returns true if the caller ignores SIGHUP, as `nohup` does: the run then outlives its terminal.
pub(super) fn is_hangup_ignored() -> bool {
    is_set(ignored_signals(), Signal::HUP.as_raw())
}

fn is_set(mask: u64, number: i32) -> bool {
    mask & (1 << (number - 1)) != 0
}

fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status)
}

fn parse_ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Returns the descriptors above standard error that this process has open, its caller's included.
pub(super) fn open_descriptors() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|fd| *fd > 2).collect()
}

/// Variables that git sets for its hooks (`git rev-parse --local-env-vars`): they point every git at the
/// repository of the commit.
const GIT: [&str; 15] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// The hosts of clusters and registries on this machine, in the notations that curl, Go and Rust read.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1"];

/// Prepares the environment of a child: without git's variables, and with no proxy for this machine.
pub(crate) fn clean_environment(command: &mut Command) {
    for name in GIT {
        command.env_remove(name);
    }
    if let Some(hosts) = no_proxy(|name| env::var_os(name)) {
        command.env("NO_PROXY", &hosts).env("no_proxy", &hosts);
    }
}

/// Returns the value of `NO_PROXY` that includes this machine, if a proxy is configured: curl sends requests
/// for loopback addresses to it, too.
pub(crate) fn no_proxy(variable: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    let value = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is_set = |name: &str| value(name).is_some() || value(&name.to_uppercase()).is_some();
    if !["http_proxy", "https_proxy", "all_proxy"].into_iter().any(is_set) {
        return None;
    }
    let before = value("no_proxy").or_else(|| value("NO_PROXY"));
    let Some(mut hosts) = before else { return Some(LOOPBACK.join(",").into()) };
    let listed = hosts.to_string_lossy().into_owned();
    for host in LOOPBACK {
        if !listed.split(',').any(|listed| listed.trim() == host) {
            hosts.push(",");
            hosts.push(host);
        }
    }
    Some(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_the_process() {
        let mask = parse_ignored("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001003\nSigCgt:\t0\n");
        let found: Vec<i32> = (1..32).filter(|number| is_set(mask, *number)).collect();
        assert_eq!(found, [Signal::HUP, Signal::INT, Signal::PIPE].map(Signal::as_raw));
        assert_eq!(parse_ignored(""), 0);
    }

    #[test]
    fn no_proxy_is_extended_by_this_machine_where_a_proxy_is_set() {
        const ALL: &str = "localhost,127.0.0.1,127.0.0.0/8,::1";
        for (set, expected) in [
            (vec![], None),
            (vec![("NO_PROXY", "x")], None),
            (vec![("https_proxy", "")], None),
            (vec![("HTTPS_PROXY", "http://p")], Some(ALL)),
            (vec![("all_proxy", "http://p")], Some(ALL)),
            (
                vec![("http_proxy", "p"), ("NO_PROXY", "corp.example,localhost")],
                Some("corp.example,localhost,127.0.0.1,127.0.0.0/8,::1"),
            ),
            (vec![("HTTP_PROXY", "p"), ("no_proxy", ALL)], Some(ALL)),
        ] {
            let variable = |name: &str| {
                set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).into())
            };
            assert_eq!(no_proxy(variable), expected.map(Into::into), "{set:?}");
        }
    }
}
