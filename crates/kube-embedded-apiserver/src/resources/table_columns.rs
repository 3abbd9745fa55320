//! Columns of a Table, which `kubectl get` prints, and the cells that several types share: ages, selectors, containers.

use jiff::Timestamp;
use serde_json::Value;

use crate::fields::{at, list, text};

/// A column of a Table.
pub struct Column {
    /// Heading, `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`.
    pub kind: &'static str,
    /// `name` or empty.
    pub format: &'static str,
    /// 0 for always, 1 for `-o wide`.
    pub priority: i32,
    /// Description in the Table column definition; `#/STRUCTURE/FIELD` is that of a field.
    pub description: &'static str,
    /// Returns the cell of an object; the time is for ages.
    pub cell: fn(&Value, jiff::Timestamp) -> Value,
}

/// The descriptions of columns that belong to no type alone.
pub(crate) const OF_NAME: &str = "#/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta/name";
pub(crate) const OF_CREATION: &str =
    "#/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta/creationTimestamp";

/// The first column, unless a type has one of its own.
pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: OF_NAME,
    cell: |object, _| object["metadata"]["name"].clone(),
};

/// A column of text that is always shown.
pub(crate) const fn column(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description, cell }
}

/// A column of `-o wide`.
pub(crate) const fn wide(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { priority: 1, ..column(name, description, cell) }
}

/// A column of numbers.
pub(crate) const fn number(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { kind: "integer", ..column(name, description, cell) }
}

/// `Age`.
pub(crate) const AGE: Column = column("Age", OF_CREATION, |object, now| age(object, now).into());

/// Returns the age of an object.
pub(crate) fn age(object: &Value, now: Timestamp) -> String {
    since(text(object, &["metadata", "creationTimestamp"]), now)
}

/// Returns the time since a timestamp; `<unknown>` if there is none.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human((now.as_second()).saturating_sub(time.as_second())),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Formats a duration in seconds as `kubectl` does: two units at most, the second one only for short durations.
pub(crate) fn human(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Returns the text, or `<none>`.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Returns the number at a path, 0 if there is none.
pub(crate) fn count(object: &Value, path: &[&str]) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

/// Returns the names of a pod spec's containers, separated by commas.
pub(crate) fn container_names(spec: &Value) -> Value {
    joined(list(spec, &["containers"]), "name").into()
}

/// Returns the images of a pod spec's containers, separated by commas.
pub(crate) fn container_images(spec: &Value) -> Value {
    joined(list(spec, &["containers"]), "image").into()
}

/// Returns one field of each element, separated by commas.
pub(crate) fn joined(items: &[Value], field: &str) -> String {
    items.iter().map(|item| text(item, &[field])).collect::<Vec<_>>().join(",")
}

/// Returns `app=x,env=y`, or `<none>`.
pub(crate) fn map(labels: &Value) -> Value {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

/// Formats a label selector as `kubectl` does: `app=x,tier in (a,b),!old`.
pub(crate) fn selector(selector: &Value) -> Value {
    if selector.is_null() {
        return "<none>".into();
    }
    let mut parts: Vec<(String, String)> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in list(selector, &["matchExpressions"]) {
        let key = text(expression, &["key"]);
        let mut values: Vec<&str> =
            list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), part));
    }
    // Of one key, labels come before expressions.
    parts.sort_by(|(key, _), (other, _)| key.cmp(other));
    let parts: Vec<String> = parts.into_iter().map(|(_, part)| part).collect();
    or_none(&parts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duration_is_formatted_as_in_kubectl() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, shown) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * MINUTE, "2m"),
            (9 * MINUTE + 59, "9m59s"),
            (10 * MINUTE + 1, "10m"),
            (179 * MINUTE, "179m"),
            (3 * HOUR, "3h"),
            (7 * HOUR + 59 * MINUTE, "7h59m"),
            (8 * HOUR + MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (729 * DAY, "729d"),
            (730 * DAY, "2y"),
            (731 * DAY, "2y1d"),
            (8 * 365 * DAY, "8y"),
        ] {
            assert_eq!(human(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn selector_is_formatted_as_in_kubectl() {
        for (given, shown) in [
            (json!(null), "<none>"),
            (json!({ "matchLabels": { "b": "2", "a": "1" } }), "a=1,b=2"),
            (
                json!({
                    "matchLabels": { "app": "x" },
                    "matchExpressions": [
                        { "key": "tier", "operator": "In", "values": ["b", "a"] },
                        { "key": "old", "operator": "DoesNotExist" },
                    ],
                }),
                "app=x,!old,tier in (a,b)",
            ),
        ] {
            assert_eq!(selector(&given), shown);
        }
    }
}
