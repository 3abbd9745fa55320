//! `clone(2)` in the two ways that the runtime starts processes: as `fork`, and as `vfork` onto a
//! stack of its own.
//!
//! `vfork` semantics (`CLONE_VM | CLONE_VFORK`): the child runs in the memory of its parent, and the
//! calling thread is suspended until the child calls `execve` or exits. Nothing is copied, so a start
//! costs the same in a process of 20 MiB and of 2 GiB. The price: whatever the child writes, the
//! parent sees, and whatever a signal handler does in the child, it does to the parent.

use libc::{c_int, c_void};
use std::{io, ptr};

/// `fork` with namespace flags, which libc's `fork` does not take.
///
/// # Safety
/// The child may only do what is safe after `fork` in a threaded process: no allocation, no locks.
/// Another thread may have held any lock at the time, and does not exist in the child to release it.
pub(super) unsafe fn clone(flags: c_int) -> libc::c_long {
    let flags = (flags | libc::SIGCHLD) as libc::c_long;
    // SAFETY: without CLONE_VM a null stack means a copy of the caller's, as for fork. All other
    // arguments are unused, so their order, which differs by architecture, does not matter.
    unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            0 as c_int as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
        )
    }
}

/// A stack for children that share the memory of their parent.
pub(super) struct Stack(*mut c_void);

// SAFETY: the pointer is to a mapping that this value alone owns, and the mapping is not bound to
// the thread that created it.
unsafe impl Send for Stack {}

impl Stack {
    /// Most of it is never touched and takes no memory.
    const SIZE: usize = 256 << 10;
    /// An inaccessible area below the stack, so that an overflow is a fault and not a write into
    /// someone's heap. As large as the largest page size of any supported machine.
    const GUARD: usize = 64 << 10;

    pub(super) fn new() -> io::Result<Self> {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing, and
        // the guard lies within it.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), Self::SIZE, access, kind, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self(start);
            if libc::mprotect(start, Self::GUARD, libc::PROT_NONE) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }

    /// The initial stack pointer: stacks grow downwards on all supported architectures.
    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and no child runs on it any more: the thread that
        // starts one is suspended until the child has left this memory.
        unsafe { libc::munmap(self.0, Self::SIZE) };
    }
}

/// The code of a child that shares the memory of its parent.
pub(super) trait ChildMain {
    fn run(&self) -> !;
}

/// `vfork` with namespace flags, onto another stack. The calling thread is suspended until the child
/// has executed a program or has exited.
///
/// # Safety
/// The child may write to its stack and nowhere else, and no other child may run on that stack at
/// the same time. All signals must be blocked, or a handler of the parent might run in the child, in
/// the parent's memory.
pub(super) unsafe fn clone_vfork<M: ChildMain>(
    stack: &Stack,
    flags: c_int,
    main: &M,
) -> libc::c_long {
    extern "C" fn begin<M: ChildMain>(main: *mut c_void) -> c_int {
        // SAFETY: made from the reference `main` below, which is valid for as long as the child
        // uses it, because the parent's thread is suspended until then.
        unsafe { &*main.cast_const().cast::<M>() }.run()
    }
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `stack.top()` is the end of a mapping that is large enough and page-aligned; the
    // caller guarantees that the child is alone on it and that signals are blocked.
    unsafe { libc::clone(begin::<M>, stack.top(), flags, ptr::from_ref(main).cast_mut().cast()) }
        .into()
}
