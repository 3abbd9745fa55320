//! `exec` and `attach`: a client's connection on one side, a program on the other.

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

/// Pieces of output, and of input, that may be under way.
const QUEUE: usize = 16;
const PIECE: usize = 32 << 10;
/// Output may still come for so long after a program's end, when others hold its pipes.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a client may take to say goodbye, and to open the streams it needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams a client may open: it needs five at most.
const MOST_STREAMS: usize = 16;

/// What a client says.
enum Said {
    Input(Bytes),
    InputEnds,
    Size(u16, u16),
}

/// What it is told.
enum Told {
    Stdout(Bytes),
    Stderr(Bytes),
    Status(Value),
}

/// Connects a client with the program that `start` starts, until either ends. The program does not
/// outlive the client.
pub(crate) async fn serve(
    wire: Wire,
    options: StreamOptions,
    start: impl FnOnce() -> BoxFuture<'static, Result<Session, NodeError>> + Send + 'static,
) {
    let (say, said) = mpsc::channel(QUEUE);
    let (tell, told) = mpsc::channel(QUEUE);
    let talk = async move {
        let status = match start().await {
            Ok(session) => talk(session, &options, said, &tell).await,
            Err(error) => internal_error(&match error {
                // How the API server words what a node refuses before it switches protocols.
                NodeError::Internal(why) if why.starts_with("container not found") => {
                    format!("unable to upgrade connection: {why}")
                }
                other => other.to_string(),
            }),
        };
        let _ = tell.send(Told::Status(status)).await;
    };
    match wire.protocol {
        Protocol::Channels(version) => over_channels(wire, version, talk.boxed(), say, told).await,
        Protocol::Spdy(_) => over_spdy(wire, talk.boxed(), say, told).await,
    }
}

async fn over_channels(
    wire: Wire,
    version: Version,
    talk: BoxFuture<'static, ()>,
    say: mpsc::Sender<Said>,
    mut told: mpsc::Receiver<Told>,
) {
    let Wire { mut source, mut sink, .. } = wire;
    let read = async {
        while let Some(message) = source.next().await {
            let said = match channels::parse(message) {
                Some((channels::STDIN, data)) if !data.is_empty() => Said::Input(data),
                Some((channels::RESIZE, data)) => match channels::size(&data) {
                    Some((columns, rows)) => Said::Size(columns, rows),
                    None => continue,
                },
                Some((channels::CLOSE, data))
                    if version == Version::Fifth && *data == [channels::STDIN] =>
                {
                    Said::InputEnds
                }
                _ => continue,
            };
            // Who does not listen any more has ended; the client will hear of it.
            let _ = say.send(said).await;
        }
    };
    let write = async {
        // Some clients wait for a first message to know that they are connected.
        let hello = channels::message(channels::STDOUT, b"");
        sink.send(Out::Message(hello)).await?;
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            let message = tokio::select! {
                told = told.recv() => match told {
                    Some(Told::Stdout(data)) => channels::message(channels::STDOUT, &data),
                    Some(Told::Stderr(data)) => channels::message(channels::STDERR, &data),
                    Some(Told::Status(status)) => {
                        channels::message(channels::ERROR, &words(&status, version))
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
    let told_all = tokio::select! {
        () = &mut read => false,
        // Only a client that is gone makes it end before the talk does.
        _ = &mut write => false,
        () = talk => true,
    };
    let told_all = told_all && write.await.is_ok();
    if told_all {
        // Until the client has said goodbye, too.
        let _ = timeout(PATIENCE, read).await;
    }
}

/// The status as a version of the protocol shows it.
fn words(status: &Value, version: Version) -> Vec<u8> {
    if version != Version::First {
        return status.to_string().into_bytes();
    }
    let failed = status["status"] != "Success";
    let message = status["message"].as_str().filter(|_| failed);
    message.unwrap_or_default().as_bytes().to_vec()
}

/// The same over streams of SPDY, which the client opens and names by a header.
async fn over_spdy(
    wire: Wire,
    talk: BoxFuture<'static, ()>,
    say: mpsc::Sender<Said>,
    mut told: mpsc::Receiver<Told>,
) {
    let (events, mut happens) = mpsc::channel(QUEUE);
    let (out, connection) = spdy::connection(wire, events);
    let (named, mut names) = watch::channel(HashMap::<String, u32>::new());
    let read = async {
        let mut kinds = HashMap::new();
        while let Some(event) = happens.recv().await {
            let said = match event {
                Event::Opened { id, .. } if kinds.len() >= MOST_STREAMS => {
                    out.refuse(id).await;
                    continue;
                }
                Event::Opened { id, headers } => {
                    let kind = spdy::header(&headers, "streamtype").to_owned();
                    kinds.insert(id, kind.clone());
                    named.send_modify(|all| {
                        all.insert(kind, id);
                    });
                    continue;
                }
                Event::Data { id, data } => match kinds.get(&id).map(String::as_str) {
                    Some("stdin") => Said::Input(data),
                    Some("resize") => match channels::size(&data) {
                        Some((columns, rows)) => Said::Size(columns, rows),
                        None => continue,
                    },
                    _ => continue,
                },
                Event::Ended { id, .. } if kinds.get(&id).is_some_and(|kind| kind == "stdin") => {
                    Said::InputEnds
                }
                Event::Ended { .. } => continue,
            };
            let _ = say.send(said).await;
        }
    };
    let write = async {
        while let Some(told) = told.recv().await {
            let (kind, data) = match told {
                Told::Stdout(data) => ("stdout", data),
                Told::Stderr(data) => ("stderr", data),
                Told::Status(status) => ("error", Bytes::from(status.to_string())),
            };
            // What has happened before the client has opened its streams waits for them.
            let there = timeout(PATIENCE, names.wait_for(|names| names.contains_key(kind))).await;
            let Some(id) = there.ok().and_then(|n| n.ok().and_then(|n| n.get(kind).copied()))
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
    // Only the connection makes room for what is still to be sent, so it goes on until all is.
    let finish = async {
        join(talk, write).await;
        out.close().await;
    };
    tokio::pin!(connection);
    tokio::select! {
        () = &mut connection => return,
        () = read => return,
        () = finish => {}
    }
    let _ = timeout(PATIENCE, connection).await;
}

/// Lets client and program talk until the program ends and all it printed is told.
async fn talk(
    session: Session,
    options: &StreamOptions,
    mut said: mpsc::Receiver<Said>,
    tell: &mpsc::Sender<Told>,
) -> Value {
    let Session { mut stdin, stdout, stderr, resize, end } = session;
    let over = watch::Sender::new(false);
    let listen = async {
        while let Some(said) = said.recv().await {
            match said {
                Said::Input(data) => write(&mut stdin, &data).await,
                Said::InputEnds => stdin = None,
                Said::Size(columns, rows) => {
                    if let Some(resize) = &resize {
                        resize(columns, rows);
                    }
                }
            }
        }
        // The client is gone; whoever runs this is about to notice.
        pending::<()>().await;
    };
    let print = join(
        copy(stdout, options.stdout.then_some(Told::Stdout), tell, over.subscribe()),
        copy(stderr, options.stderr.then_some(Told::Stderr), tell, over.subscribe()),
    );
    let finish = async {
        let end = end.await;
        over.send_replace(true);
        end
    };
    tokio::select! {
        (end, _) = join(finish, print) => match end {
            Ok(0) => json!({ "metadata": {}, "status": "Success" }),
            Ok(code) => exit_code(code),
            Err(why) => internal_error(&why),
        },
        () = listen => internal_error("the client is gone"),
    }
}

/// Whether a program takes its input is its own business.
async fn write(stdin: &mut Option<Writer>, data: &[u8]) {
    if let Some(to) = stdin
        && to.write_all(data).await.is_err()
    {
        *stdin = None;
    }
}

/// Reads until the end, or once the program is over, until nothing more comes. What nobody asked
/// for is read all the same: a full pipe would stop the program.
async fn copy(
    from: Option<Reader>,
    kind: Option<fn(Bytes) -> Told>,
    tell: &mpsc::Sender<Told>,
    mut over: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; PIECE];
    loop {
        let ended = *over.borrow_and_update();
        let read = if ended {
            timeout(DRAIN, from.read(&mut piece)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = from.read(&mut piece) => read,
                _ = over.changed() => continue,
            }
        };
        let Ok(read @ 1..) = read else { return };
        let data = Bytes::copy_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(kind) = kind
            && tell.send(kind(data)).await.is_err()
        {
            return;
        }
    }
}

/// As Kubernetes tells a program's exit code.
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
    async fn spdy_ends_however_much_waits_to_be_sent() {
        for pieces in 20..50 {
            let opened = spdy::opened(1, &[("streamtype", "stdout")]);
            let (sent, mut taken) = futures::channel::mpsc::channel(0);
            let wire = Wire {
                source: stream::iter([opened]).chain(stream::pending()).boxed(),
                sink: Box::pin(sent.sink_map_err(std::io::Error::other)),
                protocol: Protocol::Spdy(Version::Fourth),
            };
            let (say, _said) = mpsc::channel(QUEUE);
            let (tell, told) = mpsc::channel(QUEUE);
            let talk = async move {
                for _ in 0..pieces {
                    let _ = tell.send(Told::Stdout(Bytes::from_static(b"piece"))).await;
                }
            };
            tokio::spawn(over_spdy(wire, talk.boxed(), say, told));
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
            assert!(timeout(PATIENCE, all).await.unwrap(), "{pieces} pieces");
        }
    }
}
