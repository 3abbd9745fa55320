//! Validation of IP addresses (`k8s.io/apimachinery/pkg/util/validation/ip.go`), and of those that may be an endpoint
//! (`ValidateEndpointIP` in `pkg/apis/core/validation`).

use crate::validation::{
    field_error::{FieldError, invalid, required},
    names::{dns_label, dns_subdomain},
};
use kube_embedded_core::network::Addresses;
use serde_json::Value;
use std::net::IpAddr;

/// The family that an address must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

/// Parses an address, or returns what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<IpAddr, &'static str> {
    let has_leading_zeros = || {
        let parts: Vec<&str> = text.split('.').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        parts.len() == 4
            && parts.iter().all(digits)
            && parts.iter().all(|part| part.parse::<u8>().is_ok())
            && parts.iter().any(|part| part.len() > 1 && part.starts_with('0'))
    };
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err("must not be an IPv4-mapped IPv6 address")
        }
        Ok(ip) => Ok(ip),
        Err(_) if has_leading_zeros() => Err("must not have leading 0s"),
        Err(_) => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    }
}

/// Returns the error of a value that is no address of a family.
pub(crate) fn ip(value: &Value, family: Family, field: &str) -> Option<FieldError> {
    let detail = match (parse(value.as_str().unwrap_or_default()), family) {
        (Err(detail), _) => detail,
        (Ok(IpAddr::V6(_)), Family::V4) => "must be an IPv4 address",
        (Ok(IpAddr::V4(_)), Family::V6) => "must be an IPv6 address",
        (Ok(_), _) => return None,
    };
    Some(invalid(field, value, detail))
}

/// Returns the errors of the address of an endpoint, which must not be one of the machine that connects to it.
///
/// Pods of the plain sandbox have loopback addresses of the host, so those of `cluster` are allowed there.
pub(crate) fn endpoint_ip(
    value: &Value,
    family: Family,
    field: &str,
    cluster: &Addresses,
) -> Vec<FieldError> {
    if let Some(error) = ip(value, family, field) {
        // Endpoints are checked for it twice, with two texts.
        let again = matches!(family, Family::Any) && error.message.contains("a valid IP address");
        let again = again.then(|| invalid(field, value, "must be a valid IP address"));
        return [error].into_iter().chain(again).collect();
    }
    let text = value.as_str().unwrap_or_default();
    let Ok(ip) = parse(text) else { return Vec::new() };
    let mut details = Vec::new();
    if ip.is_unspecified() {
        details.push(format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() && !cluster.is_pod(ip) {
        details.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if is_link_local_unicast(ip) {
        details.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if is_link_local_multicast(ip) {
        details.push(
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        );
    }
    details.iter().map(|detail| invalid(field, value, detail)).collect()
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(ip) => ip.segments().first().is_some_and(|first| first & 0xff0f == 0xff02),
    }
}

/// Returns the error of a value that is no range of addresses.
pub(crate) fn cidr(value: &Value, field: &str) -> Option<FieldError> {
    let text = value.as_str().unwrap_or_default();
    let is_valid = text.split_once('/').is_some_and(|(ip, length)| {
        let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let max = ip.parse::<IpAddr>().map_or(0, |ip| if ip.is_ipv4() { 32 } else { 128 });
        parse(ip).is_ok() && is_number && length.parse::<u8>().is_ok_and(|length| length <= max)
    });
    let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    (!is_valid).then(|| invalid(field, value, detail))
}

/// Returns the error of a name that is not fully qualified: two labels or more, and a final dot or none.
pub(crate) fn fully_qualified(value: &Value, field: &str) -> Option<FieldError> {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return Some(required(field, ""));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let details = dns_subdomain(name);
    if !details.is_empty() {
        return Some(invalid(field, &name.into(), &details.join(",")));
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return Some(invalid(field, &name.into(), detail));
    }
    let label = name.split('.').find(|label| !dns_label(label).is_empty())?;
    Some(invalid(field, &label.into(), &dns_label(label).join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_embedded_core::network::Sandbox;

    fn details(ip: &str, family: Family, sandbox: Sandbox) -> Vec<String> {
        let cluster = Addresses { block: 7, sandbox };
        let errors = endpoint_ip(&ip.into(), family, "f", &cluster);
        let strip = |error: FieldError| {
            error.message.split_once("\": ").map_or_else(String::new, |(_, rest)| rest.to_owned())
        };
        errors.into_iter().map(strip).collect()
    }

    #[test]
    fn endpoint_is_no_address_of_the_machine_itself() {
        use Family::{Any, V4, V6};
        const LOOPBACK: &str = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        const LINK_LOCAL: &str = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        const MULTICAST: &str =
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for (ip, family, expected) in [
            ("10.1.2.3", V4, None),
            ("192.168.0.1", Any, None),
            ("2001:db8::1", V6, None),
            ("fd00::1", V6, None),
            ("127.0.0.1", V4, Some(LOOPBACK)),
            ("127.7.0.1", V4, Some(LOOPBACK)),
            ("127.7.128.2", V4, Some(LOOPBACK)),
            ("::1", V6, Some(LOOPBACK)),
            ("169.254.169.254", V4, Some(LINK_LOCAL)),
            ("fe80::1", V6, Some(LINK_LOCAL)),
            ("224.0.0.1", V4, Some(MULTICAST)),
            ("ff02::1", V6, Some(MULTICAST)),
            ("0.0.0.0", V4, Some("may not be unspecified (0.0.0.0)")),
            ("::", V6, Some("may not be unspecified (::)")),
            ("not-an-address", V4, Some(NO_IP)),
            ("", Any, Some(NO_IP)),
            ("10.0.0.256", V4, Some(NO_IP)),
            ("fe80::1%eth0", V6, Some(NO_IP)),
            ("010.0.0.1", V4, Some("must not have leading 0s")),
            ("::ffff:127.0.0.1", V6, Some("must not be an IPv4-mapped IPv6 address")),
            ("::1", V4, Some("must be an IPv4 address")),
            ("10.0.0.1", V6, Some("must be an IPv6 address")),
        ] {
            let found = details(ip, family, Sandbox::Namespaced);
            assert_eq!(found.first().map(String::as_str), expected, "{ip}: {found:?}");
            let count = if family == Any && expected == Some(NO_IP) { 2 } else { 1 };
            assert_eq!(found.len(), expected.map_or(0, |_| count), "{ip}: {found:?}");
        }
        for (ip, allowed) in
            [("127.7.128.2", true), ("127.7.0.1", false), ("127.8.128.2", false), ("::1", false)]
        {
            assert_eq!(details(ip, Any, Sandbox::Plain).is_empty(), allowed, "{ip}");
        }
    }

    #[test]
    fn domain_has_two_labels() {
        for (name, valid) in [
            ("example.com", true),
            ("a.example.com.", true),
            ("example", false),
            ("", false),
            ("Example.com", false),
            ("a..b", false),
            (&format!("{}.com", "a".repeat(64)), false),
        ] {
            assert_eq!(fully_qualified(&name.into(), "f").is_none(), valid, "{name}");
        }
    }
}
