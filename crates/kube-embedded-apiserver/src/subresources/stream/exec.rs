//! `exec` and `attach`: connects a client with a process in a container.

use crate::subresources::stream::{
    channels,
    lifetime::HEARTBEAT,
    spdy::{self, Event},
    upgrade::{Out, Protocol, Version, Wire},
};
use bytes::Bytes;
use futures::{
    FutureExt, SinkExt, StreamExt,
    future::{BoxFuture, join, pending},
};
use kube_embedded_core::node_api::{NodeError, Reader, Session, StreamOptions, Writer};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, interval_at, timeout},
};

/// Chunks of output, and of input, that may be queued.
const QUEUE: usize = 16;
const CHUNK: usize = 32 << 10;
/// The time for which output is still read after the process has exited, as its children may hold the pipes.
const DRAIN: Duration = Duration::from_millis(500);
/// The time that a client gets to close the connection, and to open the streams it needs.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams that a client may open; it needs five.
const MAX_STREAMS: usize = 16;

/// A message from the client.
enum Input {
    Data(Bytes),
    Closed,
    Resize(u16, u16),
}

impl Input {
    fn resize((columns, rows): (u16, u16)) -> Self {
        Self::Resize(columns, rows)
    }
}

/// A message to the client.
enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    Status(Value),
}

impl Output {
    /// Returns the type of the SPDY stream, and the data.
    fn into_stream(self) -> (&'static str, Bytes) {
        match self {
            Self::Stdout(data) => ("stdout", data),
            Self::Stderr(data) => ("stderr", data),
            Self::Status(status) => ("error", Bytes::from(status.to_string())),
        }
    }
}

/// Connects a client with the process that `start` starts, until either ends. The process does not outlive the
/// client.
pub(crate) async fn serve(
    wire: Wire,
    options: StreamOptions,
    start: impl FnOnce() -> BoxFuture<'static, Result<Session, NodeError>> + Send + 'static,
) {
    let (input_tx, input_rx) = mpsc::channel(QUEUE);
    let (output_tx, output_rx) = mpsc::channel(QUEUE);
    let session = async move {
        let status = match start().await {
            Ok(session) => run_session(session, &options, input_rx, &output_tx).await,
            Err(error) => internal_error(&match error {
                // The message of kube-apiserver for errors before the kubelet switches protocols.
                NodeError::Internal(why) if why.starts_with("container not found") => {
                    format!("unable to upgrade connection: {why}")
                }
                other => other.to_string(),
            }),
        };
        let _ = output_tx.send(Output::Status(status)).await;
    };
    match wire.protocol {
        Protocol::Channels(version) => {
            over_channels(wire, version, session.boxed(), input_tx, output_rx).await
        }
        Protocol::Spdy(_) => over_spdy(wire, session.boxed(), input_tx, output_rx).await,
        // Not negotiated for a process.
        Protocol::Bytes(_) => {}
    }
}

async fn over_channels(
    wire: Wire,
    version: Version,
    session: BoxFuture<'static, ()>,
    input_tx: mpsc::Sender<Input>,
    mut output_rx: mpsc::Receiver<Output>,
) {
    let Wire { mut source, mut sink, .. } = wire;
    let read = async {
        while let Some(message) = source.next().await {
            if let Some(input) = channel_input(message, version) {
                // The receiver is closed once the process has exited; the client gets the status.
                let _ = input_tx.send(input).await;
            }
        }
    };
    let write = async {
        // Some clients wait for a first message before they send anything.
        let hello = channels::message(channels::STDOUT, b"");
        sink.send(Out::Message(hello)).await?;
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            let message = tokio::select! {
                output = output_rx.recv() => match output {
                    Some(Output::Stdout(data)) => channels::message(channels::STDOUT, &data),
                    Some(Output::Stderr(data)) => channels::message(channels::STDERR, &data),
                    Some(Output::Status(status)) => {
                        channels::message(channels::ERROR, &encode_status(&status, version))
                    }
                    None => return sink.send(Out::Close).await,
                },
                _ = heartbeat.tick() => {
                    sink.send(Out::Ping).await?;
                    continue;
                }
            };
            sink.send(Out::Message(message)).await?;
        }
    };
    tokio::pin!(read, write);
    let is_complete = tokio::select! {
        () = &mut read => false,
        // Ends before the session only if the client has disconnected.
        _ = &mut write => false,
        () = session => true,
    };
    let is_complete = is_complete && write.await.is_ok();
    if is_complete {
        // Wait for the client to close its side.
        let _ = timeout(CLIENT_TIMEOUT, read).await;
    }
}

/// Returns the input in a message.
fn channel_input(message: Bytes, version: Version) -> Option<Input> {
    let (channel, data) = channels::parse(message)?;
    match channel {
        channels::STDIN if !data.is_empty() => Some(Input::Data(data)),
        channels::RESIZE => channels::size(&data).map(Input::resize),
        channels::CLOSE if version == Version::Fifth && *data == [channels::STDIN] => {
            Some(Input::Closed)
        }
        _ => None,
    }
}

/// Encodes the status for a version of the protocol.
fn encode_status(status: &Value, version: Version) -> Vec<u8> {
    if version != Version::First {
        return status.to_string().into_bytes();
    }
    let failed = status["status"] != "Success";
    let message = status["message"].as_str().filter(|_| failed);
    message.unwrap_or_default().as_bytes().to_vec()
}

/// Serves a client over SPDY streams, which it opens and names by a header.
async fn over_spdy(
    wire: Wire,
    session: BoxFuture<'static, ()>,
    input_tx: mpsc::Sender<Input>,
    mut output_rx: mpsc::Receiver<Output>,
) {
    let (events, mut event_rx) = mpsc::channel(QUEUE);
    let (out, connection) = spdy::connection(wire, events);
    let (named, mut names) = watch::channel(HashMap::<String, u32>::new());
    let read = async {
        let mut kinds = HashMap::new();
        while let Some(event) = event_rx.recv().await {
            match event {
                Event::Opened { id, .. } if kinds.len() >= MAX_STREAMS => out.refuse(id).await,
                Event::Opened { id, headers } => {
                    let kind = spdy::header(&headers, "streamtype").to_owned();
                    kinds.insert(id, kind.clone());
                    named.send_modify(|all| {
                        all.insert(kind, id);
                    });
                }
                event => {
                    if let Some(input) = stream_input(event, &kinds) {
                        let _ = input_tx.send(input).await;
                    }
                }
            }
        }
    };
    let write = async {
        while let Some(output) = output_rx.recv().await {
            let (kind, data) = output.into_stream();
            // The process may write before the client has opened its streams.
            let opened =
                timeout(CLIENT_TIMEOUT, names.wait_for(|names| names.contains_key(kind))).await;
            let Some(id) = opened.ok().and_then(|n| n.ok().and_then(|n| n.get(kind).copied()))
            else {
                continue;
            };
            out.data(id, data).await;
        }
        let all: Vec<u32> = names.borrow().values().copied().collect();
        for id in all {
            out.end(id).await;
        }
    };
    // Keep driving the connection: only it drains the queue of frames to be sent.
    let finish = async {
        join(session, write).await;
        out.close().await;
    };
    tokio::pin!(connection);
    tokio::select! {
        () = &mut connection => return,
        () = read => return,
        () = finish => {}
    }
    let _ = timeout(CLIENT_TIMEOUT, connection).await;
}

/// Returns the input of an event on a stream, given the kinds of the streams.
fn stream_input(event: Event, kinds: &HashMap<u32, String>) -> Option<Input> {
    match event {
        Event::Opened { .. } => None,
        Event::Data { id, data } => match &**kinds.get(&id)? {
            "stdin" => Some(Input::Data(data)),
            "resize" => channels::size(&data).map(Input::resize),
            _ => None,
        },
        Event::Ended { id, .. } => (kinds.get(&id)? == "stdin").then_some(Input::Closed),
    }
}

/// Copies between client and process until the process has exited and its output is sent. Returns the status.
async fn run_session(
    session: Session,
    options: &StreamOptions,
    mut input_rx: mpsc::Receiver<Input>,
    output_tx: &mpsc::Sender<Output>,
) -> Value {
    let Session { mut stdin, stdout, stderr, resize, end } = session;
    let exited = watch::Sender::new(false);
    let listen = async {
        while let Some(input) = input_rx.recv().await {
            match input {
                Input::Data(data) => write(&mut stdin, &data).await,
                Input::Closed => stdin = None,
                Input::Resize(columns, rows) => {
                    if let Some(resize) = &resize {
                        resize(columns, rows);
                    }
                }
            }
        }
        // The client has disconnected; the caller is about to drop this future.
        pending::<()>().await;
    };
    let print = join(
        copy(stdout, options.stdout.then_some(Output::Stdout), output_tx, exited.subscribe()),
        copy(stderr, options.stderr.then_some(Output::Stderr), output_tx, exited.subscribe()),
    );
    let finish = async {
        let end = end.await;
        exited.send_replace(true);
        end
    };
    tokio::select! {
        (end, _) = join(finish, print) => match end {
            Ok(0) => json!({ "metadata": {}, "status": "Success" }),
            Ok(code) => exit_code(code),
            Err(why) => internal_error(&why),
        },
        () = listen => internal_error("the client disconnected"),
    }
}

/// Writes to the process, which may have closed its stdin.
async fn write(stdin: &mut Option<Writer>, data: &[u8]) {
    if let Some(to) = stdin
        && to.write_all(data).await.is_err()
    {
        *stdin = None;
    }
}

/// Copies output to the client until its end; after the exit of the process, until no more comes. Output that the
/// client did not request is read, too, since a full pipe would block the process.
async fn copy(
    from: Option<Reader>,
    kind: Option<fn(Bytes) -> Output>,
    output_tx: &mpsc::Sender<Output>,
    mut exited: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        let ended = *exited.borrow_and_update();
        let read = if ended {
            timeout(DRAIN, from.read(&mut chunk)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = from.read(&mut chunk) => read,
                _ = exited.changed() => continue,
            }
        };
        let Ok(read @ 1..) = read else { return };
        let data = Bytes::copy_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(kind) = kind
            && output_tx.send(kind(data)).await.is_err()
        {
            return;
        }
    }
}

/// Returns the status of an exit code.
fn exit_code(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "command terminated with non-zero exit code: command terminated with exit code {code}"
        ),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn internal_error(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": why }] },
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn spdy_connection_closes_with_full_queues() {
        for pieces in 20..50 {
            let opened = spdy::opened(1, &[("streamtype", "stdout")]);
            let (sent, mut taken) = futures::channel::mpsc::channel(0);
            let wire = Wire {
                source: stream::iter([opened]).chain(stream::pending()).boxed(),
                sink: Box::pin(sent.sink_map_err(std::io::Error::other)),
                protocol: Protocol::Spdy(Version::Fourth),
            };
            let (input_tx, _input_rx) = mpsc::channel(QUEUE);
            let (output_tx, output_rx) = mpsc::channel(QUEUE);
            let session = async move {
                for _ in 0..pieces {
                    let _ = output_tx.send(Output::Stdout(Bytes::from_static(b"chunk"))).await;
                }
            };
            tokio::spawn(over_spdy(wire, session.boxed(), input_tx, output_rx));
            // The client takes nothing until no more can be put into any queue.
            for _ in 0..1000 {
                yield_now().await;
            }
            let all = async {
                while let Some(out) = taken.next().await {
                    if matches!(out, Out::Close) {
                        return true;
                    }
                }
                false
            };
            assert!(timeout(CLIENT_TIMEOUT, all).await.unwrap(), "{pieces} pieces");
        }
    }
}
