//! The encoding of what the cluster sends to its zygote: both are the same program, so fields simply
//! follow one another.

use std::ffi::CString;

/// A value that can be sent to the zygote.
pub(super) trait Wire: Sized {
    fn put(&self, to: &mut Vec<u8>);

    /// Returns `None` if the bytes end early, which they never do between two equal programs.
    fn get(from: &mut &[u8]) -> Option<Self>;
}

/// Implements [`Wire`] for a struct: its fields, one after another.
macro_rules! wire {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::runtime::wire::Wire for $name {
            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::runtime::wire::Wire::get(from)?),* })
            }
        }
    };
}
pub(super) use wire;

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Wire for $integer {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_ne_bytes());
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_ne_bytes(*bytes))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64);

impl Wire for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Some(u8::get(from)? == 1)
    }
}

impl Wire for CString {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes_with_nul());
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        let end = from.iter().position(|byte| *byte == 0)?;
        let (text, rest) = from.split_at_checked(end + 1)?;
        *from = rest;
        Self::from_vec_with_nul(text.to_vec()).ok()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u64).put(to);
        self.iter().for_each(|item| item.put(to));
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        (0..u64::get(from)?).map(|_| T::get(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        self.iter().for_each(|item| item.put(to));
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(from)? { Some(T::get(from)?) } else { None })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample {
        name: CString,
        list: Vec<(u16, bool)>,
        number: Option<u64>,
    }
    wire!(Sample { name, list, number });

    #[test]
    fn value_survives_the_trip_and_a_short_message_is_none() {
        let sent =
            Sample { name: c"a b".into(), list: vec![(7, true), (8, false)], number: Some(9) };
        let mut bytes = Vec::new();
        sent.put(&mut bytes);
        let mut rest = bytes.as_slice();
        let received = Sample::get(&mut rest).unwrap();
        assert_eq!(received.name, sent.name);
        assert_eq!((received.list, received.number), (sent.list, sent.number));
        assert!(rest.is_empty());
        assert!(Sample::get(&mut &bytes[..bytes.len() - 1]).is_none());
    }
}
