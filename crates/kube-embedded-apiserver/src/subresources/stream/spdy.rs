//! The part of SPDY 3.1 that Kubernetes uses: streams that a client opens, data both ways, half-close, resets and
//! pings. There is no flow control: a stream that is not read blocks the others, as in Kubernetes' own server, so
//! that memory stays bounded.

pub(crate) mod frames;

pub(crate) use frames::Headers;
use frames::{Decoder, Frame, encode};

use crate::subresources::stream::{
    lifetime::HEARTBEAT,
    upgrade::{Out, OutSink, Wire},
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::{collections::HashSet, future::Future};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at},
};

/// Frames that may be queued.
const QUEUE: usize = 32;
/// The streams that a client may have open.
const MAX_STREAMS: usize = 4096;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;

/// An event on the connection.
#[derive(Debug)]
pub(crate) enum Event {
    Opened { id: u32, headers: Headers },
    Data { id: u32, data: Bytes },
    Ended { id: u32, reset: bool },
}

/// The write side of a connection.
#[derive(Clone)]
pub(crate) struct Streams(mpsc::Sender<Option<Frame>>);

impl Streams {
    pub(crate) async fn data(&self, id: u32, data: Bytes) -> bool {
        self.0.send(Some(Frame::Data { id, last: false, data })).await.is_ok()
    }

    /// Half-closes a stream.
    pub(crate) async fn end(&self, id: u32) {
        let _ = self.0.send(Some(Frame::Data { id, last: true, data: Bytes::new() })).await;
    }

    /// Resets a stream that is not accepted.
    pub(crate) async fn refuse(&self, id: u32) {
        let _ = self.0.send(Some(Frame::Reset { id, reason: REFUSED_STREAM })).await;
    }

    pub(crate) async fn close(&self) {
        let _ = self.0.send(None).await;
    }
}

/// Returns the value of a header; empty if there is none.
pub(crate) fn header<'a>(headers: &'a Headers, name: &str) -> &'a str {
    let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or("", |(_, value)| value)
}

/// Serves SPDY until the client disconnects or violates the protocol. The future drives the connection.
pub(crate) fn connection(
    wire: Wire,
    events: mpsc::Sender<Event>,
) -> (Streams, impl Future<Output = ()>) {
    let (out, frames) = mpsc::channel(QUEUE);
    let mut reader =
        Reader { decoder: Decoder::default(), open: HashSet::new(), events, replies: out.clone() };
    let Wire { mut source, sink, .. } = wire;
    let work = async move {
        let read = async {
            while let Some(bytes) = source.next().await {
                if !reader.read(&bytes).await {
                    return;
                }
            }
        };
        tokio::pin!(read);
        let closed = tokio::select! {
            () = &mut read => false,
            closed = write(sink, frames) => closed,
        };
        if closed {
            read.await;
        }
    };
    (Streams(out), work)
}

/// The read side of a connection.
struct Reader {
    decoder: Decoder,
    /// The streams on which the client may still send.
    open: HashSet<u32>,
    events: mpsc::Sender<Event>,
    replies: mpsc::Sender<Option<Frame>>,
}

impl Reader {
    /// Decodes bytes and handles the frames. Returns false if the client violates the protocol.
    async fn read(&mut self, bytes: &[u8]) -> bool {
        self.decoder.push(bytes);
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    if let Some(event) = self.handle(frame).await {
                        let _ = self.events.send(event).await;
                    }
                }
                Ok(None) => return true,
                Err(_) => {
                    self.reply(Some(Frame::GoAway)).await;
                    self.reply(None).await;
                    return false;
                }
            }
        }
    }

    async fn reply(&self, frame: Option<Frame>) {
        // The queue is closed only once the connection is.
        let _ = self.replies.send(frame).await;
    }

    /// Replies to a frame; returns the event that it means, unless it is sent already.
    async fn handle(&mut self, frame: Frame) -> Option<Event> {
        match frame {
            Frame::Open { id, last, headers } => {
                let reason = if id % 2 == 0 || self.open.contains(&id) {
                    Some(PROTOCOL_ERROR)
                } else if self.open.len() >= MAX_STREAMS {
                    Some(REFUSED_STREAM)
                } else {
                    None
                };
                if let Some(reason) = reason {
                    self.reply(Some(Frame::Reset { id, reason })).await;
                    return None;
                }
                self.reply(Some(Frame::Reply { id })).await;
                let _ = self.events.send(Event::Opened { id, headers }).await;
                if !last {
                    self.open.insert(id);
                    return None;
                }
                Some(Event::Ended { id, reset: false })
            }
            Frame::Data { id, last, data } if self.open.contains(&id) => {
                if !data.is_empty() {
                    let _ = self.events.send(Event::Data { id, data }).await;
                }
                if !last {
                    return None;
                }
                self.open.remove(&id);
                Some(Event::Ended { id, reset: false })
            }
            // Also of a half-closed stream: the client reads no more.
            Frame::Reset { id, .. } => {
                self.open.remove(&id);
                Some(Event::Ended { id, reset: true })
            }
            // Pings with even numbers are responses to those of this server.
            Frame::Ping { id } if id % 2 == 1 => {
                self.reply(Some(Frame::Ping { id })).await;
                None
            }
            _ => None,
        }
    }
}

/// Sends frames, and pings in between. Returns true once the queue is closed and everything sent.
async fn write(mut sink: OutSink, mut frames: mpsc::Receiver<Option<Frame>>) -> bool {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    let (mut pings, mut begun) = (0_u32, false);
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame.flatten(),
            _ = heartbeat.tick() => {
                pings = pings.wrapping_add(2);
                Some(Frame::Ping { id: pings })
            }
        };
        let sent = match frame {
            Some(frame) => sink.send(Out::Message(encode(&frame, &mut begun))).await,
            None => return sink.send(Out::Close).await.is_ok(),
        };
        if sent.is_err() {
            return false;
        }
    }
}

/// The bytes with which a client opens its first stream.
#[cfg(test)]
pub(crate) fn opened(id: u32, headers: &[(&str, &str)]) -> Bytes {
    frames::opened(id, headers).into()
}
