//! The wire format of protobuf: numbered fields of four types.

/// An error in the encoding.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("unexpected end of input")]
    End,
    #[error("a number is longer than 64 bits")]
    Overflow,
    #[error("illegal tag {0}")]
    Tag(u64),
    #[error("illegal wire type {0}")]
    WireType(u64),
    #[error("wrong wire type for field {0}")]
    Form(&'static str),
    #[error("field {0} is not UTF-8")]
    Utf8(&'static str),
    #[error("field {0} is no JSON: {1}")]
    Json(&'static str, String),
    #[error("field {0} is a time out of range")]
    Time(&'static str),
    #[error("field {0} is nested too deeply")]
    Depth(&'static str),
}

/// The value of a field, before its type is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// 64 bits of fixed width: a double.
    Double(f64),
    /// 32 bits of fixed width, which Kubernetes' messages do not use.
    Fixed,
}

/// Reads the fields of one message, in the order of the bytes.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the number and the value of the next field; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or(Malformed::Tag(tag))?;
        let value = match tag & 7 {
            0 => Wire::Number(self.number()?),
            1 => {
                let mut bits = [0; 8];
                bits.copy_from_slice(self.take(8)?);
                Wire::Double(f64::from_le_bytes(bits))
            }
            2 => {
                let length = self.number()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed)?,
            other => return Err(Malformed::WireType(other)),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::End)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::End)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Decodes a varint.
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed::End)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Overflow);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Overflow)
    }
}

/// Decodes the numbers of a packed list.
pub(crate) fn packed(bytes: &[u8]) -> Result<Vec<u64>, Malformed> {
    let mut fields = Fields::new(bytes);
    let mut numbers = Vec::new();
    while !fields.rest.is_empty() {
        numbers.push(fields.number()?);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_field_is_rejected() {
        let all = |bytes: &[u8]| {
            let mut fields = Fields::new(bytes);
            std::iter::from_fn(|| fields.next().transpose())
                .map(|field| field.map(|(number, value)| format!("{number} {value:?}")))
                .collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(all(&[]), Ok(vec![]));
        assert_eq!(all(&[0x08, 0x96, 0x01]), Ok(vec!["1 Number(150)".into()]));
        assert_eq!(all(&[0x12, 1, b'a', 0x18, 0]).map(|all| all.len()), Ok(2));
        let minus_one = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(all(&minus_one), Ok(vec![format!("1 Number({})", u64::MAX)]));
        for (bytes, why) in [
            (&[0x08][..], Malformed::End),
            (&[0x12, 2, b'a'], Malformed::End),
            (&[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Malformed::End),
            (&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], Malformed::Overflow),
            (&[255; 12], Malformed::Overflow),
            (&[0x09, 1], Malformed::End),
            (&[0x0b], Malformed::WireType(3)),
            (&[0x00, 0], Malformed::Tag(0)),
        ] {
            assert_eq!(all(bytes), Err(why), "{bytes:?}");
        }
    }
}
