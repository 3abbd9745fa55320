//! A running container as clients of `exec` and `attach` use it.

use crate::{
    container::target::Target,
    logs::Log,
    output::{BUFFER, CLIENT_TIMEOUT, OutputBroadcast},
    runtime::{Stdio, Streams, Terminal},
};
use futures::FutureExt;
use kube_embedded_core::{
    node_api::{NodeError, Session, StreamOptions, Writer},
    task::{TaskSet, spawn_named},
};
use std::{io, os::fd::OwnedFd, sync::Arc};
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    net::unix::pipe,
    sync::{oneshot, watch},
    time::sleep,
};

/// The container's stdin until it is closed. Never held across an await.
type Stdin = Arc<std::sync::Mutex<Option<Arc<pipe::Sender>>>>;

/// One run of a container.
pub(crate) struct RunningContainer {
    target: Arc<Target>,
    /// Shared by all attached clients.
    stdin: Stdin,
    /// `stdinOnce`: stdin is closed when the first client that was attached to it leaves.
    stdin_once: bool,
    terminal: Option<Terminal>,
    stdout: OutputBroadcast,
    stderr: OutputBroadcast,
    /// The sender is dropped when the run is over.
    ended: watch::Receiver<()>,
}

impl RunningContainer {
    /// A run that has just started, and the tasks that copy its output to the log.
    pub(crate) fn start(
        target: Arc<Target>,
        streams: Option<Streams>,
        log: &Arc<Log>,
        ended: watch::Receiver<()>,
    ) -> (Arc<Self>, TaskSet) {
        let (mut stdin, mut terminal, mut stdout, mut stderr) = (None, None, None, None);
        if let Some(streams) = streams {
            (stdin, terminal) = (streams.stdin, streams.terminal);
            (stdout, stderr) = (Some(streams.stdout), streams.stderr);
        }
        let running = Arc::new(Self {
            stdin_once: target.container.stdin_once == Some(true),
            target,
            stdin: Arc::new(std::sync::Mutex::new(stdin.map(Arc::new))),
            terminal,
            stdout: OutputBroadcast::default(),
            stderr: OutputBroadcast::default(),
            ended,
        });
        let mut output = TaskSet::default();
        for (name, from) in [("stdout", stdout), ("stderr", stderr)] {
            let Some(from) = from else { continue };
            let (running, log) = (running.clone(), log.clone());
            output.spawn("container output", async move {
                let attached = if name == "stdout" { &running.stdout } else { &running.stderr };
                log.copy(name, from, Some(attached)).await;
                attached.close().await;
            });
        }
        (running, output)
    }

    /// Returns the pidfd of the container's own program.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        self.target.process.pidfd()
    }

    /// Returns the process id of the container's own program.
    #[cfg(test)]
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.target.process.pid
    }

    /// Starts a program in the container.
    ///
    /// # Errors
    /// Kubernetes' message for a program that cannot be executed.
    pub(crate) async fn exec(
        &self,
        command: Vec<String>,
        options: &StreamOptions,
    ) -> Result<Session, NodeError> {
        let stdio = match (options.tty, options.stdin) {
            (true, _) => Stdio::Terminal,
            (false, true) => Stdio::Piped,
            (false, false) => Stdio::Output,
        };
        let variables: &[&str] = if options.tty { &["TERM=xterm"] } else { &[] };
        let failed = |e: &dyn std::fmt::Display| {
            NodeError::Internal(format!(
                "error executing command in container: failed to exec in container: {e}"
            ))
        };
        let program = command.first().cloned().unwrap_or_default();
        let process = self.target.exec(command, variables, stdio).await.map_err(|e| failed(&e))?;
        let streams = process.streams().map_err(|e| failed(&e))?;
        tracing::debug!(
            container = self.target.container.name,
            program,
            pid = process.pid,
            "exec session started"
        );
        let mut ended = self.ended.clone();
        let end = async move {
            let exit = tokio::select! {
                exit = process.wait() => exit.map(|exit| exit.code).map_err(|e| e.to_string()),
                // In the plain sandbox, the program is in no pid namespace, and would outlive its
                // container. Dropping the process kills it.
                _ = ended.changed() => Ok(137),
            };
            tracing::debug!(program, pid = process.pid, ?exit, "exec session ended");
            exit
        };
        let resize = streams.terminal.map(resizing);
        Ok(Session {
            stdin: streams.stdin.filter(|_| options.stdin).map(|s| Box::new(s) as Writer),
            stdout: Some(Box::new(streams.stdout)),
            stderr: streams.stderr.map(|s| Box::new(s) as _),
            resize,
            end: end.boxed(),
        })
    }

    /// Attaches a client to the container's own program.
    pub(crate) async fn attach(&self, options: &StreamOptions) -> Session {
        tracing::debug!(container = self.target.container.name, "client attached");
        let mut ended = self.ended.clone();
        let stdout = if options.stdout { Some(self.stdout.subscribe().await) } else { None };
        let terminal = self.terminal.clone();
        let stderr = if options.stderr && terminal.is_none() {
            Some(self.stderr.subscribe().await)
        } else {
            None
        };
        let (attached, detached) = oneshot::channel::<()>();
        Session {
            stdin: (options.stdin && open(&self.stdin).is_some()).then(|| self.input(detached)),
            stdout,
            stderr,
            resize: terminal.map(resizing),
            end: async move {
                let _ = ended.changed().await;
                // Held until the run ends, or until the client disconnects and this future is
                // dropped.
                drop(attached);
                Ok(0)
            }
            .boxed(),
        }
    }

    /// Returns a writer to the container's stdin. It works until the container exits or the client
    /// has detached; input from before that is still delivered for [`CLIENT_TIMEOUT`].
    fn input(&self, detached: oneshot::Receiver<()>) -> Writer {
        let (ours, theirs) = duplex(BUFFER);
        let (stdin, mut ended) = (self.stdin.clone(), self.ended.clone());
        let once = self.stdin_once;
        let copy = async move {
            let expired = async {
                let _ = detached.await;
                sleep(CLIENT_TIMEOUT).await;
            };
            tokio::select! {
                copied = copy_input(ours, &stdin) => if let Err(error) = copied {
                    tracing::debug!(%error, "the container no longer reads its stdin");
                },
                _ = ended.changed() => {}
                () = expired => {}
            }
            if once {
                stdin.lock().unwrap_or_else(|e| e.into_inner()).take();
            }
        };
        spawn_named("attached stdin", copy).detach();
        Box::new(theirs)
    }
}

fn open(stdin: &Stdin) -> Option<Arc<pipe::Sender>> {
    stdin.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

/// Copies a client's input to stdin until either is closed. The pipe is looked up again for each chunk,
/// and never held locked, so that a client whose input is not read does not block others.
async fn copy_input(mut from: DuplexStream, to: &Stdin) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let Some(to) = open(to) else { return Ok(()) };
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn resizing(terminal: Terminal) -> Box<dyn Fn(u16, u16) + Send + Sync> {
    Box::new(move |columns, rows| terminal.resize(columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, time::timeout};

    #[tokio::test]
    async fn blocked_stdin_does_not_block_other_attachers() {
        let (to, mut from) = pipe::pipe().unwrap();
        let stdin: Stdin = Arc::new(std::sync::Mutex::new(Some(Arc::new(to))));
        let (mut client, ours) = duplex(16);
        let copied = stdin.clone();
        let copy = tokio::spawn(async move { copy_input(ours, &copied).await });
        let size = 1 << 20;
        let written = tokio::spawn(async move { client.write_all(&vec![b'x'; size]).await });
        let mut some = [0; 4096];
        from.read_exact(&mut some).await.unwrap();
        assert_eq!(some, [b'x'; 4096]);
        stdin.try_lock().unwrap().take();
        drop(from);
        let _ = timeout(CLIENT_TIMEOUT, copy).await.unwrap();
        let _ = timeout(CLIENT_TIMEOUT, written).await.unwrap();
    }
}
