//! The part of SPDY 3.1 that Kubernetes uses: streams that a client opens, data both ways, half-close, resets and
//! pings. There is no flow control: a stream that is not read blocks the others, as in Kubernetes' own server, so
//! that memory stays bounded.

mod frames;

pub(crate) use frames::Headers;
use frames::{Decoder, Frame, encode};

use crate::subresources::stream::{
    lifetime::HEARTBEAT,
    upgrade::{Out, Wire},
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::future::Future;
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
    let (out, mut frames) = mpsc::channel(QUEUE);
    let replies = out.clone();
    let Wire { mut source, mut sink, .. } = wire;
    let work = async move {
        let read = async {
            let mut decoder = Decoder::default();
            let mut open = std::collections::HashSet::new();
            while let Some(bytes) = source.next().await {
                decoder.push(&bytes);
                loop {
                    let frame = match decoder.next() {
                        Ok(Some(frame)) => frame,
                        Ok(None) => break,
                        Err(_) => {
                            let _ = replies.send(Some(Frame::GoAway)).await;
                            let _ = replies.send(None).await;
                            return;
                        }
                    };
                    let event = match frame {
                        Frame::Open { id, last, headers } => {
                            let reason = if id % 2 == 0 || open.contains(&id) {
                                Some(PROTOCOL_ERROR)
                            } else if open.len() >= MAX_STREAMS {
                                Some(REFUSED_STREAM)
                            } else {
                                None
                            };
                            if let Some(reason) = reason {
                                let _ = replies.send(Some(Frame::Reset { id, reason })).await;
                                continue;
                            }
                            let _ = replies.send(Some(Frame::Reply { id })).await;
                            let _ = events.send(Event::Opened { id, headers }).await;
                            if !last {
                                open.insert(id);
                                continue;
                            }
                            Event::Ended { id, reset: false }
                        }
                        Frame::Data { id, last, data } if open.contains(&id) => {
                            if !data.is_empty() {
                                let _ = events.send(Event::Data { id, data }).await;
                            }
                            if !last {
                                continue;
                            }
                            open.remove(&id);
                            Event::Ended { id, reset: false }
                        }
                        // Also of a half-closed stream: the client reads no more.
                        Frame::Reset { id, .. } => {
                            open.remove(&id);
                            Event::Ended { id, reset: true }
                        }
                        // Pings with even numbers are responses to those of this server.
                        Frame::Ping { id } if id % 2 == 1 => {
                            let _ = replies.send(Some(Frame::Ping { id })).await;
                            continue;
                        }
                        _ => continue,
                    };
                    let _ = events.send(event).await;
                }
            }
        };
        let write = async {
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
                let done = match frame {
                    Some(frame) => sink.send(Out::Message(encode(&frame, &mut begun))).await,
                    None => return sink.send(Out::Close).await.is_ok(),
                };
                if done.is_err() {
                    return false;
                }
            }
        };
        tokio::pin!(read);
        let closed = tokio::select! {
            () = &mut read => false,
            closed = write => closed,
        };
        if closed {
            read.await;
        }
    };
    (Streams(out), work)
}

/// The bytes with which a client opens its first stream.
#[cfg(test)]
pub(crate) fn opened(id: u32, headers: &[(&str, &str)]) -> Bytes {
    frames::opened(id, headers).into()
}
