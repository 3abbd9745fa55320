//! Memory limits where no cgroup enforces them: the memory of a container's processes is measured, and a
//! container above its limit is killed. A limit of the kernel on each process (`RLIMIT_AS`,
//! `RLIMIT_DATA`) would not do: runtimes such as Go's and Java's reserve far more than they use.

use kube_embedded_core::task::catch_blocking;
use std::{fs, time::Duration};
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_millis(250);
/// The most processes of a container that are counted.
const MAX_PROCESSES: usize = 10_000;

/// Waits until `pid` and its descendants use more memory than `limit`, in bytes.
pub(super) async fn exceeded(pid: libc::pid_t, limit: u64) {
    loop {
        sleep(INTERVAL).await;
        let measure = move || catch_blocking("memory of a container", || usage_above(pid, limit));
        if let Ok(Ok(Some(usage))) = tokio::task::spawn_blocking(measure).await {
            tracing::warn!(pid, usage, limit, "container exceeds its memory limit");
            return;
        }
    }
}

/// Returns the usage if it is above the limit.
fn usage_above(pid: libc::pid_t, limit: u64) -> Option<u64> {
    let processes = descendants(pid);
    let sum = |file: &str, fields: [&str; 2]| -> Option<u64> {
        let usages = processes.iter().map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
            Some(fields.iter().map(|field| kibibytes(&text, field)).sum::<u64>() << 10)
        });
        usages.flatten().reduce(|a, b| a + b)
    };
    // Cheap, but what processes share counts several times; hence the second opinion.
    sum("status", ["RssAnon:", "RssShmem:"]).filter(|usage| *usage > limit)?;
    sum("smaps_rollup", ["Pss_Anon:", "Pss_Shmem:"]).filter(|usage| *usage > limit)
}

/// Returns the value of a field in `/proc/PID/status` or `smaps_rollup`; 0 if there is none.
fn kibibytes(text: &str, field: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn descendants(pid: libc::pid_t) -> Vec<libc::pid_t> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied().filter(|_| all.len() < MAX_PROCESSES) {
        next += 1;
        for thread in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(
                children.split_whitespace().filter_map(|pid| pid.parse::<libc::pid_t>().ok()),
            );
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_parsed_and_own_memory_is_measured() {
        assert_eq!(kibibytes("Name:\tx\nRssAnon:\t     120 kB\n", "RssAnon:"), 120);
        assert_eq!(kibibytes("Name:\tx\n", "RssAnon:"), 0);
        let own = std::process::id() as libc::pid_t;
        assert!(usage_above(own, 1).is_some_and(|usage| usage > 10_000));
        assert_eq!(usage_above(own, 1 << 50), None);
    }
}
