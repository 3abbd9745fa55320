//! Plots as inline SVG: each a figure with its text alternative.

use super::history::{History, Split};
use crate::report::text::{escape, html};
use std::fmt::{self, Write as _};

/// The size of wide plots.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 10.0;

/// A straight scale from values to coordinates.
#[derive(Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn at(self, value: f64) -> f64 {
        let span = if self.to > self.from { self.to - self.from } else { 1.0 };
        let share = ((value - self.from) / span).clamp(0.0, 1.0);
        self.start + (self.end - self.start) * share
    }
}

/// The scales of a wide plot over time.
fn over_time(history: &History, most: f64, height: f64) -> (Scale, Scale) {
    let x = Scale { from: 0.0, to: history.end.max(1.0), start: LEFT, end: WIDTH - 10.0 };
    let y = Scale { from: 0.0, to: most, start: height - 28.0, end: TOP };
    (x, y)
}

fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        // Writing to a string does not fail.
        _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    path
}

/// Begins a figure.
fn open(page: &mut String, label: &str, width: f64, height: f64) -> fmt::Result {
    writeln!(
        page,
        "<figure>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    )
}

fn close(page: &mut String, caption: &str) -> fmt::Result {
    writeln!(page, "</svg>\n<figcaption>{}</figcaption>\n</figure>", html(caption))
}

/// Draws the share of a sample as it converged, in the band that was planned.
pub(super) fn split(page: &mut String, split: &Split) -> fmt::Result {
    let Split { what, planned, band, points } = split;
    let (total, hits) = points.last().copied().unwrap_or((0, 0));
    let (n, share) = (*planned as f64, band.share);
    let percent = |hits: u64, of: u64| 100.0 * hits as f64 / of.max(1) as f64;
    let label = format!(
        "{what}: {hits} of {total} responses were {} = {:.2}%; {:.2}% accepts {:.2}% to {:.2}%",
        band.version,
        percent(hits, total),
        100.0 * share,
        percent(band.low, *planned),
        percent(band.high, *planned),
    );
    open(page, &label, 420.0, 200.0)?;
    let x = Scale { from: 0.0, to: n.max(total as f64), start: 44.0, end: 408.0 };
    let (low, high) = ((share - 0.25).max(0.0), (share + 0.25).min(1.0));
    let y = Scale { from: low, to: high, start: 168.0, end: 10.0 };
    // The width that the test accepts at its end, for every smaller number of requests.
    let half_at = |requests: f64| {
        let deviation = |n: f64| (share * (1.0 - share) / n).sqrt();
        (band.high - band.low) as f64 / (2.0 * n) * deviation(requests) / deviation(n)
    };
    let steps = || (0..=60).map(|i| (n * f64::from(i) / 60.0).max(n * 0.002));
    let upper = steps().map(|n| (x.at(n), y.at(share + half_at(n))));
    let lower = steps().rev().map(|n| (x.at(n), y.at(share - half_at(n))));
    writeln!(page, "<path class=\"funnel\" d=\"{}Z\"/>", path(upper.chain(lower)))?;
    let claimed = path([(44.0, y.at(share)), (408.0, y.at(share))]);
    writeln!(page, "<path class=\"claimed\" d=\"{claimed}\"/>")?;
    let (from, to) = (y.at(band.low as f64 / n), y.at(band.high as f64 / n));
    let bracket = path([(402.0, to), (408.0, to), (408.0, from), (402.0, from)]);
    writeln!(page, "<path class=\"bracket\" d=\"{bracket}\"/>")?;
    writeln!(page, "<path class=\"axis\" d=\"M44 10V168H408\"/>")?;
    for value in [low, low.midpoint(high), high] {
        let at = y.at(value) + 4.0;
        writeln!(
            page,
            "<text x=\"39\" y=\"{at:.1}\" text-anchor=\"end\">{:.0}%</text>",
            100.0 * value
        )?;
    }
    writeln!(page, "<text x=\"408\" y=\"186\" text-anchor=\"end\">{planned} requests</text>")?;
    let curve = points.iter().filter(|(total, _)| *total > 0);
    let curve =
        curve.map(|(total, hits)| (x.at(*total as f64), y.at(*hits as f64 / *total as f64)));
    writeln!(page, "<path class=\"curve\" d=\"{}\"/>", path(curve))?;
    close(page, &label)
}

/// The class of the color of the version at this place.
fn class(index: usize) -> String {
    format!("s{}", index.min(3))
}

/// Draws the legend of versions and failures.
fn legend(page: &mut String, versions: &[&str], failures: bool) -> fmt::Result {
    let mut x = LEFT;
    let named = versions.iter().enumerate().map(|(index, version)| (class(index), *version));
    for (class, name) in named.chain(failures.then(|| ("sx".to_owned(), "failed"))) {
        writeln!(page, "<rect class=\"{class}\" x=\"{x:.0}\" y=\"0\" width=\"9\" height=\"9\"/>")?;
        writeln!(page, "<text x=\"{:.0}\" y=\"9\">{}</text>", x + 13.0, escape(name))?;
        x += 30.0 + 7.0 * name.chars().count() as f64;
    }
    Ok(())
}

/// Draws axes, and the start of each step as a numbered line.
fn axes(page: &mut String, history: &History, most: f64, unit: &str, height: f64) -> fmt::Result {
    let (x, y) = over_time(history, most, height);
    let bottom = y.start;
    writeln!(page, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{}\"/>", WIDTH - 10.0)?;
    writeln!(
        page,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{unit}</text>\n<text x=\"{:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>",
        LEFT - 5.0,
        TOP + 12.0,
        LEFT - 5.0,
    )?;
    writeln!(
        page,
        "<text x=\"{}\" y=\"{height}\" text-anchor=\"end\">{:.1} s</text>",
        WIDTH - 10.0,
        history.end
    )?;
    let mut free = 0.0;
    for (number, (at, step)) in history.steps.iter().enumerate() {
        let at = x.at(*at);
        writeln!(
            page,
            "<path class=\"moment\" d=\"M{at:.1} {TOP}V{bottom}\"><title>{}</title></path>",
            escape(&step.replace('`', ""))
        )?;
        if at >= free {
            writeln!(page, "<text x=\"{at:.1}\" y=\"{:.0}\">{}</text>", bottom + 13.0, number + 1)?;
            free = at + 18.0;
        }
    }
    Ok(())
}

/// Draws requests over time, stacked by version, with the start of each step.
pub(super) fn timeline(page: &mut String, history: &History) -> fmt::Result {
    let most = history.bins.iter().map(|bin| bin.total()).max().unwrap_or(0).max(1) as f64;
    let (versions, height) = (history.versions(), 220.0);
    let sum: u64 = history.bins.iter().map(|bin| bin.total()).sum();
    let failures: u64 = history.bins.iter().map(|bin| bin.failures).sum();
    let label = format!(
        "{sum} requests over {:.1} s by version, {failures} of them failed; numbered lines are the starts of steps",
        history.end
    );
    open(page, &label, WIDTH, height)?;
    let (x, y) = over_time(history, most, height);
    for (index, bin) in history.bins.iter().enumerate() {
        let (from, to) =
            (x.at(index as f64 * history.width), x.at((index + 1) as f64 * history.width));
        let counts = versions
            .iter()
            .enumerate()
            .map(|(index, version)| (class(index), bin.counts.get(*version).copied().unwrap_or(0)));
        let mut below = 0;
        for (class, count) in counts.chain([("sx".to_owned(), bin.failures)]) {
            if count > 0 {
                let (bottom, top) = (y.at(below as f64), y.at((below + count) as f64));
                writeln!(
                    page,
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    (to - from).max(0.5),
                    // A single failure among thousands is seen.
                    (bottom - top).max(if class == "sx" { 3.0 } else { 0.0 }),
                )?;
            }
            below += count;
        }
    }
    let unit = format!("{:.0}/s", most / history.width);
    axes(page, history, most, &unit, height)?;
    legend(page, &versions, true)?;
    close(page, &label)?;
    if !history.steps.is_empty() {
        page.push_str("<details><summary>The steps</summary>\n<ol>\n");
        for (at, step) in &history.steps {
            writeln!(page, "<li>{} <small>at {at:.1} s</small></li>", html(step))?;
        }
        page.push_str("</ol>\n</details>\n");
    }
    Ok(())
}

/// Draws ready pods over time, stacked by version.
pub(super) fn pods(page: &mut String, history: &History) -> fmt::Result {
    let most = history.pods.iter().map(|(_, counts)| counts.values().sum::<u64>()).max();
    let Some(most) = most.filter(|most| *most > 0) else { return Ok(()) };
    let (versions, height) = (history.versions(), 150.0);
    let label = format!("Ready pods over time by version, {most} at most");
    open(page, &label, WIDTH, height)?;
    let (x, y) = over_time(history, most as f64, height);
    let ends = history.pods.iter().skip(1).map(|(at, _)| *at).chain([history.end]);
    for ((at, counts), end) in history.pods.iter().zip(ends) {
        let mut below = 0;
        for (index, version) in versions.iter().enumerate() {
            let count = counts.get(*version).copied().unwrap_or(0);
            if count > 0 {
                let (bottom, top) = (y.at(below as f64), y.at((below + count) as f64));
                writeln!(
                    page,
                    "<rect class=\"{}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    class(index),
                    x.at(*at),
                    (x.at(end) - x.at(*at)).max(0.5),
                    bottom - top,
                )?;
            }
            below += count;
        }
    }
    axes(page, history, most as f64, &most.to_string(), height)?;
    legend(page, &versions, false)?;
    close(page, &label)
}

/// Draws median and 99th percentile of latency over time.
pub(super) fn latency(page: &mut String, history: &History) -> fmt::Result {
    if history.latencies.is_empty() {
        return Ok(());
    }
    let (all, height) = (&history.latencies, 150.0);
    let most = all.iter().map(|(_, _, p99)| *p99).fold(1e-4, f64::max);
    let label = format!(
        "Latency over time: median (solid) and 99th percentile (dashed), which is {:.1} ms at most",
        1000.0 * most
    );
    open(page, &label, WIDTH, height)?;
    let (x, y) = over_time(history, most, height);
    let tail = path(all.iter().map(|(at, _, p99)| (x.at(*at), y.at(*p99))));
    let median = path(all.iter().map(|(at, p50, _)| (x.at(*at), y.at(*p50))));
    writeln!(page, "<path class=\"tail\" d=\"{tail}\"/>\n<path class=\"median\" d=\"{median}\"/>")?;
    axes(page, history, most, &format!("{:.1} ms", 1000.0 * most), height)?;
    close(page, &label)
}
