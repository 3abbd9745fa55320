//! Termination messages: a file that the container may write, or the end of its log.

use super::context::Context;
use crate::{runtime::Mount, safe_dir::SafeDir};
use std::{
    fs::Permissions,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

/// The most of a message that is reported of one container, and of all containers of a pod.
const MAX_MESSAGE: u64 = 4 << 10;
const MAX_MESSAGES: u64 = 12 << 10;
/// The most of the log that stands in for a message (`FallbackToLogsOnError`).
const MAX_LOG_LINES: i64 = 80;
const MAX_LOG: usize = 2 << 10;

const FILE: &str = "termination-log";

fn folder(cx: Context<'_>) -> PathBuf {
    cx.pod.directory().join("containers").join(&cx.container.name)
}

/// Creates an empty file for the message of the next run, and returns its mount; `None` if the
/// container has no path for it.
pub(super) fn mount(cx: Context<'_>) -> io::Result<Option<Mount>> {
    let path = cx.container.termination_message_path.as_deref().unwrap_or_default();
    if path.is_empty() {
        return Ok(None);
    }
    let folder = folder(cx);
    let file = SafeDir::create(&folder)?.replace_file(FILE)?;
    // Any user of the container may write to it.
    file.set_permissions(Permissions::from_mode(0o666))?;
    Ok(Some(Mount {
        source: folder.join(FILE),
        below: None,
        target: format!("/{}", path.trim_matches('/')),
        read_only: false,
    }))
}

/// Returns the message of a run that exited with this code.
pub(super) fn read(cx: Context<'_>, exit_code: i32) -> Option<String> {
    let spec = cx.pod.pod.spec.as_ref()?;
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let limit = MAX_MESSAGE.min(MAX_MESSAGES / containers.max(1) as u64);
    // The container may have written anything of any size to the file, but it cannot replace it.
    let file = SafeDir::open(&folder(cx)).and_then(|folder| folder.open_file(FILE));
    let written = file.and_then(|file| read_end(file, limit)).unwrap_or_default();
    let falls_back =
        cx.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let bytes = if written.is_empty() && falls_back && exit_code != 0 {
        cx.log.tail(MAX_LOG_LINES, MAX_LOG.min(limit as usize)).to_vec()
    } else {
        written
    };
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the last `limit` bytes.
fn read_end(mut file: impl Read + Seek, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut end = Vec::new();
    file.take(limit).read_to_end(&mut end)?;
    Ok(end)
}
