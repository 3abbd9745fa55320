//! The results of a request: a reply, a whole response, or a failure.

use serde::Serialize;
use std::fmt;

/// A good response: status 200, completely received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The body without its final newline, if it reads like a version: `1.0`.
    pub version: Option<String>,
    /// The pod that responded, from the header `x-pod`.
    pub pod: Option<String>,
}

/// A response of any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body, with chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The values of the headers of that name.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = move |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| &**value)
    }

    /// The value of the first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// The body without its final newline, if the response is good and its body reads like a version.
    pub(crate) fn version(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.body).ok().filter(|_| self.status == 200)?;
        version_of(text)
    }
}

/// Returns the text without its final newline if it reads like a version.
pub(super) fn version_of(text: &str) -> Option<&str> {
    Some(text.strip_suffix('\n').unwrap_or(text)).filter(|text| is_version(text))
}

fn is_version(text: &str) -> bool {
    let short = !text.is_empty() && text.len() <= 32;
    short
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The reason why a request had no good response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "failure", content = "detail", rename_all = "kebab-case")]
pub enum Failure {
    /// No connection: refused, unreachable.
    Connect(String),
    /// This machine lacks something that a connection needs, such as file descriptors: no evidence
    /// about the cluster.
    Local(String),
    /// The connection broke before the response was complete.
    Broken(String),
    /// No complete response in time.
    Timeout,
    /// A status other than 200.
    Status(u16),
    /// The response is not valid HTTP.
    Malformed(String),
}

/// Errors of `connect` for want of something on this machine (Linux): ENOMEM, ENFILE, EMFILE,
/// EADDRNOTAVAIL (no free port), ENOBUFS.
const LOCAL: [(i32, &str); 5] = [
    (12, "free memory"),
    (23, "a larger limit of open files: `sysctl fs.file-max`"),
    (24, "a larger limit of open files: `ulimit -n 1024`"),
    (99, "a free local port: `sysctl net.ipv4.ip_local_port_range`"),
    (105, "free memory for sockets"),
];

impl Failure {
    /// Classifies an error of opening a connection.
    pub(super) fn connecting(error: &std::io::Error) -> Self {
        let code = error.raw_os_error();
        match LOCAL.iter().find(|(local, _)| Some(*local) == code) {
            Some((_, need)) => Self::Local(format!(
                "this machine failed to open a connection ({error}); it needs {need}"
            )),
            None => Self::Connect(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Local(why) => f.write_str(why),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Timeout => f.write_str("no response in time"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Malformed(why) => write!(f, "not good HTTP: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_must_be_dotted_digits() {
        for (text, version) in [
            ("1.0", true),
            ("2", true),
            ("1..0", false),
            ("", false),
            ("v1.0", false),
            ("1.0 ", false),
        ] {
            assert_eq!(is_version(text), version, "{text:?}");
        }
    }
}
