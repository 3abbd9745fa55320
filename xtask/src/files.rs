//! Writing files: privately, atomically.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Writes a file that only this user can read, from its first byte on.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("failed to write {}", file.display()))
}

/// Replaces a file with a JSON document, atomically.
pub(crate) fn write_json(file: &Path, document: &impl Serialize) -> Result<()> {
    let part = file.with_added_extension("part");
    fs::write(&part, serde_json::to_vec_pretty(document)?)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("failed to write {}", file.display()))
}

/// Identifies a build of a program by size and time: to hash it would take longer than to start it.
pub(crate) fn build_id(program: &Path) -> Result<String> {
    let metadata =
        fs::metadata(program).with_context(|| format!("failed to stat {}", program.display()))?;
    Ok(format!("{} {:?}", metadata.len(), metadata.modified()?))
}
