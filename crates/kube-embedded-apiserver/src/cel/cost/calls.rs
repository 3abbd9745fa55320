//! What calls cost when they are evaluated, by their arguments and results.
//!
//! Stands for `interpreter/runtimecost.go` of cel-go, the trackers of its extensions, and
//! `CallCost` in `k8s.io/apiserver/pkg/cel/library/cost.go`.

use super::{NEW_LIST, PATTERN, TEXT};
use crate::cel::value::Val;
use serde_json::Value;
use std::net::IpAddr;

/// The cost of an authorization check, of which an expression can afford two.
const CHECK: u64 = 350_000;
/// What a requirement of a selector costs, of which there may be one in two characters.
const REQUIREMENT: f64 = 50.0;

/// A function that is called.
pub(in crate::cel) struct Called<'f> {
    pub(in crate::cel) name: &'f str,
    pub(in crate::cel) method: bool,
    /// Its overload was not known when the expression was checked.
    pub(in crate::cel) is_dynamic: bool,
}

/// Functions with overloads of different costs.
const BY_OVERLOAD: [&str; 11] =
    ["_+_", "_<_", "_<=_", "_>_", "_>=_", "@in", "bytes", "string", "matches", "sort", "flatten"];

/// Returns the cost of a call that has succeeded. The target of a method is the first argument.
pub(in crate::cel) fn of_call(called: &Called, args: &[Val], result: &Val) -> u64 {
    let Called { name, method, is_dynamic, .. } = *called;
    let size = |n: usize| args.get(n).map_or(1, size);
    let traversed = |n: usize| scaled(size(n), TEXT);
    match name {
        // cel-go knows the costs of these by their overloads.
        _ if is_dynamic && BY_OVERLOAD.contains(&name) => 1,
        // No calls in cel-go.
        "orValue" | "or" => 0,
        "check" => CHECK,
        "fieldSelector" | "labelSelector" => {
            let requirements = scaled(scaled(size(1), 0.5), REQUIREMENT);
            NEW_LIST + traversed(1) + requirements
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, traversal)
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR"
        | "quantity" | "isQuantity" | "semver" | "isSemver" | "startsWith" | "endsWith"
        | "strings.quote" | "format" => traversed(0),
        "ip" if !method => traversed(0),
        "bytes" if matches!(args.first(), Some(Val::Text(_))) => traversed(0),
        "string" if matches!(args.first(), Some(Val::Bytes(_))) => traversed(0),
        "replace" | "split" | "ip.isCanonical" => scaled(size(0), 2.0 * TEXT),
        "join" => scaled(self::size(result), 2.0 * TEXT),
        "find" | "findAll" => matching(size(0), size(1)),
        "matches" if method => matching(size(0), size(1)),
        "validate" => matching(size(1), args.first().map_or(0, pattern_of_format)),
        "contains" => traversed(0) * traversed(1),
        "containsIP" | "containsCIDR" => contains_address(name, args),
        "_+_" if is_text(args) => scaled(size(0) + size(1), TEXT),
        "_==_" if args.first().is_some_and(is_of_library) => 1,
        "_==_" | "_!=_" => scaled(size(0).min(size(1)), TEXT),
        "_<_" | "_<=_" | "_>_" | "_>=_" if is_text(args) => scaled(size(0).min(size(1)), TEXT),
        "@in" if is_list(args.get(1)) => size(1),
        "sets.contains" | "sets.intersects" => 1 + size(0) * size(1),
        "sets.equivalent" => 1 + 2 * size(0) * size(1),
        "slice" | "lists.range" | "reverse" => 1 + NEW_LIST + self::size(result),
        "flatten" => {
            let depth = match args.get(1) {
                Some(Val::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                _ => 1,
            };
            1 + NEW_LIST + size(0).saturating_mul(depth)
        }
        "distinct" | "sort" => of_sorting(size(0), args.first().and_then(|all| all.at(0)).as_ref()),
        _ => 1,
    }
}

/// Sorting a list of a size by its elements, or finding the different ones.
pub(in crate::cel) fn of_sorting(size: u64, first: Option<&Val>) -> u64 {
    let factor = match first {
        Some(Val::Text(_) | Val::Bytes(_)) => 2.0 + TEXT,
        _ => 2.0,
    };
    rounded_down(size * size, factor) + 1 + NEW_LIST
}

/// The number of characters, bytes, entries or elements; 1 of other values.
fn size(of: &Val) -> u64 {
    let size = match of {
        Val::Text(text) => text.chars().count(),
        Val::Ip(IpAddr::V4(_)) => 4,
        Val::Ip(IpAddr::V6(_)) => 16,
        Val::Cidr(_, bits) => usize::from(bits.div_ceil(8)),
        other => other.size(),
    };
    size as u64
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "costs are rounded in this way by cel-go; the cast saturates"
)]
fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "costs are rounded in this way by cel-go; the cast saturates"
)]
fn rounded_down(size: u64, factor: f64) -> u64 {
    (size as f64 * factor) as u64
}

fn matching(text: u64, pattern: u64) -> u64 {
    scaled(text + 1, TEXT) * scaled(pattern, PATTERN)
}

fn is_text(args: &[Val]) -> bool {
    matches!(args.first(), Some(Val::Text(_) | Val::Bytes(_)))
}

fn is_list(of: Option<&Val>) -> bool {
    matches!(of, Some(Val::List(_) | Val::Json(Value::Array(_), _)))
}

/// Returns true for the types of libraries, which are compared at once.
fn is_of_library(of: &Val) -> bool {
    matches!(
        of,
        Val::Quantity(_)
            | Val::Ip(_)
            | Val::Cidr(..)
            | Val::Format(_)
            | Val::Url(_)
            | Val::Semver(_)
            | Val::Authorization(_)
    )
}

/// Going through all that is inside a value.
fn traversal(of: &Val) -> u64 {
    match of {
        Val::Text(text) => rounded_down(text.len() as u64, TEXT),
        Val::Bytes(bytes) => rounded_down(bytes.len() as u64, TEXT),
        other => match (other.elements(), other.entries()) {
            (Some(all), _) => all.iter().map(traversal).sum(),
            (_, Some(all)) => all.iter().map(|(k, v)| traversal(k) + traversal(v)).sum(),
            _ => 1,
        },
    }
}

/// Comparing an address or a network with a network.
fn contains_address(name: &str, args: &[Val]) -> u64 {
    let network = args.first().map_or(1, size);
    let mut cost = scaled(2 * network, TEXT);
    if name == "containsCIDR" {
        cost += scaled(network, TEXT) + 1;
    }
    match args.get(1) {
        Some(text @ Val::Text(_)) => cost + scaled(size(text), TEXT),
        _ => cost,
    }
}

/// The length of the pattern that a format is taken to have.
fn pattern_of_format(format: &Val) -> u64 {
    match format {
        Val::Format("dns1123Subdomain" | "dns1123SubdomainPrefix" | "qualifiedName") => 60,
        Val::Format("labelValue") => 40,
        Val::Format("uri") => 1103,
        Val::Format("byte") => 84,
        Val::Format("uuid" | "date" | "datetime") => 70,
        _ => 30,
    }
}
