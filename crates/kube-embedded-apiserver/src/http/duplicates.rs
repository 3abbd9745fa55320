//! Keys that a document sets twice. Decoders take the last; strict decoding reports the others.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    marker::PhantomData,
};

/// Returns an error for each key of an object that occurs again, worded as Kubernetes' decoder does.
///
/// `value` is what the document was decoded to. Most documents have none: the number of keys alone shows that.
pub(crate) fn of_json(text: &[u8], value: &Value) -> Vec<String> {
    if colons(text) == keys(value) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut document = serde_json::Deserializer::from_slice(text);
    let walked = Walk::<String>::new(&mut String::new(), &mut found).deserialize(&mut document);
    // The text was decoded before.
    if walked.is_err() {
        return Vec::new();
    }
    let mut paths: Vec<String> = found.into_iter().map(|found| found.path).collect();
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    paths.into_iter().map(|path| format!("duplicate field {path:?}")).collect()
}

/// The limit to the errors of strict decoding (`saveStrictError` of sigs.k8s.io/json).
const MAX_ERRORS: usize = 100;

/// Puts the errors of strict decoding in the order of the JSON that they are about, of which the first are kept. A key
/// that is unknown is not counted.
pub(crate) fn in_order(text: &[u8], mut errors: Vec<String>) -> Vec<String> {
    let split = |error: &str| -> Option<(bool, String)> {
        let (what, path) = error.split_once(" field ")?;
        Some((what == "duplicate", path.trim_matches('"').to_owned()))
    };
    let unknown: HashSet<String> = errors
        .iter()
        .filter_map(|error| split(error).filter(|(again, _)| !again).map(|(_, path)| path))
        .collect();
    errors.retain(|error| {
        split(error).is_none_or(|(again, path)| !again || !is_within_any(&path, &unknown))
    });
    if errors.len() < 2 {
        return errors;
    }
    let mut found = Vec::new();
    let mut document = serde_json::Deserializer::from_slice(text);
    if Walk::<Every>::new(&mut String::new(), &mut found).deserialize(&mut document).is_ok() {
        let mut places = HashMap::new();
        for (at, Found { again, path, .. }) in found.into_iter().enumerate() {
            places.entry((again, path)).or_insert(at);
        }
        errors.sort_by_cached_key(|error| {
            let place = split(error).and_then(|key| places.get(&key).copied());
            place.unwrap_or(usize::MAX)
        });
    }
    errors.truncate(MAX_ERRORS);
    errors
}

/// Returns true for a path that is one of others, or below one.
fn is_within_any(path: &str, others: &HashSet<String>) -> bool {
    let ends = path.match_indices(['.', '[']).map(|(at, _)| at).chain([path.len()]);
    ends.into_iter().any(|end| others.contains(&path[..end]))
}

/// Returns one error with all keys that occur again, with their lines.
pub(crate) fn of_yaml(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough };
    let mut found = Vec::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
        Walk::<Spanned<String>>::new(&mut String::new(), &mut found).deserialize(document)
    })
    .ok()?;
    let lines: Vec<String> = found
        .iter()
        .map(|found| format!("  line {}: key {:?} already set in map", found.line, found.key))
        .collect();
    (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n{}", lines.join("\n")))
}

/// Counts the colons outside of strings: one for each key.
fn colons(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn keys(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.len() + fields.values().map(keys).sum::<usize>(),
        Value::Array(items) => items.iter().map(keys).sum(),
        _ => 0,
    }
}

/// A key that occurs again, or any.
struct Found {
    again: bool,
    path: String,
    key: String,
    line: u64,
}

/// A key, with its line where the format has any.
trait Key: for<'de> Deserialize<'de> {
    /// Keys are found that occur once, too.
    const EVERY: bool = false;

    fn text(self) -> (String, u64);
}

impl Key for String {
    fn text(self) -> (String, u64) {
        (self, 0)
    }
}

/// Any key.
#[derive(Deserialize)]
struct Every(String);

impl Key for Every {
    const EVERY: bool = true;

    fn text(self) -> (String, u64) {
        (self.0, 0)
    }
}

impl Key for Spanned<String> {
    fn text(self) -> (String, u64) {
        let line = self.referenced.line();
        (self.value, line)
    }
}

/// Walks a document and drops its values.
struct Walk<'a, K> {
    path: &'a mut String,
    found: &'a mut Vec<Found>,
    key: PhantomData<K>,
}

impl<'a, K> Walk<'a, K> {
    fn new(path: &'a mut String, found: &'a mut Vec<Found>) -> Self {
        Self { path, found, key: PhantomData }
    }
}

impl<'de, K: Key> DeserializeSeed<'de> for Walk<'_, K> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        document.deserialize_any(self)
    }
}

impl<'de, K: Key> Visitor<'de> for Walk<'_, K> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut seen, length) = (HashSet::new(), self.path.len());
        while let Some(key) = map.next_key::<K>()? {
            let (key, line) = key.text();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if seen.insert(key.clone()) {
                if K::EVERY {
                    self.found.push(Found { again: false, path: self.path.clone(), key, line });
                }
                map.next_value_seed(Walk::<K>::new(self.path, self.found))?;
            } else {
                map.next_value::<IgnoredAny>()?;
                self.found.push(Found { again: true, path: self.path.clone(), key, line });
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for at in 0.. {
            self.path.push_str(&format!("[{at}]"));
            let next = list.next_element_seed(Walk::<K>::new(self.path, self.found))?;
            self.path.truncate(length);
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_key_is_found_with_its_path() {
        for (text, expected) in [
            (r#"{"a":1,"b":{"a":":"}}"#, &[][..]),
            (r#"{"a":1,"a":2,"a":3}"#, &["duplicate field \"a\""]),
            (
                r#"{"spec":{"list":[{"x":1},{"x":1,"y":"\"","x":[]}]}}"#,
                &["duplicate field \"spec.list[1].x\""],
            ),
            (
                r#"{"a":{"b":1,"b":2},"a":{"c":1,"c":1}}"#,
                &["duplicate field \"a.b\"", "duplicate field \"a\""],
            ),
            (r#"{"\u0061":1,"a":2}"#, &["duplicate field \"a\""]),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(of_json(text.as_bytes(), &value), expected, "{text}");
        }
    }

    #[test]
    fn first_errors_of_a_document_are_kept_in_its_order() {
        let text = r#"{"b":1,"a":1,"a":1,"spec":{"x":1,"x":1}}"#;
        let errors = [
            "unknown field \"spec\"",
            "duplicate field \"a\"",
            "duplicate field \"spec.x\"",
            "unknown field \"b\"",
        ];
        let ordered = in_order(text.as_bytes(), errors.map(str::to_owned).to_vec());
        assert_eq!(
            ordered,
            ["unknown field \"b\"", "duplicate field \"a\"", "unknown field \"spec\""]
        );
        // With the square of so many, this test would take minutes.
        let many = 0..200_000;
        let keys: Vec<String> = many.clone().map(|n| format!("\"x{n}\":1")).collect();
        let errors = many.map(|n| format!("unknown field \"x{n}\"")).rev().collect();
        let ordered = in_order(format!("{{{}}}", keys.join(",")).as_bytes(), errors);
        assert_eq!((ordered.len(), &*ordered[99]), (100, "unknown field \"x99\""));
    }

    #[test]
    fn repeated_key_of_yaml_is_found_with_its_line() {
        let text = b"a: 1\nspec:\n  paused: true\n  paused: false\nlist:\n- x: 1\n  x: ~\n";
        assert_eq!(
            of_yaml(text).unwrap(),
            "yaml: unmarshal errors:\n  line 4: key \"paused\" already set in map\n  line 7: key \"x\" already set \
             in map"
        );
        assert_eq!(of_yaml(b"a: {b: 1}\nb: 1\n"), None);
    }
}
