//! Paths inside a root file system, as a process with that root would resolve them. An image may
//! contain `lib -> /usr/lib` or `x -> ../../..`; resolved by the host, either would leave the root.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The most symbolic links on one path, as in Linux. More are taken for a loop.
const MAX_LINKS: usize = 40;

/// Resolves `path` below `root`. Every symbolic link is followed inside `root`, the last one only if
/// `follow_last`. Components that do not exist are taken as they are.
///
/// # Errors
/// `ELOOP` for a loop of links, and any error of reading a link.
pub(crate) fn resolve_in_root(root: &Path, path: &Path, follow_last: bool) -> io::Result<PathBuf> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut done: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let here = root.join(done.iter().collect::<PathBuf>()).join(&part);
        let is_link = fs::symlink_metadata(&here).is_ok_and(|m| m.is_symlink());
        if !is_link || (todo.is_empty() && !follow_last) {
            done.push(part);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = fs::read_link(&here)?;
        if target.is_absolute() {
            done.clear();
        }
        for part in parts(&target).into_iter().rev() {
            todo.push_front(part);
        }
    }
    Ok(root.join(done.iter().collect::<PathBuf>()))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let root = std::env::temp_dir().join(format!("root-{}-{}", std::process::id(), line!()));
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        for (link, to) in [("lib", "/usr/lib"), ("up", "../../../.."), ("a", "b"), ("b", "a")] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        let at = |path: &str| {
            resolve_in_root(&root, Path::new(path), true)
                .map(|p| p.strip_prefix(&root).unwrap().to_owned())
        };
        assert_eq!(at("/lib/x").unwrap(), Path::new("usr/lib/x"));
        assert_eq!(at("up/etc/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(at("../../etc").unwrap(), Path::new("etc"));
        assert_eq!(at("a/x").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(resolve_in_root(&root, Path::new("lib"), false).unwrap(), root.join("lib"));
        fs::remove_dir_all(&root).unwrap();
    }
}
