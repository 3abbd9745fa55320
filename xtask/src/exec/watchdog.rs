//! Ends a process group with this process, even on `kill -9`: the signal that a child asks for on the death
//! of its parent does not reach what the child has started, such as cargo's compilers.

use super::process::{Isolation, supervise};
use anyhow::{Context, Result};
use std::process::{Child, Command, Stdio};

/// A shell that waits for the end of its standard input, whose other end only this process has.
pub(crate) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Kills the process group that `leader` leads once this process has exited.
    pub(crate) fn watch(leader: &Child) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        // `read` returns at the end of the pipe.
        command.args(["-c", "read -r _; kill -KILL \"-$0\"", &leader.id().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        supervise(&mut command, Isolation::Session, None);
        Ok(Self { shell: command.spawn().context("failed to run /bin/sh")? })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Before the pipe is closed.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
