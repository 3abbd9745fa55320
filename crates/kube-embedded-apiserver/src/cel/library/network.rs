//! Addresses, networks and URLs.

use super::{operators::text, table::Row};
use crate::{
    cel::{address, budget::EvalError, url::Url, value::Val},
    go_quote::quoted,
};
use std::{collections::BTreeMap, net::IpAddr, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row("ip", &["(string) ip"], |args, budget| {
        budget.traverse(args[0].size())?;
        given_ip(text(&args[0])?).map(Val::Ip)
    }),
    Row("ip", &["cidr.() ip"], |args, _| match args {
        [Val::Cidr(address, _)] => Ok(Val::Ip(*address)),
        _ => Err(EvalError::Overload),
    }),
    Row("isIP", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(given_ip(text(&args[0])?).is_ok()))
    }),
    Row("ip.isCanonical", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        let given = text(&args[0])?;
        Ok(Val::Bool(given_ip(given)?.to_string() == given))
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
        let (address, bits) = given_cidr(text(&args[0])?)?;
        Ok(Val::Cidr(address, bits))
    }),
    Row("isCIDR", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(given_cidr(text(&args[0])?).is_ok()))
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
                let ip = given_ip(text(other)?).map_err(|_| EvalError::Overload)?;
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
            other => given_cidr(text(other)?)?,
        };
        Ok(Val::Bool(*bits <= inner_bits && contains(*network, *bits, inner)))
    }),
    Row("url", &["(string) url"], |args, budget| {
        budget.traverse(args[0].size())?;
        let given = text(&args[0])?;
        match Url::parse(given) {
            Ok(url) => Ok(Val::Url(Rc::new(url))),
            Err(why) => EvalError::fail(format!(
                "URL parse error during conversion from string: parse {}: {why}",
                quoted(given)
            )),
        }
    }),
    Row("isURL", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(Url::check(text(&args[0])?).is_ok()))
    }),
    Row("getScheme", &["url.() string"], |args, _| url_part(args, |url| url.scheme.clone())),
    Row("getHost", &["url.() string"], |args, _| url_part(args, |url| url.host.clone())),
    Row("getHostname", &["url.() string"], |args, _| {
        url_part(args, |url| url.hostname().to_owned())
    }),
    Row("getPort", &["url.() string"], |args, _| url_part(args, |url| url.port().to_owned())),
    Row("getEscapedPath", &["url.() string"], |args, _| {
        url_part(args, |url| url.escaped_path().into_owned())
    }),
    Row("getQuery", &["url.() map<string list<string>>"], |args, _| {
        let [Val::Url(url)] = args else { return Err(EvalError::Overload) };
        let mut all: BTreeMap<String, Vec<Val>> = BTreeMap::new();
        for (name, value) in url.parameters() {
            all.entry(name).or_default().push(Val::text(value));
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

fn url_part<'a>(args: &[Val<'a>], part: fn(&Url) -> String) -> Evaluated<'a> {
    match args {
        [Val::Url(url)] => Ok(Val::text(part(url))),
        _ => Err(EvalError::Overload),
    }
}

/// An address without a zone, which is not IPv4 written as IPv6.
fn given_ip(given: &str) -> Result<IpAddr, EvalError> {
    let what = quoted(given);
    EvalError::from_message(match address::parse(given) {
        Ok((_, Some(_))) => Err(format!("IP address {what} with zone value is not allowed")),
        Ok((IpAddr::V6(ip), _)) if ip.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {what} is not allowed"))
        }
        Ok((ip, _)) => Ok(ip),
        Err(why) => {
            Err(format!("IP Address {what} parse error during conversion from string: {why}"))
        }
    })
}

/// An address and the length of its prefix.
fn given_cidr(given: &str) -> Result<(IpAddr, u8), EvalError> {
    const WHAT: &str = "network address parse error during conversion from string:";
    let what = quoted(given);
    EvalError::from_message(match address::parse_prefix(given) {
        Ok((IpAddr::V6(ip), _)) if ip.to_ipv4_mapped().is_some() => {
            Err(format!("{WHAT} IPv4-mapped IPv6 address {what} is not allowed"))
        }
        Ok(found) => Ok(found),
        Err(why) => Err(format!("{WHAT} {WHAT} netip.ParsePrefix({what}): {why}")),
    })
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
