//! File descriptor passing (`SCM_RIGHTS`), between processes that may not allocate
//! ([`super::syscalls`]).

use super::syscalls;
use libc::c_int;
use std::{mem, ptr};

/// The most descriptors that one message can carry (`SCM_MAX_FD` of Linux).
pub(super) const MAX_FDS: usize = 253;

/// Room for the control message of [`MAX_FDS`] descriptors, aligned as `cmsghdr` requires.
#[repr(align(8))]
struct Control([u8; 64 + MAX_FDS * 4]);

/// Sends a message with descriptors, which the receiver gets copies of. Returns the number of bytes
/// sent, or the `errno`.
pub(super) fn send(socket: c_int, text: &[u8], fds: &[c_int]) -> Result<usize, c_int> {
    let mut control = Control([0; _]);
    // SAFETY: an all-zero msghdr is valid. Its pointers and lengths are those of `part`, `text` and
    // `control`, which outlive the call; sendmsg does not write through `iov_base`. CMSG_FIRSTHDR
    // returns null or a header within `control`, which has room for MAX_FDS descriptors, and callers
    // send at most as many.
    let sent = unsafe {
        let mut part =
            libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&header);
            if !first.is_null() {
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as _;
                ptr::copy_nonoverlapping(
                    fds.as_ptr().cast::<u8>(),
                    libc::CMSG_DATA(first),
                    size_of_val(fds),
                );
            }
        }
        libc::sendmsg(socket, &header, libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| syscalls::errno())
}

/// Receives a message. Returns the length of its text and the number of descriptors, which the
/// caller owns from then on, or the `errno`. A length of 0 is the end of the connection.
pub(super) fn receive(
    socket: c_int,
    text: &mut [u8],
    fds: &mut [c_int],
) -> Result<(usize, usize), c_int> {
    let mut control = Control([0; _]);
    let mut count = 0;
    // SAFETY: an all-zero msghdr is valid. Its pointers and lengths are those of `part`, `text` and
    // `control`, which outlive the call. The CMSG macros stay within the control length that the
    // kernel has written, and each descriptor in it was opened for this process by the call.
    unsafe {
        let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        let read = libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC);
        let read = usize::try_from(read).map_err(|_| syscalls::errno())?;
        let mut next = libc::CMSG_FIRSTHDR(&header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*next).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(next).cast::<c_int>();
                for n in 0..bytes / size_of::<c_int>() {
                    let fd = data.add(n).read_unaligned();
                    match fds.get_mut(count) {
                        Some(slot) => {
                            *slot = fd;
                            count += 1;
                        }
                        // Unexpected: closed, or it would leak.
                        None => {
                            libc::close(fd);
                        }
                    }
                }
            }
            next = libc::CMSG_NXTHDR(&header, next);
        }
        Ok((read, count))
    }
}
