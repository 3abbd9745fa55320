//! `/etc/resolv.conf` of the host (resolv.conf(5)): where names that are not the cluster's are
//! resolved.

use std::{net::IpAddr, path::Path};

/// The path of the file.
pub const PATH: &str = "/etc/resolv.conf";

/// The settings of a resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of name servers, in the order of preference.
    pub nameservers: Vec<IpAddr>,
    /// Domains that are appended to names with few dots.
    pub searches: Vec<String>,
    /// Options such as `ndots:1`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file. Without it, or where it cannot be read, there are no settings, as for libc.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Parses the text of a file. Unknown lines are skipped; of several lines `search` or `domain`,
    /// and of several lines `options`, the last one counts.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let rest = words.map(|word| word.trim_end_matches('.').to_owned());
            match keyword {
                "nameserver" => {
                    // A zone (`fe80::1%eth0`) is of no use without its interface.
                    let addresses = rest.take(1).filter_map(|word| word.parse::<IpAddr>().ok());
                    parsed.nameservers.extend(addresses);
                }
                "search" => parsed.searches = rest.filter(|word| !word.is_empty()).collect(),
                "domain" => parsed.searches = rest.take(1).collect(),
                "options" => parsed.options = rest.collect(),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_parsed_as_by_libc() {
        let text = "# comment\nnameserver 192.0.2.1\n nameserver 2001:db8::1\nnameserver nonsense\n\
                    domain old.example\nsearch a.example. . b.example\noptions ndots:2 edns0\n\
                    nameserver fe80::1%eth0\nsortlist 10.0.0.0\n;nameserver 192.0.2.2\n";
        let parsed = ResolvConf::parse(text);
        assert_eq!(
            parsed.nameservers,
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]
        );
        assert_eq!(parsed.searches, ["a.example", "b.example"]);
        assert_eq!(parsed.options, ["ndots:2", "edns0"]);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
        assert_eq!(ResolvConf::read(Path::new("/no/such/file")), ResolvConf::default());
    }
}
