//! How many fresh connections a second the sampler makes, to be compared with other load generators.

use crate::sample::Sampler;
use anyhow::Context as _;
use std::time::Duration;

/// Samples `http://host:port/path` for that long and tells the rate.
pub(super) async fn sampler(url: &str, seconds: f64) -> anyhow::Result<String> {
    let sampler = Sampler::to(url, Duration::from_secs(5)).await?;
    let span = Duration::try_from_secs_f64(seconds).context("a number of seconds is needed")?;
    // A warm-up tells how many fit in the time asked for; what is told is measured on its own.
    let warm = sampler.take(2_000, |_| {}).await?;
    let n = (warm.per_second() * span.as_secs_f64()).max(1.0) as u64;
    let sample = sampler.take(n, |_| {}).await?;
    Ok(format!(
        "{} requests in {:.2} s: {:.0} a second, {} failed\n",
        sample.total(),
        sample.seconds,
        sample.per_second(),
        sample.failures().count()
    ))
}
