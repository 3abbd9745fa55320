//! Resource limits by control groups (version 2), where the user may create some: as root, or below the
//! user's systemd slice.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const PREFIX: &str = "kube-embedded-";
/// The most processes and threads of a container.
const MAX_PIDS: u64 = 16_384;
/// The period of `cpu.max`, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The time that a group takes to become empty after its processes were killed.
const REMOVAL_TIMEOUT: Duration = Duration::from_millis(500);

/// The limits of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In bytes.
    pub(crate) memory: Option<u64>,
    /// In thousandths of a processor.
    pub(crate) milli_cpu: Option<u64>,
}

/// The group of this cluster, which the groups of containers are created in.
#[derive(Debug)]
pub(crate) struct Cgroups {
    folder: PathBuf,
    controllers: BTreeSet<String>,
}

impl Cgroups {
    /// Creates a group for this cluster, in the group of this process or the nearest one above it in
    /// which that is possible.
    ///
    /// # Errors
    /// The reason why it is possible in none.
    pub(crate) fn create() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let (mount, own) = find(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("no cgroup of version 2 is mounted")?;
        let mut reason = String::new();
        for folder in mount.join(&own).ancestors().take_while(|path| path.starts_with(&mount)) {
            match Self::create_in(folder) {
                Ok(created) => return Ok(created),
                Err(error) if reason.is_empty() => reason = error,
                Err(_) => {}
            }
        }
        Err(reason)
    }

    fn create_in(parent: &Path) -> Result<Self, String> {
        let failed = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
        let enabled = || words(&parent.join("cgroup.subtree_control"));
        if !enabled().contains("memory") {
            // Refused where processes are in the group itself.
            enable(parent, &words(&parent.join("cgroup.controllers")));
        }
        if !enabled().contains("memory") {
            return Err(format!("{} does not delegate the memory controller", parent.display()));
        }
        remove_orphans(parent);
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&folder, e)),
            _ => {}
        }
        enable(&folder, &words(&folder.join("cgroup.controllers")));
        let controllers = words(&folder.join("cgroup.subtree_control"));
        let created = Self { folder, controllers };
        if !created.controllers.contains("memory") {
            // Dropping it removes the folder.
            return Err(format!("{} cannot limit memory", created.folder.display()));
        }
        Ok(created)
    }

    /// Returns true if processor time can be limited too.
    pub(crate) fn limits_cpu(&self) -> bool {
        self.controllers.contains("cpu")
    }

    /// Creates the group of a container with its limits, and moves its first process there.
    ///
    /// # Errors
    /// When the kernel refuses a limit.
    pub(crate) fn start(
        &self,
        id: &str,
        limits: Limits,
        pid: libc::pid_t,
    ) -> io::Result<ContainerCgroup> {
        let folder = self.folder.join(id);
        fs::create_dir(&folder)?;
        let group = ContainerCgroup { folder };
        let write = |file: &str, value: String| fs::write(group.folder.join(file), value);
        if let Some(memory) = limits.memory {
            write("memory.max", memory.to_string())?;
            // Without swap, as in Kubernetes, and as a whole: a container that lost one process would
            // run on in an unknown state. Older kernels lack them.
            let _ = write("memory.swap.max", "0".to_owned());
            let _ = write("memory.oom.group", "1".to_owned());
        }
        if let Some(milli) = limits.milli_cpu.filter(|_| self.limits_cpu()) {
            // The kernel takes no less than 1 ms.
            let quota = (milli * CPU_PERIOD / 1000).max(1000);
            write("cpu.max", format!("{quota} {CPU_PERIOD}"))?;
        }
        if self.controllers.contains("pids") {
            write("pids.max", MAX_PIDS.to_string())?;
        }
        write("cgroup.procs", pid.to_string())?;
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The group of a container. Dropping it removes the group, whose processes have ended.
#[derive(Debug)]
pub(crate) struct ContainerCgroup {
    folder: PathBuf,
}

impl ContainerCgroup {
    /// Returns true if the kernel has killed a process because the memory limit was reached.
    pub(crate) fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|count| count.trim() != "0")
    }
}

impl Drop for ContainerCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        let begin = Instant::now();
        // The kernel keeps a group until its last process is reaped.
        while let Err(error) = fs::remove_dir(&self.folder) {
            if error.kind() != io::ErrorKind::ResourceBusy || begin.elapsed() > REMOVAL_TIMEOUT {
                tracing::debug!(%error, "failed to remove the cgroup of a container");
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Returns where cgroups of version 2 are mounted, and the path of this process's group below it.
fn find(mounts: &str, own: &str) -> Option<(PathBuf, PathBuf)> {
    let own = Path::new(own.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A mount of a part of the hierarchy shows only what is below its root.
        let below = own.strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| (point.into(), below.to_owned()))
    })
}

fn words(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Enables the controllers that limits need for the groups below this one, each by itself: one that is
/// refused must not prevent the others.
fn enable(group: &Path, available: &BTreeSet<String>) {
    for controller in ["memory", "cpu", "pids"] {
        if available.contains(controller) {
            let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// Removes the groups of clusters whose processes were killed.
fn remove_orphans(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a group and those below it. Fails where processes are left, which is logged.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(group) {
        tracing::debug!(group = %group.display(), %error, "failed to remove a cgroup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn own_group_is_found_below_the_mount() {
        let own = "4:memory:/x\n0::/user.slice/a.scope\n";
        let mount = |root: &str| {
            format!(
                "24 1 0:21 / /proc rw - proc proc rw\n30 24 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
            )
        };
        assert_eq!(
            find(&mount("/"), own),
            Some(("/sys/fs/cgroup".into(), "user.slice/a.scope".into()))
        );
        assert_eq!(
            find(&mount("/user.slice"), own),
            Some(("/sys/fs/cgroup".into(), "a.scope".into()))
        );
        assert_eq!(find(&mount("/other"), own), None);
        assert_eq!(find(&mount("/"), "1:cpu:/\n"), None);
        assert_eq!(find("24 1 0:21 / /proc rw - proc proc rw\n", own), None);
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let parent = Folder::new();
        let cgroups = Cgroups {
            folder: parent.0.clone(),
            controllers: ["memory", "cpu", "pids"].map(str::to_owned).into(),
        };
        let limits = Limits { memory: Some(64 << 20), milli_cpu: Some(250) };
        let group = cgroups.start("c", limits, 42).unwrap();
        let read = |file: &str| fs::read_to_string(parent.0.join("c").join(file)).unwrap();
        assert_eq!(
            ["memory.max", "memory.oom.group", "cpu.max", "pids.max", "cgroup.procs"].map(read),
            ["67108864", "1", "25000 100000", "16384", "42"]
        );
        assert!(!group.out_of_memory());
        fs::write(parent.0.join("c/memory.events"), "max 3\noom 1\noom_kill 1\n").unwrap();
        assert!(group.out_of_memory());
        let none = cgroups.start("d", Limits::default(), 42).unwrap();
        assert!(!parent.0.join("d/memory.max").exists() && !parent.0.join("d/cpu.max").exists());
        std::mem::forget(none);
    }

    #[test]
    fn group_that_does_not_delegate_is_explained() {
        let parent = Folder::new();
        fs::write(parent.0.join("cgroup.controllers"), "cpu pids\n").unwrap();
        let error = Cgroups::create_in(&parent.0).unwrap_err();
        assert!(error.ends_with("does not delegate the memory controller"), "{error}");
    }
}
