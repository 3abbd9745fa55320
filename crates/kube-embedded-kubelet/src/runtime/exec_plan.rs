//! All that a child needs between `clone` and `exec`, prepared beforehand: a child in the memory of the
//! cluster can allocate nothing ([`super::syscalls`]), and the zygote gets a copy.

use super::{
    ids::IdMapping,
    launch::{Container, Launch, LaunchTarget, RootFs, Security},
    stdio::Stdio,
    wire::{Wire, wire},
};
use crate::root_path::resolve_in_root;
use libc::c_char;
use std::{
    ffi::{CString, OsStr},
    io, iter,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

const PAGE: u64 = 4096;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to execute, as NUL-terminated strings.
pub(super) struct ExecPlan {
    pub(super) argv: Strings,
    pub(super) envp: Strings,
    /// The candidates for the program, tried in this order.
    pub(super) programs: Vec<CString>,
    /// The working directory, preceded by each of its parents.
    pub(super) cwd: Vec<CString>,
    pub(super) container: Option<ContainerPlan>,
    pub(super) privileges: PrivilegePlan,
    /// Set if the program was looked up in `PATH`, which decides the wording of a failure.
    pub(super) searched: bool,
    /// Set if the streams are a terminal, which becomes the controlling terminal of the session.
    pub(super) terminal: bool,
    /// Set if the program runs in a container, and so must not get hold of anything of the host.
    pub(super) isolated: bool,
}
wire!(ExecPlan { argv, envp, programs, cwd, container, privileges, searched, terminal, isolated });

/// Strings, and the array of pointers to them that ends with null, as `execve` requires.
pub(super) struct Strings {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

/// The rights that a program is left with.
pub(super) struct PrivilegePlan {
    /// The user and the group to become, if not those that it starts with.
    pub(super) user: Option<(u32, u32)>,
    /// The supplementary groups, where they can be set.
    pub(super) groups: Option<Vec<u32>>,
    pub(super) capabilities: u64,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Vec<Vec<libc::sock_filter>>,
    /// Resource, soft and hard limit.
    pub(super) limits: Vec<(u32, (u64, u64))>,
    /// The content of `/proc/self/oom_score_adj`.
    pub(super) oom_score_adj: CString,
}
wire!(PrivilegePlan {
    user,
    groups,
    capabilities,
    no_new_privileges,
    seccomp,
    limits,
    oom_score_adj
});

/// The root file system of a container to create.
pub(super) struct ContainerPlan {
    pub(super) scratch: CString,
    /// The directory that an overlay is mounted over.
    pub(super) overlay: Option<CString>,
    pub(super) directory: Option<CString>,
    pub(super) read_only: bool,
    /// The size of a root file system in memory, and its number of files, as mount options.
    pub(super) size: CString,
    pub(super) inodes: CString,
    /// Set if it enters the pid namespace of another container.
    pub(super) shares_processes: bool,
    /// Files to write.
    pub(super) files: Vec<(CString, Vec<u8>)>,
    pub(super) mounts: Vec<MountPlan>,
    /// Mount options of the container's terminals.
    pub(super) terminals: CString,
}
wire!(ContainerPlan {
    scratch,
    overlay,
    directory,
    read_only,
    size,
    inodes,
    shares_processes,
    files,
    mounts,
    terminals
});

/// A bind mount into a container.
pub(super) struct MountPlan {
    pub(super) source: CString,
    /// The path below the source, which must not lead out of it.
    pub(super) below: Option<CString>,
    pub(super) target: CString,
    pub(super) read_only: bool,
    pub(super) is_file: bool,
}
wire!(MountPlan { source, below, target, read_only, is_file });

impl ExecPlan {
    /// `limit` is the limit on open files, as it was before the cluster raised its own.
    pub(super) fn new(launch: &Launch, limit: libc::rlimit) -> io::Result<Self> {
        let program = launch.argv.first().map_or("", String::as_str);
        let searched = !program.contains('/');
        let mut programs = candidates(program, &launch.env);
        let mut cwd = if launch.cwd.is_empty() { "/".to_owned() } else { launch.cwd.clone() };
        let mut container = None;
        match &launch.target {
            LaunchTarget::Host { rootfs } => {
                let below = |path: &str| -> io::Result<String> {
                    let path = resolve_in_root(rootfs, Path::new(path), true)?;
                    Ok(path.to_string_lossy().into_owned())
                };
                let base = if program.starts_with('/') || searched {
                    String::new()
                } else {
                    format!("{cwd}/")
                };
                programs = programs
                    .iter()
                    .map(|p| below(&format!("{base}{p}")))
                    .collect::<Result<_, _>>()?;
                cwd = below(&cwd)?;
            }
            LaunchTarget::Container(wanted) => {
                container = Some(ContainerPlan::new(wanted, launch.security.user)?);
            }
            LaunchTarget::Exec(_) => {}
        }
        let programs = programs.iter().map(|p| c_string(p.as_ref())).collect::<io::Result<_>>()?;
        Ok(Self {
            argv: Strings::new(&launch.argv)?,
            envp: Strings::new(&launch.env)?,
            programs,
            cwd: with_parents(&cwd)?,
            container,
            privileges: PrivilegePlan::new(launch, limit)?,
            searched,
            terminal: launch.stdio == Stdio::Terminal,
            isolated: !matches!(launch.target, LaunchTarget::Host { .. }),
        })
    }
}

impl Strings {
    fn new(values: &[String]) -> io::Result<Self> {
        let strings = values.iter().map(|value| c_string(value.as_ref()));
        Ok(Self::from_owned(strings.collect::<io::Result<_>>()?))
    }

    fn from_owned(strings: Vec<CString>) -> Self {
        // The characters do not move when the CString does.
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { strings, pointers }
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl Wire for Strings {
    fn put(&self, to: &mut Vec<u8>) {
        self.strings.put(to);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Vec::get(from).map(Self::from_owned)
    }
}

impl Wire for libc::sock_filter {
    fn put(&self, to: &mut Vec<u8>) {
        (self.code, (self.jt, (self.jf, self.k))).put(to);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        let (code, (jt, (jf, k))) = Wire::get(from)?;
        Some(Self { code, jt, jf, k })
    }
}

impl PrivilegePlan {
    fn new(launch: &Launch, limit: libc::rlimit) -> io::Result<Self> {
        let Security {
            ids,
            user,
            group,
            groups,
            capabilities,
            no_new_privileges,
            seccomp,
            oom_score_adj,
        } = &*launch.security;
        #[allow(clippy::unnecessary_cast, reason = "of another type with musl")]
        let open_files = (libc::RLIMIT_NOFILE as u32, (limit.rlim_cur, limit.rlim_max));
        let more = launch.rlimits.iter().map(|(resource, soft, hard)| (*resource, (*soft, *hard)));
        Ok(Self {
            user: (*ids != IdMapping::Host).then_some((*user, *group)),
            groups: matches!(ids, IdMapping::Range { .. }).then(|| groups.clone()),
            capabilities: capabilities.0,
            no_new_privileges: *no_new_privileges,
            seccomp: seccomp.to_vec(),
            limits: iter::once(open_files).chain(more).collect(),
            oom_score_adj: c_string(oom_score_adj.to_string().as_ref())?,
        })
    }
}

impl ContainerPlan {
    fn new(wanted: &Container, user: u32) -> io::Result<Self> {
        let (mut overlay, mut directory) = (None, None);
        match &wanted.root {
            RootFs::Overlay(lower) => overlay = Some(c_string(lower.as_os_str())?),
            RootFs::Directory(path) => directory = Some(c_string(path.as_os_str())?),
            RootFs::Empty => {}
        }
        let files = wanted.files.iter();
        let files = files
            .map(|(path, content)| Ok((c_string(path.as_ref())?, content.clone().into_bytes())));
        let mounts = wanted.mounts.iter().map(|mount| {
            Ok(MountPlan {
                source: c_string(mount.source.as_os_str())?,
                below: mount.below.as_ref().map(|path| c_string(path.as_os_str())).transpose()?,
                target: c_string(mount.target.as_ref())?,
                read_only: mount.read_only,
                is_file: mount.is_file(),
            })
        });
        let terminals = format!("newinstance,ptmxmode=0666,mode=0620,uid={user}");
        Ok(Self {
            scratch: c_string(wanted.scratch.as_os_str())?,
            overlay,
            directory,
            read_only: wanted.read_only,
            size: c_string(wanted.storage.to_string().as_ref())?,
            // A file without content takes memory too: about a quarter of a page.
            inodes: c_string((wanted.storage / PAGE).max(1024).to_string().as_ref())?,
            shares_processes: wanted.shares_processes_of.is_some(),
            files: files.collect::<io::Result<_>>()?,
            mounts: mounts.collect::<io::Result<_>>()?,
            terminals: c_string(terminals.as_ref())?,
        })
    }
}

/// Returns the paths to try for a program, as execvp: a name with a slash is a path, any other is
/// looked up in the `PATH` of the container.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':').filter(|p| !p.is_empty()).map(|p| format!("{p}/{program}")).collect()
}

/// `/a/b` as `/a`, `/a/b`; `/` as itself.
fn with_parents(path: &str) -> io::Result<Vec<CString>> {
    let mut all: Vec<CString> = Path::new(path)
        .ancestors()
        .filter(|p| p.parent().is_some())
        .map(|p| c_string(p.as_os_str()))
        .collect::<io::Result<_>>()?;
    all.reverse();
    if all.is_empty() {
        all.push(c"/".to_owned());
    }
    Ok(all)
}

fn c_string(value: &OsStr) -> io::Result<CString> {
    CString::new(value.as_bytes()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{value:?} contains a zero byte"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_preceded_by_its_parents() {
        let all = |path| -> Vec<String> {
            let all = with_parents(path).unwrap().into_iter();
            all.map(|p| p.into_string().unwrap()).collect()
        };
        assert_eq!(all("/a/b/c"), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(all("/"), ["/"]);
    }

    #[test]
    fn program_without_slash_is_looked_up_in_path() {
        let env = ["PATH=/bin::/opt".to_owned()];
        assert_eq!(candidates("sh", &env), ["/bin/sh", "/opt/sh"]);
        assert_eq!(candidates("./sh", &env), ["./sh"]);
        assert!(candidates("", &env).is_empty());
        assert!(candidates("sh", &[]).contains(&"/usr/bin/sh".to_owned()));
    }
}
