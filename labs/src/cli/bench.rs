//! Measures the rate of new connections that the load generator achieves, for comparison with others.

use crate::sampler::Sampler;
use anyhow::Context as _;
use std::time::Duration;

/// Samples `http://host:port/path` for about this long and reports the rate.
pub(super) async fn sampler(url: &str, seconds: f64) -> anyhow::Result<String> {
    let sampler = Sampler::to(url, Duration::from_secs(5)).await?;
    let span = Duration::try_from_secs_f64(seconds).context("the number of seconds is invalid")?;
    // A warm-up estimates the number of requests for the duration and is not part of the result.
    let warm_up = sampler.take(2_000, |_| {}).await?;
    let n = (warm_up.per_second() * span.as_secs_f64()).max(1.0) as u64;
    let sample = sampler.take(n, |_| {}).await?;
    Ok(format!(
        "{} requests in {:.2} s: {:.0} a second, {} failed\n",
        sample.total(),
        sample.seconds,
        sample.per_second(),
        sample.failures().count()
    ))
}
