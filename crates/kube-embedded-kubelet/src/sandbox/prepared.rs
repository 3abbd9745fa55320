//! Everything a child needs between `fork` and `exec`, as memory that is ready to be used.

use super::{Launch, Place, Root};
use crate::images::resolve_in_root;
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

pub(super) struct Prepared {
    _strings: Vec<CString>,
    pub(super) argv: Vec<*const c_char>,
    pub(super) envp: Vec<*const c_char>,
    /// Tried in this order.
    pub(super) programs: Vec<CString>,
    /// The working directory, and each folder above it.
    pub(super) cwd: Vec<CString>,
    pub(super) container: Option<PreparedContainer>,
    /// Whether the name had no slash, which decides how a failure is told.
    pub(super) searched: bool,
}

pub(super) struct PreparedContainer {
    pub(super) scratch: CString,
    /// Options of the overlay.
    pub(super) overlay: Option<CString>,
    pub(super) folder: Option<CString>,
    pub(super) read_only: bool,
    pub(super) files: Vec<(Vec<CString>, Vec<u8>)>,
    pub(super) mounts: Vec<PreparedMount>,
    /// Of the host, and in the container.
    pub(super) devices: Vec<(CString, CString)>,
}

pub(super) struct PreparedMount {
    pub(super) source: CString,
    /// The target, and each folder above it.
    pub(super) target: Vec<CString>,
    pub(super) read_only: bool,
    pub(super) is_file: bool,
}

impl Prepared {
    pub(super) fn new(launch: &Launch) -> io::Result<Self> {
        let mut strings = Vec::new();
        let mut pointers = |values: &[String]| -> io::Result<Vec<*const c_char>> {
            let mut pointers = Vec::with_capacity(values.len() + 1);
            for value in values {
                let string = c_string(value.as_ref())?;
                pointers.push(string.as_ptr());
                strings.push(string);
            }
            pointers.push(ptr::null());
            Ok(pointers)
        };
        let (argv, envp) = (pointers(&launch.argv)?, pointers(&launch.env)?);
        let program = launch.argv.first().map_or("", String::as_str);
        let searched = !program.contains('/');
        let path = launch.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let mut programs: Vec<String> = if program.is_empty() {
            Vec::new()
        } else if searched {
            path.split(':').filter(|p| !p.is_empty()).map(|p| format!("{p}/{program}")).collect()
        } else {
            vec![program.to_owned()]
        };
        let mut cwd = if launch.cwd.is_empty() { "/".to_owned() } else { launch.cwd.clone() };
        let mut container = None;
        match &launch.place {
            Place::Host { rootfs } => {
                let below = |path: &str| -> io::Result<String> {
                    Ok(resolve_in_root(rootfs, Path::new(path), true)?
                        .to_string_lossy()
                        .into_owned())
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
            Place::Container(wanted) => {
                let (mut overlay, mut folder) = (None, None);
                match &wanted.root {
                    Root::Overlay(lower) => {
                        let mut options =
                            b"userxattr,upperdir=upper,workdir=work,lowerdir=".to_vec();
                        for byte in lower.as_os_str().as_bytes() {
                            // The option string has its own syntax.
                            if matches!(byte, b':' | b',' | b'\\') {
                                options.push(b'\\');
                            }
                            options.push(*byte);
                        }
                        overlay = Some(c_string(OsStr::from_bytes(&options))?);
                    }
                    Root::Folder(path) => folder = Some(c_string(path.as_os_str())?),
                    Root::Empty => {}
                }
                let files = wanted.files.iter();
                let mounts = wanted.mounts.iter().map(|m| {
                    Ok(PreparedMount {
                        source: c_string(m.source.as_os_str())?,
                        target: chain(&m.target)?,
                        read_only: m.read_only,
                        is_file: m.source.is_file(),
                    })
                });
                let devices = DEVICES.iter().map(|d| {
                    Ok((
                        c_string(format!("/dev/{d}").as_ref())?,
                        c_string(format!("/dev/{d}").as_ref())?,
                    ))
                });
                container = Some(PreparedContainer {
                    scratch: c_string(wanted.scratch.as_os_str())?,
                    overlay,
                    folder,
                    read_only: wanted.read_only,
                    files: files
                        .map(|(p, c)| Ok((chain(p)?, c.clone().into_bytes())))
                        .collect::<io::Result<_>>()?,
                    mounts: mounts.collect::<io::Result<_>>()?,
                    devices: devices.collect::<io::Result<_>>()?,
                });
            }
            Place::Beside(_) => {}
        }
        let programs = programs.iter().map(|p| c_string(p.as_ref())).collect::<io::Result<_>>()?;
        Ok(Self { argv, envp, programs, cwd: chain(&cwd)?, container, searched, _strings: strings })
    }
}

/// `/a/b` as `/a`, `/a/b`; `/` as itself.
fn chain(path: &str) -> io::Result<Vec<CString>> {
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
