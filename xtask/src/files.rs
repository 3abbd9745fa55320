//! Writing files: privately, atomically. State is in directories that no other user can enter, so nobody else
//! can hold its locks, read its credentials or create its files first.

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use serde::Serialize;
use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates a directory that only this user can enter, or makes an existing one so.
pub(crate) fn private_directory(directory: &Path) -> Result<()> {
    let problem = || format!("failed to create {}", directory.display());
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(problem)?;
    let metadata = directory.metadata().with_context(problem)?;
    // Whoever owns this program is trusted already: root runs it in the checkout of another user.
    let program = env::current_exe().and_then(|program| program.metadata());
    let owners = [Some(geteuid().as_raw()), program.ok().map(|program| program.uid())];
    ensure!(
        owners.contains(&Some(metadata.uid())),
        "{} belongs to another user (uid {}); delete it, or set CANARY_HOME to a directory of yours",
        directory.display(),
        metadata.uid()
    );
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(directory, Permissions::from_mode(0o700))
            .with_context(|| format!("failed to make {} private", directory.display()))?;
    }
    Ok(())
}

/// Creates or empties a file that only this user can read, from its first byte on.
pub(crate) fn create_private(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)
}

/// Writes a file that only this user can read.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    create_private(file)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("failed to write {}", file.display()))
}

/// Replaces a private file with a JSON document, atomically, also if the machine loses power.
pub(crate) fn write_json(file: &Path, document: &impl Serialize) -> Result<()> {
    let (part, text) = (file.with_added_extension("part"), serde_json::to_vec_pretty(document)?);
    create_private(&part)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("failed to write {}", file.display()))
}

/// Identifies a build of a program by size and time: to hash it would take longer than to start it.
pub(crate) fn build_id(program: &Path) -> Result<String> {
    let metadata =
        fs::metadata(program).with_context(|| format!("failed to stat {}", program.display()))?;
    Ok(format!("{} {:?}", metadata.len(), metadata.modified()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_private_and_those_of_other_users_are_rejected() {
        let directory = env::temp_dir().join(format!("canary-private-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        private_directory(&directory).unwrap();
        assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o700);
        write_json(&directory.join("file"), &1).unwrap();
        assert_eq!(directory.join("file").metadata().unwrap().mode() & 0o777, 0o600);
        if geteuid().is_root() {
            std::os::unix::fs::chown(&directory, Some(54_321), None).unwrap();
            let error = private_directory(&directory).unwrap_err().to_string();
            assert!(error.contains("belongs to another user (uid 54321)"), "{error}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
