//! Port-forward: connections into a pod, each over a pair of channels or streams, one for data and
//! one for what went wrong.

use crate::{
    http::status::{ApiError, ApiResult},
    subresources::stream::{
        channels,
        lifetime::HEARTBEAT,
        spdy::{self, Event},
        upgrade::{Out, Protocol, Wire},
    },
};
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use kube_embedded_core::{node_api::NodeApi, task::TaskSet};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, interval_at},
};

/// Pieces of data that may be under way to a connection.
const QUEUE: usize = 32;
const PIECE: usize = 32 << 10;
/// More ports than anybody forwards; each channel has a number of one byte.
const MOST_PORTS: usize = 64;

/// Connections a client may have over SPDY at a time, and as many that it has half opened.
const MOST_CONNECTIONS: usize = 1024;

/// Whom connections go to.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) nodes: Weak<dyn NodeApi>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What comes for a connection.
enum Came {
    Data(Bytes),
    /// The client will take nothing more.
    Reset,
}

type Tell = Box<dyn Fn(Bytes) -> BoxFuture<'static, bool> + Send + Sync>;

/// The ports in a query: `ports=80&ports=81`, or `ports=80,81`.
pub(crate) fn parse(values: &[String]) -> ApiResult<Vec<u16>> {
    let mut ports = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')) {
        match text.trim().parse() {
            Ok(port) if port > 0 => ports.push(port),
            _ => {
                return Err(ApiError::bad_request(format!("unable to parse {text:?} as a port")));
            }
        }
    }
    match ports.len() {
        0 => Err(ApiError::bad_request("query parameter \"ports\" is required")),
        1..=MOST_PORTS => Ok(ports),
        many => Err(ApiError::bad_request(format!("{many} ports are more than {MOST_PORTS}"))),
    }
}

/// Connects a client with the pod until it goes.
pub(crate) async fn serve(wire: Wire, pod: Pod, ports: Vec<u16>) {
    match wire.protocol {
        Protocol::Channels(_) => over_channels(wire, pod, ports).await,
        Protocol::Spdy(_) => over_spdy(wire, pod).await,
    }
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let gone = || "the node of the pod is gone".to_owned();
        let nodes: Arc<dyn NodeApi> = self.nodes.upgrade().ok_or_else(gone)?;
        nodes.connect(&self.namespace, &self.name, port).await.map_err(|error| error.to_string())
    }

    /// Carries data both ways until both sides have ended.
    async fn carry(
        &self,
        port: u16,
        mut came: mpsc::Receiver<Came>,
        tell: &Tell,
    ) -> Result<(), String> {
        let failed = |why: String| {
            let Self { name, uid, .. } = self;
            format!("error forwarding port {port} to pod {name}, uid {uid}: {why}")
        };
        let (mut read, mut write) = self.connect(port).await.map_err(failed)?.into_split();
        let back = async {
            let mut piece = vec![0; PIECE];
            loop {
                match read.read(&mut piece).await {
                    Ok(0) => return Ok(()),
                    Ok(size) => {
                        let data = Bytes::copy_from_slice(piece.get(..size).unwrap_or_default());
                        if !tell(data).await {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        let forth = async {
            while let Some(came) = came.recv().await {
                match came {
                    // A program that reads no more may still have something to say.
                    Came::Data(data) => {
                        if write.write_all(&data).await.is_err() {
                            break;
                        }
                    }
                    Came::Reset => return true,
                }
            }
            let _ = write.shutdown().await;
            // A reset may still come, and what nobody reads must not hold up others.
            while let Some(came) = came.recv().await {
                if matches!(came, Came::Reset) {
                    return true;
                }
            }
            false
        };
        tokio::pin!(back);
        tokio::select! {
            done = &mut back => done.map_err(failed),
            reset = forth => match reset {
                true => Ok(()),
                false => back.await.map_err(failed),
            },
        }
    }
}

/// `v4.channel.k8s.io` and the like: two channels a port, whose first message is the port.
async fn over_channels(wire: Wire, pod: Pod, ports: Vec<u16>) {
    let Wire { mut source, mut sink, .. } = wire;
    let (out, mut messages) = mpsc::channel::<Bytes>(QUEUE);
    let mut connections = TaskSet::default();
    let mut inputs = Vec::new();
    for (n, port) in (0_u8..).zip(ports) {
        let (data, error) = (n * 2, n * 2 + 1);
        let (input, came) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        let (pod, out) = (pod.clone(), out.clone());
        connections.spawn("port-forward", async move {
            for channel in [data, error] {
                let _ = out.send(channels::message(channel, &port.to_le_bytes())).await;
            }
            let back = out.clone();
            let tell: Tell = Box::new(move |bytes| {
                let back = back.clone();
                async move { back.send(channels::message(data, &bytes)).await.is_ok() }.boxed()
            });
            if let Err(why) = pod.carry(port, came, &tell).await {
                let _ = out.send(channels::message(error, why.as_bytes())).await;
            }
        });
    }
    drop(out);
    let read = async {
        while let Some(message) = source.next().await {
            match channels::parse(message) {
                // Version 5: the client has said all on a channel.
                Some((channels::CLOSE, data)) if data.len() == 1 => {
                    let channel = data.first().copied().unwrap_or_default();
                    if channel % 2 == 0
                        && let Some(input) = inputs.get_mut(usize::from(channel / 2))
                    {
                        *input = None;
                    }
                }
                Some((channel, data)) if channel % 2 == 0 => {
                    if let Some(Some(input)) = inputs.get(usize::from(channel / 2)) {
                        let _ = input.send(Came::Data(data)).await;
                    }
                }
                _ => {}
            }
        }
    };
    let write = async {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            let out = tokio::select! {
                message = messages.recv() => message.map_or(Out::Close, Out::Message),
                _ = heartbeat.tick() => Out::Ping,
            };
            let last = matches!(out, Out::Close);
            if sink.send(out).await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    // What is left of the connections goes with the set.
    drop(connections);
}

/// Two streams a connection, which the client opens, tied together by a request id.
async fn over_spdy(wire: Wire, pod: Pod) {
    let (events, mut happens) = mpsc::channel(QUEUE);
    let (out, connection) = spdy::connection(wire, events);
    let serve = async {
        let mut connections = TaskSet::default();
        let mut errors: HashMap<String, u32> = HashMap::new();
        let mut inputs: HashMap<u32, mpsc::Sender<Came>> = HashMap::new();
        while let Some(event) = happens.recv().await {
            while let Some(Some(_)) = connections.join_next().now_or_never() {}
            match event {
                Event::Opened { id, headers } => {
                    let request = spdy::header(&headers, "requestid").to_owned();
                    if spdy::header(&headers, "streamtype") == "error" {
                        if errors.len() < MOST_CONNECTIONS {
                            errors.insert(request, id);
                        } else {
                            out.refuse(id).await;
                        }
                        continue;
                    }
                    let error = errors.remove(&request);
                    // A client may have ended its streams at once: that counts nowhere else.
                    if connections.len() >= MOST_CONNECTIONS {
                        for id in error.into_iter().chain([id]) {
                            out.refuse(id).await;
                        }
                        continue;
                    }
                    let port = spdy::header(&headers, "port").parse().unwrap_or(0);
                    let (input, came) = mpsc::channel(QUEUE);
                    inputs.insert(id, input);
                    let (pod, out) = (pod.clone(), out.clone());
                    connections.spawn("port-forward", async move {
                        let back = out.clone();
                        let tell: Tell = Box::new(move |bytes| {
                            let back = back.clone();
                            async move { back.data(id, bytes).await }.boxed()
                        });
                        let done = pod.carry(port, came, &tell).await;
                        if let (Err(why), Some(error)) = (done, error) {
                            out.data(error, Bytes::from(why)).await;
                        }
                        if let Some(error) = error {
                            out.end(error).await;
                        }
                        out.end(id).await;
                    });
                }
                Event::Data { id, data } => {
                    if let Some(input) = inputs.get(&id) {
                        let _ = input.send(Came::Data(data)).await;
                    }
                }
                Event::Ended { id, reset } => {
                    errors.retain(|_, error| *error != id || !reset);
                    if let Some(input) = inputs.remove(&id)
                        && reset
                    {
                        let _ = input.send(Came::Reset).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = connection => {}
        () = serve => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers() {
        let parsed = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
            parse(&values).map_err(|error| error.to_value()["message"].clone())
        };
        assert_eq!(parsed(&["80", "81,82"]), Ok(vec![80, 81, 82]));
        assert_eq!(parsed(&["0"]).unwrap_err(), "unable to parse \"0\" as a port");
        assert_eq!(parsed(&["http"]).unwrap_err(), "unable to parse \"http\" as a port");
        assert_eq!(parsed(&[]).unwrap_err(), "query parameter \"ports\" is required");
        assert!(parsed(&["1"; 65]).is_err());
    }
}
