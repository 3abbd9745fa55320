//! The message that asks the zygote for a pod's pause process.

use std::{io, net::Ipv4Addr, slice};

/// A pod whose pause process is wanted. Plain bytes without padding, sent as they are: the receiver
/// is a fork of the sender, and can neither allocate nor parse.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ForkRequest {
    pub(super) hostname: Text<256>,
    pub(super) uid_map: Text<32>,
    pub(super) gid_map: Text<32>,
    address: [u8; 4],
}

/// A string of at most `MAX` bytes, stored in place.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Text<const MAX: usize> {
    length: u32,
    bytes: [u8; MAX],
}

impl<const MAX: usize> Text<MAX> {
    const EMPTY: Self = Self { length: 0, bytes: [0; MAX] };

    fn new(text: &str) -> io::Result<Self> {
        let mut bytes = [0; MAX];
        let start = bytes.get_mut(..text.len()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is too long"))
        })?;
        start.copy_from_slice(text.as_bytes());
        Ok(Self { length: text.len() as u32, bytes })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or_default()
    }
}

impl ForkRequest {
    pub(super) const EMPTY: Self =
        Self { hostname: Text::EMPTY, uid_map: Text::EMPTY, gid_map: Text::EMPTY, address: [0; 4] };

    /// `user` and `group` are the ids that the pod's programs see. Outside the pod they map to the
    /// ids of this process: an ordinary user may map no other.
    pub(super) fn new(
        hostname: &str,
        address: Ipv4Addr,
        user: u32,
        group: u32,
    ) -> io::Result<Self> {
        // SAFETY: geteuid and getegid take no arguments and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Self {
            hostname: Text::new(hostname)?,
            uid_map: Text::new(&format!("{user} {uid} 1\n"))?,
            gid_map: Text::new(&format!("{group} {gid} 1\n"))?,
            address: address.octets(),
        })
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address.into()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `repr(C)` with members of alignment 4 and sizes that are multiples of 4 has no
        // padding, so all `size_of::<Self>()` bytes behind the reference are initialized.
        unsafe { slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and every member accepts any bit pattern, so whatever is written
        // through the slice leaves a valid value.
        unsafe { slice::from_raw_parts_mut((&raw mut *self).cast(), size_of::<Self>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_survives_the_trip_as_bytes() {
        let sent = ForkRequest::new("web-0", Ipv4Addr::new(10, 244, 1, 7), 65_532, 0).unwrap();
        let mut received = ForkRequest::EMPTY;
        received.bytes_mut().copy_from_slice(sent.bytes());
        assert_eq!(received.hostname.as_bytes(), b"web-0");
        assert!(received.uid_map.as_bytes().starts_with(b"65532 "));
        assert_eq!(received.address(), Ipv4Addr::new(10, 244, 1, 7));
    }

    #[test]
    fn hostname_that_does_not_fit_is_refused() {
        assert!(ForkRequest::new(&"x".repeat(257), Ipv4Addr::LOCALHOST, 0, 0).is_err());
    }
}
