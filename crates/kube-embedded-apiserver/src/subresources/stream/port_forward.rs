//! Port-forward: connections into a pod, each over a pair of channels or streams, one for data and one for errors.

use crate::{
    http::status::{ApiError, ApiResult},
    subresources::stream::{
        channels,
        lifetime::HEARTBEAT,
        spdy::{self, Event, Streams},
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

/// Chunks of data that may be queued for a connection.
const QUEUE: usize = 32;
const CHUNK: usize = 32 << 10;
/// The number of a channel is one byte, and each port has two.
const MAX_PORTS: usize = 64;

/// The concurrent connections of a client over SPDY, and those of which it has opened one stream only.
const MAX_CONNECTIONS: usize = 1024;

/// The pod that connections go to.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) nodes: Weak<dyn NodeApi>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// A message for a connection.
enum Incoming {
    Data(Bytes),
    /// The client reads no more.
    Reset,
}

type SendBack = Box<dyn Fn(Bytes) -> BoxFuture<'static, bool> + Send + Sync>;

/// Parses the ports in a query: `ports=80&ports=81`, or `ports=80,81`.
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
        1..=MAX_PORTS => Ok(ports),
        many => Err(ApiError::bad_request(format!("{many} ports are more than {MAX_PORTS}"))),
    }
}

/// Connects a client with the pod until the client disconnects.
pub(crate) async fn serve(wire: Wire, pod: Pod, ports: Vec<u16>) {
    match wire.protocol {
        Protocol::Channels(_) => over_channels(wire, pod, ports).await,
        Protocol::Spdy(_) => over_spdy(wire, pod).await,
        // Not negotiated for ports.
        Protocol::Bytes(_) => {}
    }
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let stopped = || "the node of the pod has stopped".to_owned();
        let nodes: Arc<dyn NodeApi> = self.nodes.upgrade().ok_or_else(stopped)?;
        nodes.connect(&self.namespace, &self.name, port).await.map_err(|error| error.to_string())
    }

    /// Copies data both ways until both sides have ended.
    async fn copy(
        &self,
        port: u16,
        mut incoming: mpsc::Receiver<Incoming>,
        send_back: &SendBack,
    ) -> Result<(), String> {
        let failed = |why: String| {
            let Self { name, uid, .. } = self;
            format!("error forwarding port {port} to pod {name}, uid {uid}: {why}")
        };
        let (mut read, mut write) = self.connect(port).await.map_err(failed)?.into_split();
        let back = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match read.read(&mut chunk).await {
                    Ok(0) => return Ok(()),
                    Ok(size) => {
                        let data = Bytes::copy_from_slice(chunk.get(..size).unwrap_or_default());
                        if !send_back(data).await {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        let forth = async {
            while let Some(incoming) = incoming.recv().await {
                match incoming {
                    // A process that reads no more may still write.
                    Incoming::Data(data) => {
                        if write.write_all(&data).await.is_err() {
                            break;
                        }
                    }
                    Incoming::Reset => return true,
                }
            }
            let _ = write.shutdown().await;
            // A reset may still come, and data for a closed connection must not block the others.
            while let Some(incoming) = incoming.recv().await {
                if matches!(incoming, Incoming::Reset) {
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
        let (input, incoming) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        let forward = forward_channels(pod.clone(), port, [data, error], incoming, out.clone());
        connections.spawn("port-forward", forward);
    }
    drop(out);
    let read = async {
        while let Some(message) = source.next().await {
            match channels::parse(message) {
                // Version 5: the client half-closes a channel.
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
                        let _ = input.send(Incoming::Data(data)).await;
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
    // Dropping the set aborts the remaining connections.
    drop(connections);
}

/// Serves one port over its channels for data and errors.
async fn forward_channels(
    pod: Pod,
    port: u16,
    [data, error]: [u8; 2],
    incoming: mpsc::Receiver<Incoming>,
    out: mpsc::Sender<Bytes>,
) {
    for channel in [data, error] {
        let _ = out.send(channels::message(channel, &port.to_le_bytes())).await;
    }
    let back = out.clone();
    let send_back: SendBack = Box::new(move |bytes| {
        let back = back.clone();
        async move { back.send(channels::message(data, &bytes)).await.is_ok() }.boxed()
    });
    if let Err(why) = pod.copy(port, incoming, &send_back).await {
        let _ = out.send(channels::message(error, why.as_bytes())).await;
    }
}

/// Two streams a connection, which the client opens, tied together by a request id.
async fn over_spdy(wire: Wire, pod: Pod) {
    let (events, mut event_rx) = mpsc::channel(QUEUE);
    let (out, connection) = spdy::connection(wire, events);
    let serve = async {
        let mut connections = TaskSet::default();
        let mut errors: HashMap<String, u32> = HashMap::new();
        let mut inputs: HashMap<u32, mpsc::Sender<Incoming>> = HashMap::new();
        while let Some(event) = event_rx.recv().await {
            while let Some(Some(_)) = connections.join_next().now_or_never() {}
            match event {
                Event::Opened { id, headers } => {
                    let request = spdy::header(&headers, "requestid").to_owned();
                    if spdy::header(&headers, "streamtype") == "error" {
                        if errors.len() < MAX_CONNECTIONS {
                            errors.insert(request, id);
                        } else {
                            out.refuse(id).await;
                        }
                        continue;
                    }
                    let error = errors.remove(&request);
                    // Counted here, since a client may end its streams at once.
                    if connections.len() >= MAX_CONNECTIONS {
                        for id in error.into_iter().chain([id]) {
                            out.refuse(id).await;
                        }
                        continue;
                    }
                    let port = spdy::header(&headers, "port").parse().unwrap_or(0);
                    let (input, incoming) = mpsc::channel(QUEUE);
                    inputs.insert(id, input);
                    let forward =
                        forward_streams(pod.clone(), port, id, error, incoming, out.clone());
                    connections.spawn("port-forward", forward);
                }
                Event::Data { id, data } => {
                    if let Some(input) = inputs.get(&id) {
                        let _ = input.send(Incoming::Data(data)).await;
                    }
                }
                Event::Ended { id, reset } => {
                    errors.retain(|_, error| *error != id || !reset);
                    if let Some(input) = inputs.remove(&id)
                        && reset
                    {
                        let _ = input.send(Incoming::Reset).await;
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

/// Serves one connection over its streams for data and, unless the client opened none, errors.
async fn forward_streams(
    pod: Pod,
    port: u16,
    data: u32,
    error: Option<u32>,
    incoming: mpsc::Receiver<Incoming>,
    out: Streams,
) {
    let back = out.clone();
    let send_back: SendBack = Box::new(move |bytes| {
        let back = back.clone();
        async move { back.data(data, bytes).await }.boxed()
    });
    let copied = pod.copy(port, incoming, &send_back).await;
    if let Some(error) = error {
        if let Err(why) = copied {
            out.data(error, Bytes::from(why)).await;
        }
        out.end(error).await;
    }
    out.end(data).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_port_is_rejected() {
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
