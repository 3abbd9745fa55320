//! The pictures of the book, computed by the very tests that the labs use.

use super::*;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 215.0;

/// A picture that is readable on light and dark pages and without color.
fn picture(title: &str, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n{content}\
         <path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#444\"/>\n</svg>\n"
    )
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

fn line(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    path
}

/// The logarithm of the binomial coefficient, by its recurrence.
fn probabilities(n: u64, share: f64) -> Vec<f64> {
    let mut log = n as f64 * (1.0 - share).ln();
    let mut all = Vec::new();
    for hits in 0..=n {
        all.push(log.exp());
        log += ((n - hits) as f64 / (hits + 1) as f64).ln() + (share / (1.0 - share)).ln();
    }
    all
}

/// The two distributions, and the accepted band if the test has one that is worth drawing.
fn hits(plan: &Plan, band: bool) -> String {
    let (claimed, other) =
        (probabilities(plan.n, plan.share), probabilities(plan.n, plan.alternative));
    let shown = |p: &f64| *p > 1e-5;
    let from = other.iter().position(shown).unwrap_or(0).min(plan.low as usize);
    let to =
        claimed.iter().rposition(shown).unwrap_or(0).max(if band { plan.high as usize } else { 0 });
    let most = claimed.iter().chain(&other).copied().fold(0.0, f64::max);
    let x = |hits: usize| LEFT + (RIGHT - LEFT) * (hits - from) as f64 / (to - from) as f64;
    let y = |p: f64| BOTTOM - (BOTTOM - TOP - 10.0) * p / most;
    let mut content = String::new();
    if band {
        let (low, high) = (x(plan.low as usize), x(plan.high as usize));
        let width = high - low;
        _ = writeln!(
            content,
            "<rect x=\"{low:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#0072b222\" \
             stroke=\"#0072b2\" stroke-dasharray=\"5 4\"/>",
            BOTTOM - TOP
        );
        content += &text(
            low + 6.0,
            TOP + 14.0,
            "start",
            &format!("accepted: {} to {}", plan.low, plan.high),
        );
    }
    for (all, color, dash, name, share) in [
        (&other, "#a35f00", " stroke-dasharray=\"7 4\"", "at a fifth", plan.alternative),
        (&claimed, "#0072b2", "", "at a quarter", plan.share),
    ] {
        let points = (from..=to).map(|hits| (x(hits), y(all.get(hits).copied().unwrap_or(0.0))));
        _ = writeln!(
            content,
            "<path d=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2.5\"{dash}/>",
            line(points)
        );
        let peak = (plan.n as f64 * share) as usize;
        content += &text(x(peak), BOTTOM - 8.0, "middle", name);
    }
    content += &text(LEFT, BOTTOM + 18.0, "middle", &from.to_string());
    content += &text(RIGHT, BOTTOM + 18.0, "middle", &to.to_string());
    content += &text(
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 36.0,
        "middle",
        &format!("hits of the canary in {} requests", plan.n),
    );
    picture(&format!("Hits in {} requests at 25% and at 20%", plan.n), &content)
}

/// One simulated sample, in the band that a test of each size accepts.
fn share(plan: &Plan) -> String {
    let mut random = StdRng::seed_from_u64(7);
    let (mut count, mut curve, mut low, mut high) = (0u64, Vec::new(), Vec::new(), Vec::new());
    let x = |n: u64| LEFT + (RIGHT - LEFT) * n as f64 / plan.n as f64;
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * (share.clamp(0.1, 0.4) - 0.1) / 0.3;
    for n in 1..=plan.n {
        count += u64::from(random.random_bool(plan.share));
        if n >= 30 && n % 20 == 0 {
            curve.push((x(n), y(count as f64 / n as f64)));
        }
        if n >= 60 && n % 100 == 60 {
            let Some(test) = Plan::of_size(plan.share, plan.alternative, n, plan.level) else {
                continue;
            };
            low.push((x(n), y(test.low as f64 / n as f64)));
            high.push((x(n), y(test.high as f64 / n as f64)));
        }
    }
    let band = line(low.into_iter().chain(high.into_iter().rev()));
    let mut content = format!(
        "<path d=\"{band}Z\" fill=\"#0072b222\"/>\n<path d=\"M{LEFT} {:.1}H{RIGHT}\" stroke=\"#444\" \
         stroke-dasharray=\"5 4\"/>\n<path d=\"{}\" fill=\"none\" stroke=\"#a35f00\" stroke-width=\"2.5\"/>\n",
        y(plan.share),
        line(curve)
    );
    for percent in [10, 25, 40] {
        content +=
            &text(LEFT - 6.0, y(f64::from(percent) / 100.0) + 4.0, "end", &format!("{percent}%"));
    }
    content += &text(RIGHT, BOTTOM + 18.0, "end", &format!("{} requests", plan.n));
    picture("The share of one sample as it develops, in the band that is accepted", &content)
}

#[test]
fn pictures_of_the_book_are_current() {
    let small = Plan::of_size(0.25, 0.2, 200, TestLevel::DEFAULT).unwrap();
    let planned = Plan::new(0.25, 0.2, TestLevel::DEFAULT).unwrap();
    assert_eq!((planned.n, planned.low, planned.high), (4460, 976, 1258), "the book names them");
    for (ratio, requests) in [((1, 1), 230), ((2, 1), 1879)] {
        let split = Split::against(Ratio::new(3, 1), Ratio::new(ratio.0, ratio.1)).unwrap();
        assert_eq!(split.plan.n, requests, "the cheat sheet names it");
    }
    for (name, svg) in [
        ("hits-200", hits(&small, false)),
        ("hits-4460", hits(&planned, true)),
        ("share", share(&planned)),
    ] {
        let file = format!("{}/../book/src/{name}.svg", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, svg).unwrap();
        } else {
            let current = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(current == svg, "{file}: run this test with UPDATE_DOCS=1");
        }
    }
}
