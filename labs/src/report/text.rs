//! Text for a width: the bar of a sample. Text for markup.

use crate::event::SampleProgress;

/// Shortens text to `width` columns.
fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

const GLYPHS: [char; 4] = ['█', '░', '▓', '▒'];
/// The columns of a bar: at least, at most.
const BAR: (usize, usize) = (10, 60);

/// Draws a sample, with a character per version so that it can be read without color. In a narrow terminal
/// the bar is left out first, then a part of the name; never the shares and the accepted band.
pub(super) fn sample(sample: &SampleProgress, width: usize) -> String {
    let done: u64 = sample.counts.values().sum();
    let mut count = (done + sample.failures).to_string();
    if sample.planned > 0 {
        count += &format!(" of {}", sample.planned);
    }
    let mut shares = String::new();
    for ((version, hits), glyph) in sample.counts.iter().zip(GLYPHS.into_iter().cycle()) {
        let share = 100.0 * *hits as f64 / done.max(1) as f64;
        shares += &format!("  {glyph} {version} {share:.1}%");
        if let Some(band) = sample.band.as_ref().filter(|band| band.version == *version) {
            let percent = |hits: u64| 100.0 * hits as f64 / sample.planned.max(1) as f64;
            shares += &format!(" (band {:.1}..{:.1}%)", percent(band.low), percent(band.high));
        }
    }
    if sample.failures > 0 {
        shares += &format!("  {} failed", sample.failures);
    }
    let fixed = 2 + count.chars().count() + shares.chars().count();
    let name = shorten(&sample.what, width.saturating_sub(fixed).max(4));
    let left = width.saturating_sub(fixed + name.chars().count() + 2);
    let columns = if left >= BAR.0 && done > 0 { left.min(BAR.1) as u64 } else { 0 };
    let mut bar = String::new();
    if columns > 0 {
        bar.push_str("  ");
        let (mut counted, mut drawn) = (0, 0);
        for (hits, glyph) in sample.counts.values().zip(GLYPHS.into_iter().cycle()) {
            counted += hits;
            let to = (counted * columns).checked_div(done).unwrap_or(0);
            bar.extend((drawn..to).map(|_| glyph));
            drawn = to;
        }
    }
    format!("{name}: {count}{bar}{shares}")
}

/// Escapes text for XML 1.0 and HTML. XML permits no control characters but tabs and line breaks.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Marks up a sentence, whose parts between two backquotes are code. `escape` is applied to each part.
pub(super) fn sentence(text: &str, escape: impl Fn(&str) -> String) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let mut markup = String::with_capacity(text.len());
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        markup += &match (index % 2 == 1, is_last) {
            (true, false) => format!("<code>{}</code>", escape(part)),
            // A backquote without another.
            (true, true) => escape("`") + &escape(part),
            (false, _) => escape(part),
        };
    }
    markup
}

/// Marks up a sentence for HTML.
pub(super) fn html(text: &str) -> String {
    sentence(text, escape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::sample_progress;

    #[test]
    fn text_between_backquotes_is_code_and_everything_is_escaped() {
        for (text, expected) in [
            ("", ""),
            ("no <code>", "no &lt;code&gt;"),
            ("`a<b` & `c`.", "<code>a&lt;b</code> &amp; <code>c</code>."),
            ("one `back", "one `back"),
            ("`a` and `b", "<code>a</code> and `b"),
            ("</code>`<script>`", "&lt;/code&gt;<code>&lt;script&gt;</code>"),
        ] {
            assert_eq!(html(text), expected, "{text}");
        }
    }

    #[test]
    fn bar_shows_split_and_band() {
        let bar = |width| sample(&sample_progress(), width);
        assert_eq!(
            bar(100),
            "load balancer: 41 of 80  ███████████████░░░░░  █ 1.0 75.0%  ░ 2.0 25.0% (band \
             12.5..37.5%)  1 failed"
        );
        for width in [77, 120, 200, 400] {
            let bar = bar(width);
            assert!(bar.chars().count() <= width, "{width}: {bar}");
            assert!(bar.contains("2.0 25.0% (band 12.5..37.5%)"), "{width}: {bar}");
        }
        let long = SampleProgress {
            what: "the load balancer at 9:1 and more".into(),
            ..sample_progress()
        };
        let narrow = sample(&long, 79);
        assert!(narrow.starts_with("the load ") && narrow.contains("…: 41 of 80"), "{narrow}");
        assert!(narrow.chars().count() <= 79 && narrow.ends_with("1 failed"), "{narrow}");
    }
}
