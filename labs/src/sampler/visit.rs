//! Many requests whose whole responses are of interest: the page, the pod that sent it, the time it took.

use super::generator::Sampler;
use super::response::{Failure, Response};
use anyhow::bail;
use futures::stream::{self, StreamExt as _};
use std::time::Instant;

/// One request and its whole response.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The index of the page among those visited.
    pub page: usize,
    /// Seconds the request took.
    pub latency: f64,
    /// The response, or why there was none.
    pub result: Result<Response, Failure>,
}

/// Sends `n` requests to these pages in turn, some at a time, and returns them in the order they ended.
///
/// # Errors
/// If a request failed for want of something on this machine.
pub(crate) async fn visit(pages: &[Sampler], n: usize) -> anyhow::Result<Vec<Visit>> {
    let in_flight = pages.first().map_or(1, |page| page.in_flight);
    let one = async |(page, sampler): (usize, &Sampler)| {
        let sent = Instant::now();
        let result = sampler.fetch().await;
        Visit { page, latency: sent.elapsed().as_secs_f64(), result }
    };
    let all = stream::iter(pages.iter().enumerate().cycle().take(n).map(one));
    let visits: Vec<Visit> = all.buffer_unordered(in_flight).collect().await;
    let local = visits.iter().find_map(|visit| match &visit.result {
        Err(Failure::Local(why)) => Some(why.clone()),
        _ => None,
    });
    match local {
        Some(why) => bail!(why),
        None => Ok(visits),
    }
}
