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
    use crate::testing::Folder;
    use proptest::prelude::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let folder = Folder::new();
        let root = folder.0.clone();
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
    }
    /// A path of a few names, some of which exist as directories (`a`, `b`) or links (`x`, `y`, `z`).
    fn any_path() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec!["a", "b", "x", "y", "z", "..", ".", "none"]);
        (any::<bool>(), prop::collection::vec(part, 1..6)).prop_map(|(absolute, parts)| {
            format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_links_and_path_stay_inside_the_root(
            links in prop::collection::vec(any_path(), 3),
            path in any_path(),
        ) {
            let folder = Folder::new();
            let root = folder.0.canonicalize().unwrap().join("root");
            fs::create_dir_all(root.join("a/b")).unwrap();
            for (name, target) in ["x", "a/y", "a/b/z"].iter().zip(&links) {
                std::os::unix::fs::symlink(target, root.join(name)).unwrap();
            }
            if let Ok(resolved) = resolve_in_root(&root, Path::new(&path), true) {
                prop_assert!(resolved.starts_with(&root), "{}", resolved.display());
                // No link is left in it that the host would follow.
                if let Ok(real) = resolved.canonicalize() {
                    prop_assert_eq!(real, resolved);
                }
            }
        }
    }
}
