//! Links in the pages of pods: those that begin with a slash lead out of the proxy unless its path is put before
//! them (`rewriteHTML` in `k8s.io/apimachinery/pkg/util/proxy`).

/// The attributes that hold a URL, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text up to their end tag.
const RAW: [&str; 8] =
    ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// Returns the page with the links rewritten. All else stays as it is, byte for byte.
pub(super) fn rewrite_links(page: &str, rewrite: impl Fn(&str) -> String) -> String {
    let mut rewritten = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((text, tag)) = rest.split_once('<') {
        rewritten.push_str(text);
        rewritten.push('<');
        rest = tag;
        if let Some(comment) = tag.strip_prefix("!--") {
            let length = comment.find("-->").map_or(tag.len(), |end| "!--".len() + end);
            rest = take(&mut rewritten, tag, length);
        } else if tag.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let length = tag.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>'));
            let (name, _) = tag.split_at(length.unwrap_or(tag.len()));
            let name = name.to_ascii_lowercase();
            rest = take(&mut rewritten, tag, name.len());
            rest = attributes(&mut rewritten, rest, &name, &rewrite);
            if RAW.contains(&name.as_str()) {
                let end = format!("</{name}");
                let at = rest.to_ascii_lowercase().find(&end).unwrap_or(rest.len());
                rest = take(&mut rewritten, rest, at);
            }
        }
    }
    rewritten.push_str(rest);
    rewritten
}

/// Moves the beginning of a text to another, and returns what remains.
fn take<'a>(to: &mut String, text: &'a str, length: usize) -> &'a str {
    let (taken, rest) = text.split_at_checked(length).unwrap_or((text, ""));
    to.push_str(taken);
    rest
}

/// Copies the attributes of a start tag, and returns what follows them, from `>` on.
fn attributes<'a>(
    to: &mut String,
    mut rest: &'a str,
    element: &str,
    rewrite: &impl Fn(&str) -> String,
) -> &'a str {
    let is_space = |c: char| c.is_ascii_whitespace();
    let links =
        LINKS.iter().find(|(name, _)| *name == element).map_or(&[][..], |(_, links)| *links);
    loop {
        let space = rest.find(|c: char| !is_space(c) && c != '/').unwrap_or(rest.len());
        rest = take(to, rest, space);
        if rest.is_empty() || rest.starts_with('>') {
            return rest;
        }
        // A name may begin with `=`.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest.get(first..).and_then(|name| {
            name.find(|c: char| is_space(c) || matches!(c, '=' | '/' | '>')).map(|at| first + at)
        });
        let name = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let is_link = links.contains(&name.to_ascii_lowercase().as_str());
        rest = take(to, rest, name.len());
        let sign = rest.len() - rest.trim_start_matches(is_space).len();
        if !rest.get(sign..).is_some_and(|rest| rest.starts_with('=')) {
            continue;
        }
        rest = take(to, rest, sign + 1);
        rest = take(to, rest, rest.len() - rest.trim_start_matches(is_space).len());
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        rest = take(to, rest, quote.map_or(0, char::len_utf8));
        let end = match quote {
            Some(quote) => rest.find(quote),
            None => rest.find(|c: char| is_space(c) || c == '>'),
        };
        let value = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        match is_link {
            true => to.push_str(&rewrite(value)),
            false => to.push_str(value),
        }
        rest = rest.get(value.len()..).unwrap_or_default();
        rest = take(to, rest, quote.filter(|_| end.is_some()).map_or(0, char::len_utf8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_elements_are_rewritten_and_all_else_is_kept() {
        for (page, expected) in [
            ("<a href=\"/x\">/x</a>", "<a href=\"[/x]\">/x</a>"),
            ("<A class='a>b' HREF = '/x'>", "<A class='a>b' HREF = '[/x]'>"),
            ("<img src=/x/y.png alt=/z><br/>", "<img src=[/x/y.png] alt=/z><br/>"),
            (
                "<b href=\"/x\"><!-- <a href=\"/x\"> --></b>",
                "<b href=\"/x\"><!-- <a href=\"/x\"> --></b>",
            ),
            (
                "<script src='/s.js'>a = '<a href=\"/x\">';</SCRIPT><a href='/y'>",
                "<script src='[/s.js]'>a = '<a href=\"/x\">';</SCRIPT><a href='[/y]'>",
            ),
            ("<a href", "<a href"),
            ("<a href=\"/x", "<a href=\"[/x]"),
            ("<a href=>1 < 2 <", "<a href=[]>1 < 2 <"),
            ("<a =x=y é='ü' href=/ö>", "<a =x=y é='ü' href=[/ö]>"),
            ("<!doctype html><form action='/f'", "<!doctype html><form action='[/f]'"),
        ] {
            assert_eq!(rewrite_links(page, |url| format!("[{url}]")), expected);
        }
    }
}
