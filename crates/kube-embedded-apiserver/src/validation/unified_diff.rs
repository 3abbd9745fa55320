//! Unified diffs as Python's `difflib` makes them, whose algorithm kube-apiserver uses to show what an update would
//! change.

use std::{collections::HashMap, fmt::Write, ops::Range};

/// Lines around a change.
const CONTEXT: usize = 3;
/// Of as many lines and more, those that occur often are no places to start a match.
const MANY: usize = 200;

/// Lines that both texts have: where in the old one, where in the new one, and how many.
type Block = (usize, usize, usize);

/// A change, or lines that stay.
#[derive(Clone, Debug)]
struct Code {
    same: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// Returns the diff of two texts, given by their lines.
pub(crate) fn unified_diff(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for group in groups(codes(&blocks(old, new), old.len(), new.len())) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range = |start: usize, end: usize| match end - start {
            1 => format!("{}", start + 1),
            0 => format!("{start},0"),
            count => format!("{},{count}", start + 1),
        };
        let _ = writeln!(
            out,
            "@@ -{} +{} @@",
            range(first.old.start, last.old.end),
            range(first.new.start, last.new.end)
        );
        let mut put = |sign: char, lines: &[String], range: &Range<usize>| {
            for line in lines.get(range.clone()).unwrap_or_default() {
                let _ = writeln!(out, "{sign}{line}");
            }
        };
        for code in &group {
            if code.same {
                put(' ', old, &code.old);
            } else {
                put('-', old, &code.old);
                put('+', new, &code.new);
            }
        }
    }
    out
}

/// Returns the blocks that the texts have in common: the longest, and in turn the longest before and after it.
fn blocks(old: &[String], new: &[String]) -> Vec<Block> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(at);
    }
    if new.len() >= MANY {
        places.retain(|_, places| places.len() <= new.len() / 100 + 1);
    }
    let (mut found, mut todo) = (Vec::new(), vec![(0..old.len(), 0..new.len())]);
    while let Some((of_old, of_new)) = todo.pop() {
        let block @ (i, j, count) = longest(old, new, &places, &of_old, &of_new);
        if count > 0 {
            found.push(block);
            todo.push((of_old.start..i, of_new.start..j));
            todo.push((i + count..of_old.end, j + count..of_new.end));
        }
    }
    found.sort_unstable();
    found
}

/// Returns the longest common block within ranges, the first of them.
fn longest(
    old: &[String],
    new: &[String],
    places: &HashMap<&str, Vec<usize>>,
    of_old: &Range<usize>,
    of_new: &Range<usize>,
) -> Block {
    let (mut start, mut to, mut count) = (of_old.start, of_new.start, 0);
    // The lengths of the common blocks that end with the line before, by their end in the new text.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in of_old.clone() {
        let mut longer = HashMap::new();
        let at = old.get(i).and_then(|line| places.get(&**line));
        for &j in at.into_iter().flatten().filter(|j| of_new.contains(j)) {
            let before = j.checked_sub(1).and_then(|j| lengths.get(&j)).copied();
            let length = before.unwrap_or(0) + 1;
            longer.insert(j, length);
            if length > count {
                (start, to, count) = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = longer;
    }
    // Lines that occur often were left out above.
    while start > of_old.start && to > of_new.start && old.get(start - 1) == new.get(to - 1) {
        (start, to, count) = (start - 1, to - 1, count + 1);
    }
    while start + count < of_old.end
        && to + count < of_new.end
        && old.get(start + count) == new.get(to + count)
    {
        count += 1;
    }
    (start, to, count)
}

/// Returns the whole as changes, and lines that stay.
fn codes(blocks: &[Block], old: usize, new: usize) -> Vec<Code> {
    let (mut codes, mut i, mut j): (Vec<Code>, _, _) = (Vec::new(), 0, 0);
    for &(start, to, count) in blocks.iter().chain([&(old, new, 0)]) {
        if i < start || j < to {
            codes.push(Code { same: false, old: i..start, new: j..to });
        }
        (i, j) = (start + count, to + count);
        if count == 0 {
            continue;
        }
        match codes.last_mut().filter(|last| last.same) {
            // A block that follows another.
            Some(last) => (last.old.end, last.new.end) = (i, j),
            None => codes.push(Code { same: true, old: start..i, new: to..j }),
        }
    }
    codes
}

/// Divides the changes where more lines stay than are shown.
fn groups(mut codes: Vec<Code>) -> Vec<Vec<Code>> {
    if let Some(first) = codes.first_mut().filter(|code| code.same) {
        *first = end_of(first);
    }
    if let Some(last) = codes.last_mut().filter(|code| code.same) {
        *last = start_of(last);
    }
    let (mut groups, mut group) = (Vec::new(), Vec::new());
    for mut code in codes {
        if code.same && code.old.len() > 2 * CONTEXT {
            group.push(start_of(&code));
            groups.push(std::mem::take(&mut group));
            code = end_of(&code);
        }
        group.push(code);
    }
    groups.push(group);
    groups.retain(|group| group.iter().any(|code| !code.same));
    groups
}

fn start_of(code: &Code) -> Code {
    let first = |range: &Range<usize>| range.start..range.end.min(range.start + CONTEXT);
    Code { same: code.same, old: first(&code.old), new: first(&code.new) }
}

fn end_of(code: &Code) -> Code {
    let last = |range: &Range<usize>| range.start.max(range.end.saturating_sub(CONTEXT))..range.end;
    Code { same: code.same, old: last(&code.old), new: last(&code.new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_is_that_of_difflib() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (old, new, expected) in [
            ("abc", "abc", ""),
            ("", "a", "@@ -0,0 +1 @@ +a"),
            ("abcdefgh", "abcdXfgh", "@@ -2,7 +2,7 @@  b  c  d -e +X  f  g  h"),
            ("abc", "bcd", "@@ -1,3 +1,3 @@ -a  b  c +d"),
            (
                "abcdefghijklm",
                "Xbcdefghijkl",
                "@@ -1,4 +1,4 @@ -a +X  b  c  d @@ -10,4 +10,3 @@  j  k  l -m",
            ),
            ("qabxcd", "abycdf", "@@ -1,6 +1,6 @@ -q  a  b -x +y  c  d +f"),
        ] {
            let diff = unified_diff(&lines(old), &lines(new));
            assert_eq!(diff.trim_end().replace('\n', " "), expected, "{old} {new}");
        }
    }

    #[test]
    fn lines_that_occur_often_start_no_match() {
        let numbered = |n: usize| format!("{n}");
        let mut old: Vec<String> = (0..100).map(numbered).collect();
        old.extend((0..150).map(|_| "null".to_owned()));
        let mut new = old.clone();
        new.insert(120, "new".to_owned());
        let diff = unified_diff(&old, &new);
        assert_eq!(diff.lines().filter(|line| !line.starts_with([' ', '@'])).count(), 131 + 130);
    }
}
