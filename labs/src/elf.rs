//! Reads from an ELF file what it needs of the host: an interpreter (the dynamic linker) and shared
//! libraries. Layout as in elf(5), 64-bit files of either byte order.

/// The dynamic dependencies of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Whether it names an interpreter (a `PT_INTERP` segment).
    pub interpreter: bool,
    /// The number of shared libraries it names (`DT_NEEDED` entries).
    pub libraries: usize,
}

impl Dependencies {
    /// Returns true if there are none, so that the file runs on a bare kernel.
    pub(crate) fn is_empty(self) -> bool {
        self == Self { interpreter: false, libraries: 0 }
    }
}

const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// Reads the dependencies from the program headers.
///
/// # Errors
/// If `bytes` are not a 64-bit ELF file.
pub(crate) fn dependencies(bytes: &[u8]) -> Result<Dependencies, String> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = bytes else {
        return Err("not an ELF file".to_owned());
    };
    if *class != 2 {
        return Err("not a 64-bit ELF file".to_owned());
    }
    let big = match order {
        1 => false,
        2 => true,
        other => return Err(format!("unknown byte order {other}")),
    };
    let file = File { bytes, big };
    let mut found = Dependencies { interpreter: false, libraries: 0 };
    let (table, size, count) = (file.number(32, 8)?, file.number(54, 2)?, file.number(56, 2)?);
    for index in 0..count {
        let header = table.saturating_add(index * size);
        match file.number(header, 4)? {
            PT_INTERP => found.interpreter = true,
            PT_DYNAMIC => {
                let start = file.number(header.saturating_add(8), 8)?;
                let length = file.number(header.saturating_add(32), 8)?;
                found.libraries += file.libraries(start, length)?;
            }
            _ => {}
        }
    }
    Ok(found)
}

struct File<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl File<'_> {
    /// Returns the unsigned number of `width` bytes at `offset`.
    fn number(&self, offset: u64, width: usize) -> Result<u64, String> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(width)?));
        let bytes = range.and_then(|range| self.bytes.get(range));
        let bytes = bytes.ok_or_else(|| format!("truncated before byte {offset}"))?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Ok(if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }

    fn libraries(&self, start: u64, length: u64) -> Result<usize, String> {
        let mut found = 0;
        for index in 0..length / 16 {
            match self.number(start.saturating_add(index * 16), 8)? {
                DT_NULL => break,
                DT_NEEDED => found += 1,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a file of a header, these segments, and a dynamic section with these tags.
    fn file(segments: &[u64], tags: &[u64], big: bool) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, if big { 2 } else { 1 }];
        let mut put = |offset: usize, width: usize, number: u64| {
            let end = offset + width;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            let big_endian = number.to_be_bytes();
            bytes[offset..end].copy_from_slice(&big_endian[8 - width..]);
            if !big {
                bytes[offset..end].reverse();
            }
        };
        let dynamic = 64 + 56 * segments.len();
        put(32, 8, 64);
        put(54, 2, 56);
        put(56, 2, segments.len() as u64);
        for (index, kind) in segments.iter().enumerate() {
            let header = 64 + 56 * index;
            put(header, 4, *kind);
            put(header + 8, 8, dynamic as u64);
            put(header + 32, 8, 16 * tags.len() as u64);
            put(header + 48, 8, 0);
        }
        for (index, tag) in tags.iter().enumerate() {
            put(dynamic + 16 * index, 8, *tag);
            put(dynamic + 16 * index + 8, 8, 0);
        }
        bytes
    }

    #[test]
    fn interpreter_and_libraries_are_counted() {
        for (segments, tags, interpreter, libraries) in [
            (&[1, 1][..], &[][..], false, 0),
            (&[1, PT_DYNAMIC], &[5, 6, DT_NULL, DT_NEEDED], false, 0),
            (&[PT_INTERP, PT_DYNAMIC], &[DT_NEEDED, 5, DT_NEEDED, DT_NULL], true, 2),
            (&[PT_INTERP], &[], true, 0),
        ] {
            for big in [false, true] {
                let found = dependencies(&file(segments, tags, big));
                assert_eq!(
                    found,
                    Ok(Dependencies { interpreter, libraries }),
                    "{segments:?} {tags:?}"
                );
            }
        }
    }

    #[test]
    fn other_and_truncated_files_are_rejected() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01", b"\x7fELF\x02\x03"]
        {
            assert!(dependencies(bytes).is_err(), "{bytes:?}");
        }
        let whole = file(&[PT_DYNAMIC], &[DT_NEEDED, DT_NULL], false);
        for length in 0..whole.len() - 24 {
            assert!(dependencies(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn test_binary_is_linked_dynamically() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = dependencies(&own).unwrap();
        assert!(found.interpreter && found.libraries > 0, "{found:?}");
    }
}
