//! Output that is sent in chunks, as a watch is. An object that many clients watch is in memory once,
//! however many of them read slowly.

use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes of an object from which it is shared: a shorter one is cheaper to copy than to keep apart.
const SHARED: usize = 512;

/// Chunks that are complete, and the one that is written to.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    complete: VecDeque<Bytes>,
    open: BytesMut,
    len: usize,
}

impl Chunks {
    /// Appends a copy of the bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.open.put_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends the bytes without a copy, if they are many.
    pub(crate) fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED {
            return self.put(&bytes);
        }
        let before = self.take_open();
        self.complete.extend(before);
        self.len += bytes.len();
        self.complete.push_back(bytes);
    }

    /// Removes the first chunk.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.complete.pop_front().or_else(|| self.take_open())?;
        self.len -= chunk.len();
        Some(chunk)
    }

    /// Returns the bytes of all chunks.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn take_open(&mut self) -> Option<Bytes> {
        // Not split off: the rest of the buffer would be kept with the chunk.
        let open = std::mem::take(&mut self.open);
        (!open.is_empty()).then(|| open.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_objects_are_shared_and_everything_stays_in_order() {
        let object = Bytes::from(vec![b'x'; 600]);
        let mut chunks = Chunks::default();
        for text in ["a", "b"] {
            chunks.put(text.as_bytes());
            chunks.put_shared(object.clone());
            chunks.put_shared(Bytes::from_static(b"short"));
        }
        assert_eq!(chunks.len(), 2 * (1 + 600 + 5));
        let all: Vec<Bytes> = std::iter::from_fn(|| chunks.pop()).collect();
        let lens: Vec<usize> = all.iter().map(Bytes::len).collect();
        assert_eq!(lens, [1, 600, 6, 600, 5]);
        assert_eq!(&all[2][..], b"shortb");
        assert!([1, 3].iter().all(|n| all[*n].as_ptr() == object.as_ptr()));
        assert_eq!(chunks.len(), 0);
    }
}
