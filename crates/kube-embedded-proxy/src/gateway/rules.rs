//! Rules of HTTP routes as rules of the route table.

use super::{
    api::{self, BackendRef, Filter, HeaderModifier, HttpMatch, HttpRule, Match, PathModifier},
    references::{Referrer, Unresolved},
};
use crate::http_proxy::{
    conditions::{Conditions, ValueMatch},
    cors::Cors,
    filters::{Filters, HeaderChanges, Mirror, PathRewrite, Redirect, Rewrite},
    policies::{Carrier, Retry, RuleTimeouts, SessionPersistence},
    route_table::{Backend, Path, PathMatch, RouteRule, WeightedBackend},
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::bytes;
use std::{sync::Arc, time::Duration};

/// Finds the backend of a reference, or why there is none. One whose policy is invalid is resolved, but
/// cannot be used.
pub(super) type Resolve<'a> =
    dyn FnMut(&BackendRef, Referrer<'_>) -> Result<Option<Arc<Backend>>, Unresolved> + 'a;

/// A rule, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct ConvertedRule {
    pub(super) rule: RouteRule,
    /// References that are not resolved.
    pub(super) unresolved: Vec<Unresolved>,
    /// Values that are not supported: such a rule, or backend, responds with an error.
    pub(super) unsupported: Vec<String>,
}

/// Converts a rule, without its matches. `identity` is that of the rule, and of no other.
pub(super) fn convert(
    rule: &HttpRule,
    identity: &str,
    from: Referrer<'_>,
    resolve: &mut Resolve<'_>,
) -> ConvertedRule {
    let mut converted = ConvertedRule::default();
    let filters = converted.filters(&rule.filters, from, resolve);
    for reference in &rule.backend_refs {
        let backend = match resolve(reference, from) {
            Ok(backend) => backend,
            Err(unresolved) => {
                converted.unresolved.push(unresolved);
                None
            }
        };
        let own = converted.filters(&reference.filters, from, resolve);
        let headers = (own.request_headers, own.response_headers);
        let weight = reference.weight.unwrap_or(1);
        let headers = (headers != Default::default()).then(|| Box::new(headers));
        converted.rule.backends.push(WeightedBackend { weight, backend, headers });
    }
    match timeouts(rule) {
        Ok((timeouts, retry)) => {
            converted.rule.timeouts = timeouts;
            converted.rule.retry = retry.map(Box::new);
        }
        Err(why) => converted.unsupported.push(why),
    }
    match rule.session_persistence.as_ref().map(|given| session(given, identity)).transpose() {
        Ok(session) => converted.rule.session = session.map(Box::new),
        Err(why) => converted.unsupported.push(why),
    }
    if !converted.unsupported.is_empty() {
        // Better an error than a request that is not filtered as it should be.
        converted.rule.backends.clear();
    }
    converted.rule.filters = Some(Box::new(filters));
    converted
}

/// The retries of a rule that has some and no number: as many as Envoy makes.
const ATTEMPTS: u32 = 1;
/// More would only load an endpoint that fails.
const MAX_ATTEMPTS: u32 = 100;

fn timeouts(rule: &HttpRule) -> Result<(RuleTimeouts, Option<Retry>), String> {
    let read = |text: &Option<String>| {
        let read = |text: &String| {
            duration(text).ok_or_else(|| format!("timeout {text:?} is no duration"))
        };
        text.as_ref().map(read).transpose()
    };
    // Zero switches a timeout off.
    let timeout = |text| Ok::<_, String>(read(text)?.filter(|timeout| !timeout.is_zero()));
    let given = rule.timeouts.clone().unwrap_or_default();
    let timeouts = RuleTimeouts {
        request: timeout(&given.request)?,
        backend_request: timeout(&given.backend_request)?,
    };
    let retry = rule.retry.as_ref().map(|retry| {
        let attempts = retry.attempts.unwrap_or(ATTEMPTS);
        if attempts > MAX_ATTEMPTS {
            return Err(format!("{attempts} attempts are more than {MAX_ATTEMPTS}"));
        }
        Ok(Retry { codes: retry.codes.clone(), attempts, backoff: read(&retry.backoff)? })
    });
    Ok((timeouts, retry.transpose()?))
}

fn session(given: &api::SessionPersistence, identity: &str) -> Result<SessionPersistence, String> {
    if given.idle_timeout.is_some() {
        return Err("an idleTimeout of a session is not supported; use absoluteTimeout".to_owned());
    }
    let timeout = given.absolute_timeout.as_ref().map(|text| {
        duration(text).ok_or_else(|| format!("absoluteTimeout {text:?} is no duration"))
    });
    // As with the timeouts of a rule, zero is none.
    let timeout = timeout.transpose()?.filter(|timeout| !timeout.is_zero());
    let config = given.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_deref());
    let name = given.session_name.clone().filter(|name| !name.is_empty());
    // Of a hash, so that names of two rules differ.
    let name = name.unwrap_or_else(|| format!("session-{}", SessionPersistence::name_of(identity)));
    // The names of cookies are those of headers (RFC 6265, 4.1.1).
    let header = header_name(&name).map_err(|_| format!("{name:?} is no name of a session"))?;
    let carrier = match (given.r#type.as_deref().unwrap_or("Cookie"), config.unwrap_or("Session")) {
        ("Header", _) => Carrier::Header(header),
        ("Cookie", "Permanent") if timeout.is_none() => {
            return Err("a permanent cookie needs an absoluteTimeout".to_owned());
        }
        ("Cookie", lifetime @ ("Session" | "Permanent")) => {
            Carrier::Cookie { permanent: lifetime == "Permanent" }
        }
        ("Cookie", other) => return Err(format!("cookie lifetime {other:?} is not supported")),
        (other, _) => return Err(format!("session type {other:?} is not supported")),
    };
    Ok(SessionPersistence::new(name, carrier, timeout, identity))
}

/// Returns the matches of a rule; without any it matches every request.
pub(super) fn matches(rule: &HttpRule) -> Vec<Result<(PathMatch, Conditions), String>> {
    match &*rule.matches {
        [] => vec![http_match(&HttpMatch::default())],
        matches => matches.iter().map(http_match).collect(),
    }
}

fn http_match(given: &HttpMatch) -> Result<(PathMatch, Conditions), String> {
    let path = given.path.clone().unwrap_or_default();
    let value = path.value.as_deref().unwrap_or("/");
    let path = match path.r#type.as_deref().unwrap_or("PathPrefix") {
        "Exact" => PathMatch::Path(Path::new("Exact", value)),
        "PathPrefix" => PathMatch::Path(Path::new("Prefix", value)),
        "RegularExpression" => {
            let regex = regex::Regex::new(&whole(value));
            PathMatch::Regex(regex.map_err(|error| invalid_regex(value, &error))?)
        }
        other => return Err(format!("path type {other:?} is not supported")),
    };
    let mut conditions = Conditions::default();
    if let Some(method) = &given.method {
        let method = method.parse::<Method>();
        conditions.method = Some(method.map_err(|_| format!("{:?} is no method", given.method))?);
    }
    for header in &given.headers {
        let name = header_name(&header.name)?;
        // Of two entries with an equivalent name the first one counts.
        if conditions.headers.iter().all(|(known, _)| *known != name) {
            conditions.headers.push((name, value_match(header)?));
        }
    }
    for parameter in &given.query_params {
        if conditions.query.iter().all(|(known, _)| *known != parameter.name) {
            conditions.query.push((parameter.name.clone(), value_match(parameter)?));
        }
    }
    Ok((path, conditions))
}

fn value_match(given: &Match) -> Result<ValueMatch, String> {
    let value = given.value.clone().unwrap_or_default();
    match given.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(ValueMatch::Exact(value)),
        "RegularExpression" => match bytes::Regex::new(&whole(&value)) {
            Ok(regex) => Ok(ValueMatch::Regex(regex)),
            Err(error) => Err(invalid_regex(&value, &error)),
        },
        other => Err(format!("match type {other:?} is not supported")),
    }
}

/// Returns the expression for the whole text, as Envoy matches.
fn whole(regex: &str) -> String {
    format!("^(?:{regex})$")
}

fn invalid_regex(value: &str, error: &regex::Error) -> String {
    format!("{value:?} is no valid regular expression: {error}")
}

impl ConvertedRule {
    fn filters(
        &mut self,
        given: &[Filter],
        from: Referrer<'_>,
        resolve: &mut Resolve<'_>,
    ) -> Filters {
        let mut filters = Filters::default();
        for filter in given {
            if let Err(why) = self.add_filter(&mut filters, filter, from, resolve) {
                self.unsupported.push(why);
            }
        }
        filters
    }

    fn add_filter(
        &mut self,
        filters: &mut Filters,
        filter: &Filter,
        from: Referrer<'_>,
        resolve: &mut Resolve<'_>,
    ) -> Result<(), String> {
        let missing = || format!("filter {} has no settings", filter.r#type);
        match &*filter.r#type {
            "RequestHeaderModifier" => {
                let given = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
                filters.request_headers = header_changes(given)?;
            }
            "ResponseHeaderModifier" => {
                let given = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
                filters.response_headers = header_changes(given)?;
            }
            "RequestRedirect" => {
                let given = filter.request_redirect.as_ref().ok_or_else(missing)?;
                let status = given.status_code.unwrap_or(302);
                let status = [301, 302, 303, 307, 308].contains(&status).then_some(status);
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                filters.redirect = Some(Redirect {
                    scheme: given.scheme.clone(),
                    host: given.hostname.clone(),
                    path: given.path.as_ref().map(path_rewrite).transpose()?,
                    port: given.port,
                    status: status.ok_or("a redirect has status 301, 302, 303, 307 or 308")?,
                });
            }
            "URLRewrite" => {
                let given = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                let host = given.hostname.as_deref().map(HeaderValue::try_from).transpose();
                let host = host.map_err(|_| format!("{:?} is no host", given.hostname))?;
                let path = given.path.as_ref().map(path_rewrite).transpose()?;
                filters.rewrite = Some(Rewrite { host, path });
            }
            "RequestMirror" => {
                let given = filter.request_mirror.as_ref().ok_or_else(missing)?;
                let fraction = given.fraction.clone().unwrap_or_default();
                let (numerator, denominator) = match (given.percent, &given.fraction) {
                    (Some(percent), _) => (percent, 100),
                    (None, Some(_)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
                    (None, None) => (1, 1),
                };
                match resolve(&given.backend_ref, from) {
                    Ok(None) => {}
                    Ok(Some(backend)) => {
                        filters.mirrors.push(Mirror { backend, numerator, denominator });
                    }
                    Err(unresolved) => self.unresolved.push(unresolved),
                }
            }
            "CORS" => {
                let given = filter.cors.clone().ok_or_else(missing)?;
                filters.cors = Some(Cors {
                    origins: given.allow_origins,
                    methods: given.allow_methods,
                    headers: given.allow_headers,
                    exposed: given.expose_headers,
                    credentials: given.allow_credentials.unwrap_or(false),
                    max_age: given.max_age.unwrap_or(5),
                });
            }
            other => return Err(format!("filter {other} is not supported")),
        }
        Ok(())
    }
}

fn path_rewrite(given: &PathModifier) -> Result<PathRewrite, String> {
    match &*given.r#type {
        "ReplaceFullPath" => {
            Ok(PathRewrite::Full(given.replace_full_path.clone().unwrap_or_default()))
        }
        "ReplacePrefixMatch" => {
            Ok(PathRewrite::Prefix(given.replace_prefix_match.clone().unwrap_or_default()))
        }
        other => Err(format!("path modifier {other:?} is not supported")),
    }
}

fn header_changes(given: &HeaderModifier) -> Result<HeaderChanges, String> {
    let fields = |fields: &[api::HeaderField]| {
        let field = |field: &api::HeaderField| {
            let value = HeaderValue::try_from(&field.value);
            let value = value.map_err(|_| format!("header {} has an invalid value", field.name))?;
            Ok((header_name(&field.name)?, value))
        };
        fields.iter().map(field).collect::<Result<Vec<_>, String>>()
    };
    Ok(HeaderChanges {
        set: fields(&given.set)?,
        add: fields(&given.add)?,
        remove: given.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no name of a header"))
}

/// Reads a duration of GEP-2257, such as `1h30m` or `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| (1..=5).contains(at))?;
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_read_as_documented() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1m1s1ms", Some(61_001)),
            ("", None),
            ("1", None),
            ("s", None),
            ("1d", None),
            ("1.5s", None),
            ("-1s", None),
            ("999999s", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }
}
