//! The subset of JSONPath (`k8s.io/client-go/util/jsonpath`) that printer columns use: names,
//! indices, `[*]` and `[?(@.type=="Ready")]`.

use crate::fields::find_path;
use serde_json::Value;

/// A parsed path.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, PartialEq)]
enum Step {
    Name(String),
    /// Counts from the end if it is negative.
    Index(i64),
    Wildcard,
    Filter {
        path: Vec<String>,
        equal: bool,
        value: Value,
    },
}

impl Path {
    /// Parses a path. Returns `None` if it is invalid or outside of the subset.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            rest = match rest.strip_prefix('[') {
                Some(inside) => {
                    let end = closing(inside)?;
                    steps.push(bracketed(inside.get(..end)?)?);
                    inside.get(end + 1..)?
                }
                None => {
                    let (name, rest) = name(rest.strip_prefix('.')?);
                    match &*name {
                        // A single dot is the object itself. Two would search recursively, which
                        // Kubernetes rejects for columns.
                        "" if rest.is_empty() || rest.starts_with('[') => {}
                        "" => return None,
                        "*" => steps.push(Step::Wildcard),
                        _ => steps.push(Step::Name(name)),
                    }
                    rest
                }
            };
        }
        Some(Self(steps))
    }

    /// Returns the values at the path, without nulls.
    pub(crate) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.find(value)).collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

impl Step {
    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Name(name) => value.get(name).into_iter().collect(),
            Self::Index(at) => {
                let len = i64::try_from(items().len()).unwrap_or(i64::MAX);
                let at = if *at < 0 { at.saturating_add(len) } else { *at };
                usize::try_from(at).ok().and_then(|at| items().get(at)).into_iter().collect()
            }
            Self::Wildcard => match value {
                Value::Object(fields) => fields.values().collect(),
                _ => items().iter().collect(),
            },
            Self::Filter { path, equal, value } => items()
                .iter()
                .filter(|item| {
                    let found = find_path(item, path);
                    found.is_some_and(|found| (found == value) == *equal)
                })
                .collect(),
        }
    }
}

/// Returns the index of the closing bracket, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    None
}

/// Splits off a name, up to the next dot or bracket. A backslash escapes the next character.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            _ => name.push(letter),
        }
    }
    (name, "")
}

/// Parses the inside of brackets: a wildcard, a filter, an index or a quoted name.
fn bracketed(inside: &str) -> Option<Step> {
    let inside = inside.trim();
    if inside == "*" {
        return Some(Step::Wildcard);
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (left, equal, right) = match (condition.split_once("=="), condition.split_once("!=")) {
            (Some((left, right)), _) => (left, true, right),
            (None, Some((left, right))) => (left, false, right),
            _ => return None,
        };
        let path = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        return Some(Step::Filter { path, equal, value: literal(right.trim())? });
    }
    match literal(inside)? {
        Value::String(name) => Some(Step::Name(name)),
        Value::Number(number) => Some(Step::Index(number.as_i64()?)),
        _ => None,
    }
}

/// Parses a quoted string, or a JSON value.
fn literal(text: &str) -> Option<Value> {
    for quote in ['\'', '"'] {
        if let Some(inside) = text.strip_prefix(quote) {
            return inside.strip_suffix(quote).map(Value::from);
        }
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn path_selects_values_or_is_rejected() {
        let object = json!({
            "metadata": { "labels": { "example.com/tier": "front" } },
            "spec": { "ports": [{ "name": "a", "port": 1 }, { "name": "b", "port": 2 }] },
            "status": { "conditions": [
                { "type": "Ready", "status": "True" },
                { "type": "Synced", "status": "False" },
            ] },
        });
        for (path, expected) in [
            (".spec.ports[0].port", json!([1])),
            (".spec.ports[-1].port", json!([2])),
            (".spec.ports[*].name", json!(["a", "b"])),
            (".spec['ports'][1]['name']", json!(["b"])),
            (r".metadata.labels.example\.com/tier", json!(["front"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".spec.none", json!([])),
            (".spec.ports[7]", json!([])),
        ] {
            let parsed = Path::parse(path).unwrap();
            assert_eq!(json!(parsed.find(&object)), expected, "{path}");
        }
        for wrong in ["spec", ".a[", ".a[?(x)]", "..a", ".a[b]", ".a[?(@.b=='c)]"] {
            assert_eq!(Path::parse(wrong), None, "{wrong}");
        }
    }
}
