//! Addresses and prefixes as Go's `netip` reads them, with its errors.

use crate::go_quote::quoted;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Parses an address, and the zone of one of IPv6.
///
/// # Errors
/// The message of Go.
pub(super) fn parse(text: &str) -> Result<(IpAddr, Option<&str>), String> {
    let parsed = match text.chars().find(|c| ".:%".contains(*c)) {
        Some('.') => parse_v4(text).map(|address| (IpAddr::V4(address), None)),
        Some(':') => parse_v6(text),
        Some(_) => Err("missing IPv6 address".to_owned()),
        None => Err("unable to parse IP".to_owned()),
    };
    parsed.map_err(|why| format!("ParseAddr({}): {why}", quoted(text)))
}

/// Parses an address and the length of its prefix.
///
/// # Errors
/// The message of Go.
pub(super) fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, digits) = text.rsplit_once('/').ok_or("no '/'")?;
    let (address, zone) = parse(address)?;
    if zone.is_some() {
        return Err("IPv6 zones cannot be present in a prefix".to_owned());
    }
    let is_canonical = digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.is_empty()
        && (digits.len() == 1 || !digits.starts_with('0'));
    if !is_canonical {
        return Err(format!("bad bits after slash: {}", quoted(digits)));
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = digits.parse().ok().filter(|bits| *bits <= most);
    Ok((address, bits.ok_or("prefix length out of range")?))
}

fn at(text: &str, byte: usize) -> String {
    format!("(at {})", quoted(text.get(byte..).unwrap_or_default()))
}

fn parse_v4(text: &str) -> Result<Ipv4Addr, String> {
    let mut octets = [0; 4];
    let (mut n, mut value, mut digits) = (0, 0_u32, 0);
    for (byte, c) in text.char_indices() {
        match c.to_digit(10) {
            Some(digit) => {
                if digits == 1 && value == 0 {
                    return Err("IPv4 field has octet with leading zero".to_owned());
                }
                (value, digits) = (value * 10 + digit, digits + 1);
                if value > 255 {
                    return Err("IPv4 field has value >255".to_owned());
                }
            }
            None if c == '.' => {
                if byte == 0 || byte + 1 == text.len() || digits == 0 {
                    let place = at(text, byte);
                    return Err(format!("IPv4 field must have at least one digit {place}"));
                }
                if n == 3 {
                    return Err("IPv4 address too long".to_owned());
                }
                octets[n] = u8::try_from(value).unwrap_or(u8::MAX);
                (n, value, digits) = (n + 1, 0, 0);
            }
            None => return Err(format!("unexpected character {}", at(text, byte))),
        }
    }
    if n < 3 {
        return Err("IPv4 address too short".to_owned());
    }
    octets[3] = u8::try_from(value).unwrap_or(u8::MAX);
    Ok(octets.into())
}

fn parse_v6(text: &str) -> Result<(IpAddr, Option<&str>), String> {
    let (address, zone) = match text.split_once('%') {
        Some((_, "")) => return Err("zone must be a non-empty string".to_owned()),
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let mut groups: Vec<u16> = Vec::new();
    // The groups before `::`.
    let mut ellipsis = None;
    let mut rest = address;
    if let Some(after) = rest.strip_prefix("::") {
        (ellipsis, rest) = (Some(0), after);
    }
    while groups.len() < 8 && !(rest.is_empty() && ellipsis.is_some()) {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        if digits.len() > 4 {
            return Err(format!("each group must have 4 or less digits {}", at(rest, 0)));
        }
        if digits.is_empty() {
            let what = "each colon-separated field must have at least one digit";
            return Err(format!("{what} {}", at(rest, 0)));
        }
        if after.starts_with('.') {
            if ellipsis.is_none() && groups.len() != 6 {
                let what = "embedded IPv4 address must replace the final 2 fields of the address";
                return Err(format!("{what} {}", at(rest, 0)));
            }
            if groups.len() > 6 {
                return Err(format!(
                    "too many hex fields to fit an embedded IPv4 at the end of the address {}",
                    at(rest, 0)
                ));
            }
            let [a, b, c, d] = parse_v4(rest)?.octets();
            groups.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
            rest = "";
            break;
        }
        groups.push(u16::from_str_radix(digits, 16).unwrap_or_default());
        rest = after;
        if rest.is_empty() {
            break;
        }
        let Some(after) = rest.strip_prefix(':') else {
            return Err(format!("unexpected character, want colon {}", at(rest, 0)));
        };
        if after.is_empty() {
            return Err(format!("colon must be followed by more characters {}", at(rest, 0)));
        }
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.is_some() {
                return Err(format!("multiple :: in address {}", at(rest, 0)));
            }
            (ellipsis, rest) = (Some(groups.len()), after);
        }
    }
    if !rest.is_empty() {
        return Err(format!("trailing garbage after address {}", at(rest, 0)));
    }
    match ellipsis {
        Some(_) if groups.len() == 8 => {
            return Err("the :: must expand to at least one field of zeros".to_owned());
        }
        Some(before) => {
            let after = groups.split_off(before);
            groups.resize(8 - after.len(), 0);
            groups.extend(after);
        }
        None if groups.len() < 8 => return Err("address string too short".to_owned()),
        None => {}
    }
    let groups: [u16; 8] = groups.try_into().unwrap_or_default();
    Ok((IpAddr::V6(Ipv6Addr::from(groups)), zone))
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_prefix};
    use proptest::prelude::*;
    use std::net::IpAddr;

    #[test]
    fn errors_are_those_of_go() {
        for (text, why) in [
            ("", "unable to parse IP"),
            ("1", "unable to parse IP"),
            ("1.2.3", "IPv4 address too short"),
            ("1.2.3.4.5", "IPv4 address too long"),
            ("01.2.3.4", "IPv4 field has octet with leading zero"),
            ("256.1.1.1", "IPv4 field has value >255"),
            ("1..2.3", "IPv4 field must have at least one digit (at \".2.3\")"),
            ("1.2.3.", "IPv4 field must have at least one digit (at \".\")"),
            ("a.b.c.d", "unexpected character (at \"a.b.c.d\")"),
            ("1.2.3.4/8", "unexpected character (at \"/8\")"),
            (":", "each colon-separated field must have at least one digit (at \":\")"),
            (":::", "each colon-separated field must have at least one digit (at \":\")"),
            ("::1%", "zone must be a non-empty string"),
            ("1::2::3", "multiple :: in address (at \":3\")"),
            ("12345::", "each group must have 4 or less digits (at \"12345::\")"),
            ("1:2:3:4:5:6:7:8:9", "trailing garbage after address (at \"9\")"),
            ("1:2:3", "address string too short"),
            (
                "1:2:3:4:5:6:7:1.2.3.4",
                "embedded IPv4 address must replace the final 2 fields of the address (at \"1.2.3.4\")",
            ),
            ("::1.2.3", "IPv4 address too short"),
            ("1:", "colon must be followed by more characters (at \":\")"),
            ("::1 ", "unexpected character, want colon (at \" \")"),
        ] {
            assert_eq!(parse(text), Err(format!("ParseAddr({text:?}): {why}")), "{text}");
        }
        for (text, why) in [
            ("1.2.3.4", "no '/'"),
            ("1.2.3.4/", "bad bits after slash: \"\""),
            ("1.2.3.4/08", "bad bits after slash: \"08\""),
            ("1.2.3.4/33", "prefix length out of range"),
            ("1.2.3.4/300", "prefix length out of range"),
            ("x/8", "ParseAddr(\"x\"): unable to parse IP"),
            ("::1%eth0/64", "IPv6 zones cannot be present in a prefix"),
        ] {
            assert_eq!(parse_prefix(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        /// The standard library reads the same addresses.
        #[test]
        fn addresses_are_those_of_the_standard_library(text in "[0-9a-f:.]{0,20}") {
            let expected: Option<IpAddr> = text.parse().ok();
            prop_assert_eq!(parse(&text).ok().map(|(address, _)| address), expected);
        }

        #[test]
        fn what_is_displayed_is_read(bits in any::<u128>(), short in any::<bool>()) {
            let bits = if short { bits & (u128::MAX << 64 | 0xffff) } else { bits };
            let address = IpAddr::V6(bits.into());
            let text = address.to_string();
            prop_assert_eq!(parse(&text), Ok((address, None)));
        }
    }
}
