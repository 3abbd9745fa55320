//! Messages that carry descriptors, between processes that may not allocate (see [`super::sys`]).

use super::sys;
use libc::c_int;
use std::{mem, ptr};

/// Most descriptors that fit into one message (SCM_MAX_FD of Linux).
pub(super) const BATCH: usize = 253;

/// Room for the control message of a full batch, aligned as `cmsghdr` wants it.
#[repr(align(8))]
struct Control([u8; 64 + BATCH * 4]);

/// Sends a message; what was sent, or the error.
pub(super) fn send(socket: c_int, text: &[u8], fds: &[c_int]) -> Result<usize, c_int> {
    let mut control = Control([0; _]);
    // SAFETY: header, buffers and their sizes belong together, and live through the call.
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
    usize::try_from(sent).map_err(|_| sys::errno())
}

/// Receives a message: how much of the text and how many descriptors, which are the caller's. The
/// end of the connection is a message of nothing.
pub(super) fn receive(
    socket: c_int,
    text: &mut [u8],
    fds: &mut [c_int],
) -> Result<(usize, usize), c_int> {
    let mut control = Control([0; _]);
    let mut count = 0;
    // SAFETY: header, buffers and their sizes belong together; descriptors in a control message are
    // ours from the moment of the call.
    unsafe {
        let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        let read = libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC);
        let read = usize::try_from(read).map_err(|_| sys::errno())?;
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
                        // Nobody asked for it.
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
