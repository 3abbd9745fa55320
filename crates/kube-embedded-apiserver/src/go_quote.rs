//! Text as Go quotes it (`%q`), which messages of Kubernetes show.

/// Go's `unicode.IsPrint`, as far as the standard library knows: no controls, no formats, and of spaces only U+0020.
pub(crate) fn is_printable(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0001}'..='\u{e007f}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format)
}

/// Returns text in quotes, with escapes for what cannot be printed.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Returns what stands between the quotes.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().map(escaped_char).collect()
}

/// Returns the escape of a character that has a letter of its own.
pub(crate) fn named_escape(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '"' => "\\\"",
        '\\' => "\\\\",
        _ => return None,
    })
}

fn escaped_char(c: char) -> String {
    if let Some(escape) = named_escape(c) {
        return escape.to_owned();
    }
    match c {
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c if is_printable(c) => c.to_string(),
        c if u32::from(c) > 0xffff => format!("\\U{:08x}", u32::from(c)),
        c => format!("\\u{:04x}", u32::from(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn text_is_quoted_as_by_go() {
        let text = "a\n\"b\u{e4}\u{1}\u{2028}\u{1f600}\u{ad}\u{7}\\\u{e0001}";
        assert_eq!(quoted(text), "\"a\\n\\\"bä\\x01\\u2028😀\\u00ad\\a\\\\\\U000e0001\"");
    }
}
