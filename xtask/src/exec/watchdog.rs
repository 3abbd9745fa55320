//! Ends a process group with this process, even on `kill -9`: the signal that a child asks for on the death
//! of its parent does not reach what the child has started, such as cargo's compilers.

use super::{
    pre_exec,
    process::{Isolation, supervise},
};
use anyhow::{Context, Result};
use std::{
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

/// A shell that waits for the end of its standard input, whose other end only this process has.
pub(crate) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Runs before what it watches, so that there is no moment at which nothing would be ended.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        // The second `read` returns at the end of the pipe.
        command.args(["-c", "read -r leader && { read -r _; kill -KILL \"-$leader\"; }"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        supervise(&mut command, Isolation::Session, None);
        Ok(Self { shell: command.spawn().context("failed to run /bin/sh")? })
    }

    /// Kills the process group that the child of this command leads once this process has exited.
    pub(crate) fn watch(&self, leader: &mut Command) -> Result<()> {
        if let Some(pipe) = &self.shell.stdin {
            let pipe = pipe.as_fd().try_clone_to_owned();
            pre_exec::announce(leader, pipe.context("failed to open another descriptor")?);
        }
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Before the pipe is closed.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
