//! All that a child needs between `clone` and `exec`, allocated beforehand: the child itself can
//! allocate nothing ([`super::syscalls`]).

use super::launch::{Container, Launch, LaunchTarget, RootFs};
use crate::root_path::resolve_in_root;
use libc::c_char;
use std::{
    ffi::{CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// A program to execute, as NUL-terminated strings.
pub(super) struct ExecPlan {
    /// Owns the strings that `argv` and `envp` point to.
    _strings: Vec<CString>,
    /// Ends with null, as execve requires.
    pub(super) argv: Vec<*const c_char>,
    /// Ends with null, as execve requires.
    pub(super) envp: Vec<*const c_char>,
    /// The candidates for the program, tried in this order.
    pub(super) programs: Vec<CString>,
    /// The working directory, preceded by each of its parents.
    pub(super) cwd: Vec<CString>,
    pub(super) container: Option<ContainerPlan>,
    /// Set if the program was looked up in `PATH`, which decides the wording of a failure.
    pub(super) searched: bool,
}

/// The root file system of a container to create.
pub(super) struct ContainerPlan {
    pub(super) scratch: CString,
    /// Mount options of the overlay.
    pub(super) overlay: Option<CString>,
    pub(super) directory: Option<CString>,
    pub(super) read_only: bool,
    /// Each path is preceded by its parents.
    pub(super) files: Vec<(Vec<CString>, Vec<u8>)>,
    pub(super) mounts: Vec<MountPlan>,
    /// The path on the host and the path in the container.
    pub(super) devices: Vec<(CString, CString)>,
}

/// A bind mount into a container.
pub(super) struct MountPlan {
    pub(super) source: CString,
    /// The path below the source, which must not lead out of it.
    pub(super) below: Option<CString>,
    /// The target, preceded by each of its parents.
    pub(super) target: Vec<CString>,
    pub(super) read_only: bool,
    pub(super) is_file: bool,
}

impl ExecPlan {
    pub(super) fn new(launch: &Launch) -> io::Result<Self> {
        let mut strings = Vec::new();
        let argv = pointers(&launch.argv, &mut strings)?;
        let envp = pointers(&launch.env, &mut strings)?;
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
            LaunchTarget::Container(wanted) => container = Some(ContainerPlan::new(wanted)?),
            LaunchTarget::Exec(_) => {}
        }
        let programs = programs.iter().map(|p| c_string(p.as_ref())).collect::<io::Result<_>>()?;
        let cwd = with_parents(&cwd)?;
        Ok(Self { argv, envp, programs, cwd, container, searched, _strings: strings })
    }
}

impl ContainerPlan {
    fn new(wanted: &Container) -> io::Result<Self> {
        let (mut overlay, mut directory) = (None, None);
        match &wanted.root {
            RootFs::Overlay(lower) => overlay = Some(overlay_options(lower)?),
            RootFs::Directory(path) => directory = Some(c_string(path.as_os_str())?),
            RootFs::Empty => {}
        }
        let files = wanted.files.iter();
        let mounts = wanted.mounts.iter().map(|mount| {
            Ok(MountPlan {
                source: c_string(mount.source.as_os_str())?,
                below: mount.below.as_ref().map(|path| c_string(path.as_os_str())).transpose()?,
                target: with_parents(&mount.target)?,
                read_only: mount.read_only,
                is_file: mount.is_file(),
            })
        });
        let devices = DEVICES.iter().map(|device| {
            let path = c_string(format!("/dev/{device}").as_ref())?;
            Ok((path.clone(), path))
        });
        Ok(Self {
            scratch: c_string(wanted.scratch.as_os_str())?,
            overlay,
            directory,
            read_only: wanted.read_only,
            files: files
                .map(|(path, content)| Ok((with_parents(path)?, content.clone().into_bytes())))
                .collect::<io::Result<_>>()?,
            mounts: mounts.collect::<io::Result<_>>()?,
            devices: devices.collect::<io::Result<_>>()?,
        })
    }
}

/// Builds a null-terminated array of C strings, which `owner` keeps alive.
fn pointers(values: &[String], owner: &mut Vec<CString>) -> io::Result<Vec<*const c_char>> {
    let mut pointers = Vec::with_capacity(values.len() + 1);
    for value in values {
        let string = c_string(value.as_ref())?;
        // The characters do not move when the CString does.
        pointers.push(string.as_ptr());
        owner.push(string);
    }
    pointers.push(ptr::null());
    Ok(pointers)
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

/// Returns the mount options of an overlay over `lower`. `userxattr` is what allows an ordinary user
/// to mount one; the relative paths are created in the scratch directory.
fn overlay_options(lower: &Path) -> io::Result<CString> {
    let mut options = b"userxattr,upperdir=upper,workdir=work,lowerdir=".to_vec();
    for byte in lower.as_os_str().as_bytes() {
        // These have a meaning in the option string.
        if matches!(byte, b':' | b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    c_string(OsStr::from_bytes(&options))
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

    #[test]
    fn overlay_options_escape_separators() {
        let options = overlay_options(Path::new("/a:b,c\\d")).unwrap();
        assert!(options.to_str().unwrap().ends_with("lowerdir=/a\\:b\\,c\\\\d"));
    }
}
