//! Addresses, networks and URLs.

use super::{operators::text, table::Row};
use crate::cel::{
    budget::EvalError,
    value::{Url, Val},
};
use std::{collections::BTreeMap, net::IpAddr, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row("ip", &["(string) ip"], |args, budget| {
        budget.traverse(args[0].size())?;
        match parse_ip(text(&args[0])?) {
            Ok(address) => Ok(Val::Ip(address)),
            Err(why) => {
                let given = text(&args[0])?;
                EvalError::fail(format!(
                    "IP Address {given:?} parse error during conversion from string: {why}"
                ))
            }
        }
    }),
    Row("ip", &["cidr.() ip"], |args, _| match args {
        [Val::Cidr(address, _)] => Ok(Val::Ip(*address)),
        _ => Err(EvalError::Overload),
    }),
    Row("isIP", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(parse_ip(text(&args[0])?).is_ok()))
    }),
    Row("ip.isCanonical", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        let given = text(&args[0])?;
        match parse_ip(given) {
            Ok(address) => Ok(Val::Bool(address.to_string() == given)),
            Err(why) => EvalError::fail(format!(
                "IP Address {given:?} parse error during conversion from string: {why}"
            )),
        }
    }),
    Row("family", &["ip.() int"], |args, _| match args {
        [Val::Ip(address)] => Ok(Val::Int(if address.is_ipv4() { 4 } else { 6 })),
        _ => Err(EvalError::Overload),
    }),
    Row("isUnspecified", &["ip.() bool"], |args, _| has(args, |ip| ip.is_unspecified())),
    Row("isLoopback", &["ip.() bool"], |args, _| has(args, |ip| ip.is_loopback())),
    Row("isLinkLocalMulticast", &["ip.() bool"], |args, _| {
        has(args, |ip| match ip {
            IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        })
    }),
    Row("isLinkLocalUnicast", &["ip.() bool"], |args, _| has(args, is_link_local)),
    Row("isGlobalUnicast", &["ip.() bool"], |args, _| {
        has(args, |ip| {
            let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
            let other = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast;
            !other && !is_link_local(ip)
        })
    }),
    Row("cidr", &["(string) cidr"], |args, budget| {
        budget.traverse(args[0].size())?;
        let given = text(&args[0])?;
        match parse_cidr(given) {
            Some((address, bits)) => Ok(Val::Cidr(address, bits)),
            None => EvalError::fail(format!(
                "network address parse error during conversion from string: network address parse \
                 error during conversion from string: netip.ParsePrefix({given:?}): no '/'"
            )),
        }
    }),
    Row("isCIDR", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(parse_cidr(text(&args[0])?).is_some()))
    }),
    Row("prefixLength", &["cidr.() int"], |args, _| match args {
        [Val::Cidr(_, bits)] => Ok(Val::Int((*bits).into())),
        _ => Err(EvalError::Overload),
    }),
    Row("masked", &["cidr.() cidr"], |args, _| match args {
        [Val::Cidr(address, bits)] => Ok(Val::Cidr(masked(*address, *bits), *bits)),
        _ => Err(EvalError::Overload),
    }),
    Row("containsIP", &["cidr.(ip) bool", "cidr.(string) bool"], |args, budget| {
        budget.traverse(args[1].size())?;
        match args {
            [Val::Cidr(network, bits), Val::Ip(ip)] => {
                Ok(Val::Bool(contains(*network, *bits, *ip)))
            }
            [Val::Cidr(network, bits), other] => {
                let ip = parse_ip(text(other)?).or_else(EvalError::fail)?;
                Ok(Val::Bool(contains(*network, *bits, ip)))
            }
            _ => Err(EvalError::Overload),
        }
    }),
    Row("containsCIDR", &["cidr.(cidr) bool", "cidr.(string) bool"], |args, budget| {
        budget.traverse(args[1].size())?;
        let [Val::Cidr(network, bits), other] = args else { return Err(EvalError::Overload) };
        let (inner, inner_bits) = match other {
            Val::Cidr(inner, inner_bits) => (*inner, *inner_bits),
            other => {
                let parsed = parse_cidr(text(other)?);
                parsed.map_or_else(|| EvalError::fail("invalid CIDR"), Ok)?
            }
        };
        Ok(Val::Bool(*bits <= inner_bits && contains(*network, *bits, inner)))
    }),
    Row("url", &["(string) url"], |args, budget| {
        budget.traverse(args[0].size())?;
        let given = text(&args[0])?;
        match parse_url(given) {
            Some(url) => Ok(Val::Url(Rc::new(Url { pathless: is_pathless(given), uri: url }))),
            None => EvalError::fail(format!(
                "URL parse error during conversion from string: parse {given:?}: invalid URI for \
                 request"
            )),
        }
    }),
    Row("isURL", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(parse_url(text(&args[0])?).is_some()))
    }),
    Row("getScheme", &["url.() string"], |args, _| {
        url_part(args, |url| url.scheme_str().unwrap_or_default().to_ascii_lowercase())
    }),
    Row("getHost", &["url.() string"], |args, _| {
        url_part(args, |url| {
            let host = url.host().unwrap_or_default();
            url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        })
    }),
    Row("getHostname", &["url.() string"], |args, _| {
        url_part(args, |url| {
            let host = url.host().unwrap_or_default();
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        })
    }),
    Row("getPort", &["url.() string"], |args, _| {
        url_part(args, |url| url.port().map(|port| port.to_string()).unwrap_or_default())
    }),
    Row("getEscapedPath", &["url.() string"], |args, _| match args {
        [Val::Url(url)] if url.pathless => Ok(Val::text("")),
        _ => url_part(args, |url| url.path().to_owned()),
    }),
    Row("getQuery", &["url.() map<string list<string>>"], |args, _| {
        let [Val::Url(url)] = args else { return Err(EvalError::Overload) };
        let mut all: BTreeMap<String, Vec<Val>> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(url.uri.query().unwrap_or_default().as_bytes())
        {
            all.entry(name.into_owned()).or_default().push(Val::text(value));
        }
        let entries = all.into_iter().map(|(name, values)| (Val::text(name), Val::list(values)));
        Ok(Val::Map(Rc::new(entries.collect())))
    }),
];

fn has<'a>(args: &[Val<'a>], property: fn(&IpAddr) -> bool) -> Evaluated<'a> {
    match args {
        [Val::Ip(address)] => Ok(Val::Bool(property(address))),
        _ => Err(EvalError::Overload),
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn url_part<'a>(args: &[Val<'a>], part: fn(&http::Uri) -> String) -> Evaluated<'a> {
    match args {
        [Val::Url(url)] => Ok(Val::text(part(&url.uri))),
        _ => Err(EvalError::Overload),
    }
}

/// An absolute URL, or an absolute path (`url.ParseRequestURI` of Go).
fn parse_url(text: &str) -> Option<http::Uri> {
    let url: http::Uri = text.parse().ok()?;
    (url.scheme().is_some() || text.starts_with('/')).then_some(url)
}

/// Returns true for an absolute URL without a path, which is no `/` in Go.
fn is_pathless(text: &str) -> bool {
    let after = text.split_once("://").map(|(_, after)| after);
    after.is_some_and(|after| !after.split('?').next().unwrap_or_default().contains('/'))
}

/// An address without a zone, which is not IPv4 written as IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err("IPv4-mapped IPv6 address is not allowed".to_owned())
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!("ParseAddr({text:?}): unable to parse IP")),
    }
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, digits) = text.split_once('/')?;
    let address = parse_ip(address).ok()?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    let bits = digits.parse().ok().filter(|_| canonical)?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn contains(network: IpAddr, bits: u8, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && masked(network, bits) == masked(ip, bits)
}
