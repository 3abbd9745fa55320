//! `cargo xtask manifests` and `book`: copies to work with, where there is no checkout.

use crate::project::Project;
use anyhow::{Context as _, Result};
use clap::Args;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Copy the manifests to a directory, to edit and apply
#[derive(Args)]
pub(super) struct Manifests {
    /// Directory to create
    #[arg(default_value = "manifests")]
    directory: PathBuf,
}

/// Copy the chapters of the book to a directory, as Markdown
#[derive(Args)]
pub(super) struct Book {
    /// Directory to create
    #[arg(default_value = "book")]
    directory: PathBuf,
}

pub(super) fn manifests(args: &Manifests) -> Result<()> {
    copy(&Project::find()?.root.join("manifests"), &args.directory)
}

pub(super) fn book(args: &Book) -> Result<()> {
    copy(&Project::find()?.root.join("book/src"), &args.directory)
}

/// Copies a folder to a place where there is nothing yet.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let problem = || format!("failed to copy {} to {}", from.display(), to.display());
    fs::create_dir(to).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{} exists already; name another directory", to.display())
        }
        _ => anyhow::Error::new(error).context(format!("failed to create {}", to.display())),
    })?;
    for entry in fs::read_dir(from).with_context(problem)? {
        let entry = entry.with_context(problem)?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(&path, &to).with_context(problem)?;
        }
    }
    Ok(())
}
