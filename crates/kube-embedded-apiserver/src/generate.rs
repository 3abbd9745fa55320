//! Generated names and uids.

/// The letters of generated names. Kubernetes leaves out vowels so that no words come about.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Returns a random UUID of version 4.
pub(crate) fn uid() -> String {
    let bits =
        (rand::random::<u128>() & !(0xf000 << 64 | 0xc000 << 48)) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{bits:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Appends five random letters; the name has at most 63.
pub(crate) fn name(base: &str) -> String {
    let mut name: String = base.chars().take(58).collect();
    for _ in 0..5 {
        let letter = LETTERS.get(rand::random_range(0..LETTERS.len())).copied();
        name.push(letter.map_or('x', char::from));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_version_4() {
        let uid = uid();
        let parts: Vec<_> = uid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{uid}");
        assert_eq!(uid.as_bytes()[14], b'4', "{uid}");
        assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
    }
}
