//! The policy that the labels of a namespace select: a level and a version for each mode.

use crate::validation::field_error::{FieldError, invalid};
use serde_json::Value;
use std::fmt;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// A level of the Pod Security Standards, the least strict first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A version of the standards: that of a minor release of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

/// `restricted:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// The policy of a namespace. Without labels it allows everything, as in a cluster without an
/// `AdmissionConfiguration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// Returns the policy that labels select, with the errors of those that select none. A label that cannot be parsed
/// counts as the strictest where it is enforced, and is ignored elsewhere (`PolicyToEvaluate`).
pub(super) fn of_labels(labels: &Value) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let mut mode = |name: &str, otherwise: Level| {
        let level = parse(labels, name, parse_level, &mut errors);
        let version = parse(labels, &format!("{name}-version"), parse_version, &mut errors);
        let chosen = LevelVersion {
            level: level.unwrap_or(Ok(Level::Privileged)).unwrap_or(otherwise),
            version: version.and_then(Result::ok).unwrap_or(Version::Latest),
        };
        (chosen, level, version.is_some())
    };
    let (enforce, enforced, _) = mode("enforce", Level::Restricted);
    let (audit, ..) = mode("audit", Level::Privileged);
    let (mut warn, warned, has_version) = mode("warn", Level::Privileged);
    // What is refused is warned about on workloads, too, unless a label says otherwise.
    if warned.is_none() && enforced.is_some_and(|level| level.is_ok()) && enforce.level > warn.level
    {
        warn.level = enforce.level;
        if !has_version {
            warn.version = enforce.version;
        }
    }
    (Policy { enforce, audit, warn }, errors)
}

/// Parses a label; `None` if there is none.
fn parse<T>(
    labels: &Value,
    name: &str,
    parser: fn(&str) -> Option<T>,
    errors: &mut Vec<FieldError>,
) -> Option<Result<T, ()>> {
    let (label, value) = (format!("{PREFIX}{name}"), labels.get(format!("{PREFIX}{name}"))?);
    let parsed = parser(value.as_str().unwrap_or_default());
    if parsed.is_none() {
        let detail = match name.ends_with("-version") {
            true => "must be \"latest\" or \"v1.x\"",
            false => "must be one of privileged, baseline, restricted",
        };
        errors.push(invalid(format!("metadata.labels[{label}]"), value, detail));
    }
    Some(parsed.ok_or(()))
}

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let digits = text.strip_prefix("v1.")?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (canonical && is_number).then(|| digits.parse().ok()).flatten().map(Version::Minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_select_a_policy_and_warn_follows_enforce() {
        for (labels, enforce, audit, warn) in [
            (json!({}), "privileged:latest", "privileged:latest", "privileged:latest"),
            (
                json!({ "enforce": "restricted", "enforce-version": "v1.24" }),
                "restricted:v1.24",
                "privileged:latest",
                "restricted:v1.24",
            ),
            (
                json!({ "enforce": "baseline", "warn": "privileged", "audit": "restricted" }),
                "baseline:latest",
                "restricted:latest",
                "privileged:latest",
            ),
            (
                json!({ "enforce": "baseline", "enforce-version": "v1.20", "warn-version": "v1.30" }),
                "baseline:v1.20",
                "privileged:latest",
                "baseline:v1.30",
            ),
            // Fails closed where it is enforced, and open elsewhere.
            (
                json!({ "enforce": "strict", "audit": "x", "warn": "x" }),
                "restricted:latest",
                "privileged:latest",
                "privileged:latest",
            ),
        ] {
            let labels: Value = labels
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()))
                .collect();
            let (policy, _) = of_labels(&labels);
            let shown = [policy.enforce, policy.audit, policy.warn].map(|mode| mode.to_string());
            assert_eq!(shown, [enforce, audit, warn], "{labels}");
        }
    }

    #[test]
    fn invalid_label_is_an_error_with_its_key() {
        for (label, value, valid) in [
            ("enforce", "restricted", true),
            ("enforce", "Restricted", false),
            ("warn-version", "v1.0", true),
            ("warn-version", "latest", true),
            ("warn-version", "v1.01", false),
            ("warn-version", "v2.0", false),
            ("warn-version", "v1.-1", false),
            ("warn-version", "1.24", false),
        ] {
            let (_, errors) = of_labels(&json!({ format!("{PREFIX}{label}"): value }));
            assert_eq!(errors.is_empty(), valid, "{label}={value}: {errors:?}");
        }
        let (_, errors) = of_labels(&json!({
            format!("{PREFIX}enforce"): "strict",
            format!("{PREFIX}enforce-version"): "v1",
        }));
        let shown: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        assert_eq!(
            shown,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be \
                 one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: \"v1\": must \
                 be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
