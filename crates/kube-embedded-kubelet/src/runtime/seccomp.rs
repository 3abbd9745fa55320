//! Seccomp profiles of containers: the default of the runtime (`RuntimeDefault`) and profiles from files
//! (`Localhost`), compiled to filters that a child installs.

mod profile;
mod syscalls;

use super::capabilities::Capabilities;
use profile::{Action, Argument, Profile, Rule};
use seccompiler::SeccompCmpOp;
use std::{
    collections::HashMap,
    fs,
    path::{Component, Path},
    sync::{Arc, Mutex, OnceLock},
};
use syscalls::Allowed;

/// Filters, in the order in which they are installed. None for `Unconfined`.
pub(crate) type Filters = Arc<Vec<Vec<libc::sock_filter>>>;

/// The name spaces that `clone` may not create without SYS_ADMIN.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Returns the profile that containers get by default, as containerd's. `isolated` is false where a
/// container sees processes that are not its own (the plain sandbox). Compiled once.
///
/// # Errors
/// On architectures that the compiler does not know.
pub(crate) fn runtime_default(
    capabilities: Capabilities,
    isolated: bool,
) -> Result<Filters, String> {
    static COMPILED: OnceLock<Mutex<HashMap<(Capabilities, bool), Filters>>> = OnceLock::new();
    let mut compiled =
        COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    if let Some(filters) = compiled.get(&(capabilities, isolated)) {
        return Ok(filters.clone());
    }
    let filters = Arc::new(default_profile(capabilities, isolated).compile()?);
    compiled.insert((capabilities, isolated), filters.clone());
    Ok(filters)
}

/// Reads the profile `name` from `folder`, as the kubelet does for `localhostProfile`.
///
/// # Errors
/// When the name leads out of the folder, the file cannot be read, or its content is not supported.
pub(crate) fn localhost(folder: &Path, name: &str) -> Result<Filters, String> {
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if !inside || name.is_empty() {
        return Err(format!(
            "seccompProfile.localhostProfile {name:?} is not allowed: it must be a relative path \
             without '..', of a file below {}",
            folder.display()
        ));
    }
    let path = folder.join(name);
    let failed = |e: String| format!("failed to load the seccomp profile {}: {e}", path.display());
    let text = fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
    let profile = Profile::parse(&text).map_err(failed)?;
    profile.compile().map(Arc::new).map_err(failed)
}

fn default_profile(capabilities: Capabilities, isolated: bool) -> Profile {
    let allow =
        |number: i64, arguments: Vec<Argument>| Rule { number, action: Action::Allow, arguments };
    let argument = |operator, value| vec![Argument { index: 0, operator, value }];
    let mut rules = Vec::new();
    for (_, number, allowed) in syscalls::all() {
        let allowed = match allowed {
            Allowed::Always => true,
            Allowed::With(capability) => capabilities.has(capability),
            Allowed::OwnProcesses => isolated || capabilities.has("SYS_PTRACE"),
            Allowed::Arguments | Allowed::Never => false,
        };
        if allowed {
            rules.push(allow(*number, Vec::new()));
        }
    }
    for persona in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow(libc::SYS_personality, argument(SeccompCmpOp::Eq, persona)));
    }
    rules.push(allow(libc::SYS_socket, argument(SeccompCmpOp::Ne, libc::AF_VSOCK as u64)));
    rules.push(allow(libc::SYS_clone, argument(SeccompCmpOp::MaskedEq(NAMESPACES), 0)));
    // Its flags are in memory, where no filter can see them. Programs then use `clone`.
    rules.push(Rule {
        number: libc::SYS_clone3,
        action: Action::Errno(libc::ENOSYS as u32),
        arguments: Vec::new(),
    });
    Profile { default: Action::Errno(libc::EPERM as u32), rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn every_syscall_is_listed_once_and_is_known_to_be_old() {
        let mut seen = HashMap::new();
        for (name, number, _) in syscalls::all() {
            assert!(*number <= syscalls::LAST, "{name}");
            assert_eq!(seen.insert(*number, *name), None, "{name}");
        }
        assert!(seen.len() > 300, "{}", seen.len());
    }

    #[test]
    fn default_profile_depends_on_capabilities_and_sandbox() {
        let allows = |add: &[&str], isolated, number: i64| {
            let add: Vec<_> = add.iter().map(|name| name.to_string()).collect();
            let capabilities = Capabilities::new(&add, &[]).unwrap();
            let profile = default_profile(capabilities, isolated);
            profile.rules.iter().any(|rule| rule.number == number && rule.arguments.is_empty())
        };
        assert!(allows(&[], true, libc::SYS_read));
        assert!(allows(&[], true, libc::SYS_chroot), "SYS_CHROOT is a default capability");
        assert!(allows(&[], true, libc::SYS_ptrace));
        assert!(!allows(&[], false, libc::SYS_ptrace));
        assert!(!allows(&[], true, libc::SYS_settimeofday));
        assert!(allows(&["SYS_TIME"], true, libc::SYS_settimeofday));
        for number in [libc::SYS_keyctl, libc::SYS_mount, libc::SYS_unshare, libc::SYS_bpf] {
            assert!(!allows(&[], true, number), "{number}");
        }
    }

    #[test]
    fn localhost_profile_stays_in_its_folder_and_is_explained() {
        let folder = Folder::new();
        for (name, text) in [
            (
                "good.json",
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#,
            ),
            ("bad.json", r#"{"defaultAction": "SCMP_ACT_SING"}"#),
        ] {
            fs::write(folder.0.join(name), text).unwrap();
        }
        assert_eq!(localhost(&folder.0, "good.json").unwrap().len(), 1);
        for (name, message) in [
            ("../good.json", "without '..'"),
            ("/good.json", "without '..'"),
            ("", "without '..'"),
            ("none.json", "No such file"),
            ("bad.json", "SCMP_ACT_SING"),
        ] {
            let error = localhost(&folder.0, name).unwrap_err();
            assert!(error.contains(message), "{name}: {error}");
        }
    }
}
