//! Hostnames of listeners and routes.

/// Returns the host that a listener and a route have in common: the more specific one. `None` is every
/// host; a wildcard covers one or more labels.
pub(super) fn intersection<'a>(
    listener: Option<&'a str>,
    route: Option<&'a str>,
) -> Option<Option<&'a str>> {
    let (listener, route) = match (listener, route) {
        (None, other) | (other, None) => return Some(other),
        (Some(listener), Some(route)) => (listener, route),
    };
    if listener == route || covers(listener, route) {
        return Some(Some(route));
    }
    covers(route, listener).then_some(Some(listener))
}

/// Returns whether a wildcard covers a name or a longer wildcard.
fn covers(wildcard: &str, name: &str) -> bool {
    let suffix = wildcard.strip_prefix('*').filter(|suffix| suffix.starts_with('.'));
    suffix.is_some_and(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of `HTTPRouteSpec.hostnames`, and the corners.
    #[test]
    fn intersection_is_the_more_specific_host() {
        for (listener, route, expected) in [
            ("", "", Some("")),
            ("a.com", "", Some("a.com")),
            ("", "*.a.com", Some("*.a.com")),
            ("test.example.com", "test.example.com", Some("test.example.com")),
            ("test.example.com", "*.example.com", Some("test.example.com")),
            ("*.example.com", "test.example.com", Some("test.example.com")),
            ("*.example.com", "foo.test.example.com", Some("foo.test.example.com")),
            ("*.example.com", "*.test.example.com", Some("*.test.example.com")),
            ("*.test.example.com", "*.example.com", Some("*.test.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "test.example.net", None),
            ("*.example.com", "*.example.net", None),
            ("example.com", "*.com.example", None),
            ("*.example.com", ".example.com", None),
        ] {
            let option = |host: &'static str| Some(host).filter(|host| !host.is_empty());
            let found = intersection(option(listener), option(route));
            assert_eq!(found, expected.map(option), "{listener} and {route}");
        }
    }
}
