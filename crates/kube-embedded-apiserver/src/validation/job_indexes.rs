//! The short form of indexes in a Job: `1,3-5,7` (`validateIndexesFormat`).

/// Parses ranges of indexes below `completions`, first and last each.
///
/// # Errors
/// The first violation of the format, in the words of Kubernetes.
pub(crate) fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = range(part, completions)?;
        if let Some((_, before)) = ranges.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

/// Returns the first index that both lists have; parts that are malformed count as none.
pub(crate) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let ranges = |text: &str| {
        let parts = text.split(',').filter_map(|part| range(part, completions).ok());
        parts.collect::<Vec<_>>()
    };
    let others = ranges(other);
    ranges(one).into_iter().find_map(|(first, last)| {
        let other = others.iter().find(|(from, to)| first <= *to && *from <= last)?;
        Some(first.max(other.0))
    })
}

fn range(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    if limits.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most \
             two parts separated by '-'"
        ));
    }
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    let first = index(limits.first().copied().unwrap_or_default())?;
    let Some(last) = limits.get(1) else { return Ok((first, first)) };
    match index(last)? {
        last if first >= last => {
            Err(format!("non-increasing order, previous: {first}, current: {last}"))
        }
        last => Ok((first, last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_increasing_and_below_completions() {
        assert_eq!(parse("", 3), Ok(vec![]));
        assert_eq!(parse("1,3-5,7", 8), Ok(vec![(1, 1), (3, 5), (7, 7)]));
        for (text, expected) in [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("0,", "cannot convert string to integer for index: \"\""),
            ("-1", "cannot convert string to integer for index: \"\""),
            ("3-8", "too large index: \"8\""),
            ("8", "too large index: \"8\""),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            ("3-4,4", "non-increasing order, previous: 4, current: 4"),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at \
                 most two parts separated by '-'",
            ),
        ] {
            assert_eq!(parse(text, 8), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn common_index_is_found() {
        for (one, other, expected) in [
            ("", "0", None),
            ("0-2", "3", None),
            ("0-2,5-7", "3,6", Some(6)),
            ("4", "1,2-6", Some(4)),
            ("x,4", "4", Some(4)),
        ] {
            assert_eq!(overlap(one, other, 8), expected, "{one} {other}");
        }
    }
}
