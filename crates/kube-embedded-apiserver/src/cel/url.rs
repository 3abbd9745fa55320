//! URLs as Go's `url.ParseRequestURI` reads them: what it accepts, and how it shows the parts.

use crate::{cel::address, go_quote::quoted};
use std::{borrow::Cow, net::IpAddr};

/// An absolute URL, or an absolute path with a query.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Url {
    pub(super) scheme: String,
    /// What follows the scheme, if that is no path: `mailto:a@b`.
    opaque: String,
    user: String,
    /// With the port.
    pub(super) host: String,
    path: String,
    query: Option<String>,
    fragment: String,
}

impl Url {
    /// Parses a URL that [`Url::check`] accepts, with its fragment.
    ///
    /// # Errors
    /// The message of Go.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::check(text)?;
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        unescaped(fragment)?;
        Ok(Self { fragment: fragment.to_owned(), ..Self::read(text, false)? })
    }

    /// Checks that the text is an absolute URL or an absolute path.
    ///
    /// # Errors
    /// The message of Go.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        Self::read(text, true).map(|_| ())
    }

    /// Reads a URL without a fragment. That of a request is a path where it has no scheme.
    fn read(text: &str, of_request: bool) -> Result<Self, String> {
        if text.bytes().any(|b| b.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text == "*" {
            return Ok(Self { path: text.to_owned(), ..Self::default() });
        }
        let (scheme, rest) = split_scheme(text)?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
        let query = query.map(str::to_owned);
        let url = Self { scheme: scheme.to_ascii_lowercase(), query, ..Self::default() };
        if !rest.starts_with('/') {
            return match scheme.is_empty() {
                false => Ok(Self { opaque: rest.to_owned(), ..url }),
                true => Err("invalid URI for request".to_owned()),
            };
        }
        let with_host = !scheme.is_empty() || !of_request && !rest.starts_with("///");
        let (authority, path) = match rest.strip_prefix("//").filter(|_| with_host) {
            Some(after) => after.split_at(after.find('/').unwrap_or(after.len())),
            None => ("", rest),
        };
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let host = host_of(host)?;
        if !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)) {
            return Err("net/url: invalid userinfo".to_owned());
        }
        unescaped(user)?;
        unescaped(path)?;
        Ok(Self { user: user.to_owned(), host, path: path.to_owned(), ..url })
    }

    fn split_port(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if is_port(port) => (host, port),
            _ => (&self.host, ""),
        }
    }

    pub(super) fn port(&self) -> &str {
        self.split_port().1
    }

    /// Returns the host without port and brackets.
    pub(super) fn hostname(&self) -> &str {
        let (host, _) = self.split_port();
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.unwrap_or(host)
    }

    /// Returns the path as it was written, if that is valid, and escaped again otherwise.
    pub(super) fn escaped_path(&self) -> Cow<'_, str> {
        if self.path == "*" {
            return "*".into();
        }
        let stays = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
        if self.path.bytes().all(|b| stays(b) || b"!'()*[]%".contains(&b)) {
            return (&*self.path).into();
        }
        let mut escaped = String::new();
        for byte in unescaped(&self.path).unwrap_or_default() {
            match stays(byte) {
                true => escaped.push(char::from(byte)),
                false => escaped.push_str(&format!("%{byte:02X}")),
            }
        }
        escaped.into()
    }

    /// Returns the parameters of the query in their order. Malformed ones are left out.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        self.query
            .iter()
            .flat_map(|query| query.split('&'))
            .filter(|pair| !pair.is_empty() && !pair.contains(';'))
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                let decoded = |text: &str| {
                    let bytes = unescaped(&text.replace('+', " ")).ok()?;
                    Some(String::from_utf8_lossy(&bytes).into_owned())
                };
                Some((decoded(name)?, decoded(value)?))
            })
    }
}

/// Returns the scheme, which may be empty, and what follows it.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
    match end.map(|end| text.split_at(end)) {
        Some(("", rest)) if rest.starts_with(':') => Err("missing protocol scheme".to_owned()),
        Some((scheme, rest))
            if rest.starts_with(':') && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            Ok((scheme, &rest[1..]))
        }
        _ => Ok(("", text)),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Returns a host with its port, unescaped, if it is valid.
fn host_of(text: &str) -> Result<String, String> {
    let bad_port = |port: &str| format!("invalid port {} after host", quoted(port));
    if let Some(after) = text.strip_prefix('[') {
        let missing = || "missing ']' in host".to_owned();
        let (inside, port) = after.rsplit_once(']').ok_or_else(missing)?;
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return Err(bad_port(port));
        }
        let (address, zone) = inside.split_once("%25").unwrap_or((inside, ""));
        let zone = match inside.contains("%25") {
            true => format!("%{}", String::from_utf8_lossy(&unescaped(zone)?)),
            false => String::new(),
        };
        check_name(address)?;
        unescaped(address)?;
        return match address::parse(&format!("{address}{zone}")) {
            Ok((IpAddr::V6(_), _)) => Ok(format!("[{address}{zone}]{port}")),
            Ok(_) => Err("invalid IP-literal".to_owned()),
            Err(why) => Err(format!("invalid host: {why}")),
        };
    }
    if text.contains('[') {
        return Err("invalid IP-literal".to_owned());
    }
    let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    if port.strip_prefix(':').is_some_and(|port| !is_port(port)) {
        return Err(bad_port(port));
    }
    check_name(name)?;
    Ok(String::from_utf8_lossy(&unescaped(text)?).into_owned())
}

/// Checks the characters of a host. Only bytes that are no ASCII, and a percent sign, may be escaped.
fn check_name(name: &str) -> Result<(), String> {
    for (at, c) in name.char_indices() {
        let next = name.as_bytes().get(at + 1);
        match c {
            '%' if next.is_some_and(|b| b"89abcdefABCDEF".contains(b)) => {}
            '%' if name[at..].starts_with("%25") => {}
            '%' => return Err(bad_escape(&name[at..])),
            c if !c.is_ascii() || c.is_ascii_alphanumeric() => {}
            c if "!$&'()*+,;=:[]<>\"-_.~".contains(c) => {}
            c => {
                let shown = quoted(&c.to_string());
                return Err(format!("invalid character {shown} in host name"));
            }
        }
    }
    Ok(())
}

fn bad_escape(from: &str) -> String {
    let shown: String = from.chars().take(3).collect();
    format!("invalid URL escape {}", quoted(&shown))
}

/// Returns the bytes of percent-encoded text.
fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        let digit = |n: usize| {
            char::from(*text.as_bytes().get(at + n)?)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high * 16 + low);
                at += 3;
            }
            (b'%', ..) => return Err(bad_escape(&text[at..])),
            (byte, ..) => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn urls_are_those_of_go() {
        for text in [
            "mailto:a@b",
            "http://a:",
            "//x",
            "a:b",
            "*",
            "/a b",
            "http://[fe80::1%25en0]/",
            "http://u:p:q@h/",
            "http://h?%zz",
            "http:///x",
            "http://",
            "http:",
            "http://x<y",
            "http://\"x\"",
            "http://ü",
            "http://a;b",
            "http://a:65536",
            "http://a@b@c",
            "ht+t-p.s://x",
            "http://%c3%bc",
        ] {
            assert!(Url::check(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "a",
            "../x",
            "1a:b",
            ":b",
            "http://a:b",
            "http://a b",
            "http://a/%zz",
            "http://[::1",
            "http://[::1]:x",
            "http://[fe80::1%en0]/",
            "http://a/\n",
            "http://us er@h/",
            "http://h%20/",
            "http://h%41/",
            "http://h#%zz",
            "http://x^y",
            "http://a|b",
            "http://a\\b",
            "http://a:1:2",
            "http://a[b]",
            "http://[::1]a",
            "http://[v1.x]",
            "http://[]",
            "ht_tp://x",
            "%",
        ] {
            assert!(Url::check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parts_are_those_of_go() {
        let url = Url::parse("HTTP://u@[::1]:80/a b%2f?q=1&q=a+b&x;y&%zz=1").unwrap();
        assert_eq!((&*url.scheme, &*url.host), ("http", "[::1]:80"));
        assert_eq!((url.hostname(), url.port()), ("::1", "80"));
        assert_eq!(url.escaped_path(), "/a%20b/");
        let query: Vec<_> = url.parameters().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(query, [pair("q", "1"), pair("q", "a b")]);
        assert_eq!(Url::parse("http://h/a%2Fb").unwrap().escaped_path(), "/a%2Fb");
    }
}
