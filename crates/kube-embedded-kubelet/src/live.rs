//! A running container, for those who start something beside its program or talk to it.

use super::{
    logs::Log,
    probe::Target,
    sandbox::{Stdio, Streams, Terminal},
};
use futures::FutureExt;
use kube_embedded_core::node_api::{NodeError, Reader, Session, StreamOptions, Writer};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::unix::pipe,
    sync::{Mutex, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How much of its output a container is ahead of a client.
const BUFFER: usize = 64 << 10;
/// A client that takes nothing for so long is let go: a full pipe stops the program.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where input goes to, until it has ended. Nobody waits while holding it.
type Stdin = Arc<std::sync::Mutex<Option<Arc<pipe::Sender>>>>;

/// One run of a container.
pub(crate) struct Live {
    target: Arc<Target>,
    /// Shared by all who are attached.
    stdin: Stdin,
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
            stdin: Arc::new(std::sync::Mutex::new(stdin.map(Arc::new))),
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
        let (here, gone) = oneshot::channel::<()>();
        Session {
            stdin: (options.stdin && open(&self.stdin).is_some()).then(|| self.input(gone)),
            stdout,
            stderr,
            resize: terminal.map(resizing),
            end: async move {
                let _ = ended.changed().await;
                // Until here, or until the client goes and this is dropped.
                drop(here);
                Ok(0)
            }
            .boxed(),
        }
    }

    /// Ends with the client or with the container, whichever goes first. What a client said before
    /// it went still has some time to be read.
    fn input(&self, gone: oneshot::Receiver<()>) -> Writer {
        let (ours, theirs) = duplex(BUFFER);
        let (stdin, mut ended) = (self.stdin.clone(), self.ended.clone());
        let once = self.once;
        tokio::spawn(async move {
            let given_up = async {
                let _ = gone.await;
                sleep(PATIENCE).await;
            };
            tokio::select! {
                _ = pump(ours, &stdin) => {}
                _ = ended.changed() => {}
                () = given_up => {}
            }
            if once {
                stdin.lock().unwrap_or_else(|e| e.into_inner()).take();
            }
        });
        Box::new(theirs)
    }
}

fn open(stdin: &Stdin) -> Option<Arc<pipe::Sender>> {
    stdin.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

async fn pump(mut from: DuplexStream, to: &Stdin) -> io::Result<()> {
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

    #[tokio::test]
    async fn input_that_nobody_reads_holds_up_nobody_else() {
        let (to, mut from) = pipe::pipe().unwrap();
        let stdin: Stdin = Arc::new(std::sync::Mutex::new(Some(Arc::new(to))));
        let (mut client, ours) = duplex(16);
        let pumped = stdin.clone();
        let pump = tokio::spawn(async move { pump(ours, &pumped).await });
        let size = 1 << 20;
        let written = tokio::spawn(async move { client.write_all(&vec![b'x'; size]).await });
        let mut some = [0; 4096];
        from.read_exact(&mut some).await.unwrap();
        assert_eq!(some, [b'x'; 4096]);
        // Who attaches next is not held up by the rest.
        stdin.try_lock().unwrap().take();
        drop(from);
        let _ = timeout(PATIENCE, pump).await.unwrap();
        let _ = timeout(PATIENCE, written).await.unwrap();
    }
}
