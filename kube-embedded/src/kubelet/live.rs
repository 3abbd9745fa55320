//! A running container, for those who start something beside its program or talk to it.

use super::{
    logs::Log,
    probe::Target,
    sandbox::{Stdio, Streams, Terminal},
};
use crate::node_api::{NodeError, Reader, Session, StreamOptions, Writer};
use futures::FutureExt;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::unix::pipe,
    sync::{Mutex, watch},
    task::JoinSet,
    time::timeout,
};

/// How much of its output a container is ahead of a client.
const BUFFER: usize = 64 << 10;
/// A client that takes nothing for so long is let go: a full pipe stops the program.
const PATIENCE: Duration = Duration::from_secs(30);

/// One run of a container.
pub(crate) struct Live {
    target: Arc<Target>,
    /// Shared by all who are attached.
    stdin: Arc<Mutex<Option<pipe::Sender>>>,
    /// Whether the input ends with the first client that wrote to it.
    once: bool,
    terminal: Option<Terminal>,
    stdout: Listeners,
    stderr: Listeners,
    /// Its sender goes when the run is over.
    ended: watch::Receiver<()>,
}

/// Those who read along.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<DuplexStream>>);

impl Listeners {
    async fn join(&self) -> Reader {
        let (ours, theirs) = duplex(BUFFER);
        self.0.lock().await.push(ours);
        Box::new(theirs)
    }

    /// Hands everybody what came. Whoever is gone, or takes nothing for long, is forgotten.
    pub(crate) async fn tell(&self, bytes: &[u8]) {
        let mut all = self.0.lock().await;
        for n in (0..all.len()).rev() {
            let Some(listener) = all.get_mut(n) else { continue };
            if !matches!(timeout(PATIENCE, listener.write_all(bytes)).await, Ok(Ok(()))) {
                all.swap_remove(n);
            }
        }
    }

    async fn leave(&self) {
        self.0.lock().await.clear();
    }
}

impl Live {
    /// A run that has just begun, and the work of writing down what it prints.
    pub(crate) fn begin(
        target: Arc<Target>,
        streams: Option<Streams>,
        log: &Arc<Log>,
        ended: watch::Receiver<()>,
    ) -> (Arc<Self>, JoinSet<()>) {
        let (mut stdin, mut terminal, mut stdout, mut stderr) = (None, None, None, None);
        if let Some(streams) = streams {
            (stdin, terminal) = (streams.stdin, streams.terminal);
            (stdout, stderr) = (Some(streams.stdout), streams.stderr);
        }
        let live = Arc::new(Self {
            once: target.container.stdin_once == Some(true),
            target,
            stdin: Arc::new(Mutex::new(stdin)),
            terminal,
            stdout: Listeners::default(),
            stderr: Listeners::default(),
            ended,
        });
        let mut output = JoinSet::new();
        for (name, from) in [("stdout", stdout), ("stderr", stderr)] {
            let Some(from) = from else { continue };
            let (live, log) = (live.clone(), log.clone());
            output.spawn(async move {
                let listeners = if name == "stdout" { &live.stdout } else { &live.stderr };
                log.copy(name, from, Some(listeners)).await;
                listeners.leave().await;
            });
        }
        (live, output)
    }

    /// Starts a program beside the container's own.
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
        let process =
            self.target.beside(command, variables, stdio).await.map_err(|e| failed(&e))?;
        let streams = process.streams().map_err(|e| failed(&e))?;
        let mut ended = self.ended.clone();
        let end = async move {
            tokio::select! {
                exit = process.wait() => exit.map(|exit| exit.code).map_err(|e| e.to_string()),
                // What is not in a pid namespace would outlive its container.
                _ = ended.changed() => Ok(137),
            }
        };
        let resize = streams.terminal.map(resizing);
        Ok(Session {
            stdin: streams.stdin.filter(|_| options.stdin).map(|s| Box::new(s) as Writer),
            stdout: Some(Box::new(streams.stdout)),
            stderr: streams.stderr.map(|s| Box::new(s) as Reader),
            resize,
            end: end.boxed(),
        })
    }

    /// Joins the container's own program.
    pub(crate) async fn attach(&self, options: &StreamOptions) -> Session {
        let mut ended = self.ended.clone();
        let stdout = if options.stdout { Some(self.stdout.join().await) } else { None };
        let terminal = self.terminal.clone();
        let stderr = if options.stderr && terminal.is_none() {
            Some(self.stderr.join().await)
        } else {
            None
        };
        let has_input = self.stdin.lock().await.is_some();
        Session {
            stdin: (options.stdin && has_input).then(|| self.input()),
            stdout,
            stderr,
            resize: terminal.map(resizing),
            end: async move {
                let _ = ended.changed().await;
                Ok(0)
            }
            .boxed(),
        }
    }

    /// Ends with the client or with the container, whichever goes first.
    fn input(&self) -> Writer {
        let (ours, theirs) = duplex(BUFFER);
        let (stdin, mut ended) = (self.stdin.clone(), self.ended.clone());
        let once = self.once;
        tokio::spawn(async move {
            tokio::select! {
                _ = pump(ours, &stdin) => {}
                _ = ended.changed() => {}
            }
            if once {
                stdin.lock().await.take();
            }
        });
        Box::new(theirs)
    }
}

async fn pump(mut from: DuplexStream, to: &Mutex<Option<pipe::Sender>>) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        let mut to = to.lock().await;
        match to.as_mut() {
            Some(to) if read > 0 => to.write_all(buffer.get(..read).unwrap_or_default()).await?,
            _ => return Ok(()),
        }
    }
}

fn resizing(terminal: Terminal) -> Box<dyn Fn(u16, u16) + Send + Sync> {
    Box::new(move |columns, rows| terminal.resize(columns, rows))
}
