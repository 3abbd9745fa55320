//! The system calls that have a name: their numbers, and which containers may make them by default.
//!
//! The default is that of containerd 2 on a current kernel: what is listed here is allowed, depending
//! on capabilities, and nothing else is.

use Allowed::{Always, Arguments, Never, OwnProcesses, With};

/// The containers that may make a system call by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Always,
    /// With this capability.
    With(&'static str),
    /// Where a container can reach no processes but its own, or with SYS_PTRACE.
    OwnProcesses,
    /// With some arguments.
    Arguments,
    Never,
}

/// A system call: its name, its number, and the containers that may make it.
pub(super) type Syscall = (&'static str, i64, Allowed);

/// The highest number that is listed here. Higher ones are system calls of kernels to come: programs
/// that try them expect that they may be missing.
pub(super) const LAST: i64 = 466;

/// Returns all system calls of this architecture.
pub(super) fn all() -> impl Iterator<Item = &'static Syscall> {
    COMMON.iter().chain(NEW).chain(ARCHITECTURE)
}

macro_rules! table {
    ($($allowed:expr => $($name:ident)*;)*) => {
        &[$($((stringify!($name).split_at(4).1, libc::$name, $allowed),)*)*]
    };
}

#[rustfmt::skip]
const COMMON: &[Syscall] = table! {
    Always =>
        SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir
        SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close
        SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1
        SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat
        SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate
        SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl
        SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr
        SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv
        SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid
        SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
        SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrusage SYS_getsid
        SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
        SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
        SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get SYS_ioprio_set
        SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self
        SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr
        SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create SYS_memfd_secret
        SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
        SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive
        SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv
        SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at
        SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal
        SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64
        SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64
        SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom
        SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat2
        SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask
        SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
        SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler
        SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
        SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop
        SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list
        SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer
        SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid
        SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt
        SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice SYS_statfs
        SYS_statx SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill
        SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
        SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill
        SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4
        SYS_waitid SYS_write SYS_writev;
    With("SYS_ADMIN") =>
        SYS_fanotify_init SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_lookup_dcookie
        SYS_mount SYS_mount_setattr SYS_move_mount SYS_open_tree SYS_quotactl SYS_quotactl_fd
        SYS_setdomainname SYS_sethostname SYS_setns SYS_umount2 SYS_unshare;
    With("DAC_READ_SEARCH") =>
        SYS_open_by_handle_at;
    With("SYS_BOOT") =>
        SYS_reboot;
    With("SYS_CHROOT") =>
        SYS_chroot;
    With("SYS_MODULE") =>
        SYS_delete_module SYS_finit_module SYS_init_module;
    With("SYS_PACCT") =>
        SYS_acct;
    With("SYS_PTRACE") =>
        SYS_kcmp SYS_pidfd_getfd SYS_process_madvise;
    With("SYS_TIME") =>
        SYS_clock_settime SYS_settimeofday;
    With("SYS_TTY_CONFIG") =>
        SYS_vhangup;
    With("SYS_NICE") =>
        SYS_get_mempolicy SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node;
    With("SYSLOG") =>
        SYS_syslog;
    With("BPF") =>
        SYS_bpf;
    With("PERFMON") =>
        SYS_perf_event_open;
    OwnProcesses =>
        SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace;
    Arguments =>
        SYS_clone SYS_personality SYS_socket;
    Never =>
        SYS_add_key SYS_clone3 SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup
        SYS_kexec_load SYS_keyctl SYS_migrate_pages SYS_move_pages SYS_nfsservctl SYS_pivot_root
        SYS_request_key SYS_swapoff SYS_swapon SYS_userfaultfd;
};

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ARCHITECTURE: &[Syscall] = table! {
    Always =>
        SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2
        SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd
        SYS_fchmodat2 SYS_fork SYS_futimesat SYS_get_thread_area SYS_getdents SYS_getpgrp
        SYS_getrlimit SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod
        SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_renameat
        SYS_rmdir SYS_select SYS_set_thread_area SYS_setrlimit SYS_signalfd SYS_stat SYS_symlink
        SYS_sync_file_range SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork;
    With("SYS_RAWIO") =>
        SYS_ioperm SYS_iopl;
    Never =>
        SYS__sysctl SYS_afs_syscall SYS_getpmsg SYS_kexec_file_load SYS_putpmsg SYS_security
        SYS_sysfs SYS_tuxcall SYS_uselib SYS_ustat SYS_vserver;
};
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &[Syscall] = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: &[Syscall] = &[];

/// Those of x86-64 above that aarch64 has too, though libc has no constants for most of them there.
#[cfg(any(test, target_arch = "aarch64"))]
const AARCH64: &[Syscall] = &[
    ("renameat", 38, Always),
    ("sync_file_range", 84, Always),
    ("getrlimit", 163, Always),
    ("setrlimit", 164, Always),
    ("kexec_file_load", 294, Never),
    ("fchmodat2", 452, Always),
];

/// System calls that libc has no constants for yet. Their numbers are the same on all architectures.
const NEW: &[Syscall] = &[
    ("cachestat", 451, Always),
    ("map_shadow_stack", 453, Always),
    ("futex_wake", 454, Always),
    ("futex_wait", 455, Always),
    ("futex_requeue", 456, Always),
    ("statmount", 457, Always),
    ("listmount", 458, Always),
    ("lsm_get_self_attr", 459, Always),
    ("lsm_set_self_attr", 460, Always),
    ("lsm_list_modules", 461, Always),
    ("setxattrat", 463, Always),
    ("getxattrat", 464, Always),
    ("listxattrat", 465, Always),
    ("removexattrat", 466, Always),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of x86-64 that the generic table of Linux lacks, which aarch64 has: newer calls do the same, or they
    /// concern the processor.
    #[rustfmt::skip]
    const X86_64_ONLY: [&str; 53] = [
        "_sysctl", "access", "afs_syscall", "alarm", "arch_prctl", "chmod", "chown", "creat",
        "dup2", "epoll_create", "epoll_ctl_old", "epoll_wait", "epoll_wait_old", "eventfd",
        "fork", "futimesat", "get_thread_area", "getdents", "getpgrp", "getpmsg", "inotify_init",
        "ioperm", "iopl", "lchown", "link", "lstat", "mkdir", "mknod", "modify_ldt", "open",
        "pause", "pipe", "poll", "putpmsg", "readlink", "rename", "rmdir", "security", "select",
        "set_thread_area", "signalfd", "stat", "symlink", "sysfs", "time", "tuxcall", "unlink",
        "uselib", "ustat", "utime", "utimes", "vfork", "vserver",
    ];

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn architectures_differ_by_what_one_of_them_lacks() {
        let of_x86: Vec<_> =
            ARCHITECTURE.iter().map(|(name, _, allowed)| (*name, *allowed)).collect();
        for (name, number, allowed) in AARCH64 {
            assert!(of_x86.contains(&(*name, *allowed)), "{name}");
            // The number is another one there, where it is from before both were given the same.
            let same = *number >= 424;
            let here = ARCHITECTURE.iter().find(|(known, _, _)| known == name).unwrap().1;
            assert_eq!(here == *number, same, "{name}");
        }
        let everywhere = |name: &str| AARCH64.iter().any(|(known, _, _)| *known == name);
        let mut only: Vec<_> =
            of_x86.iter().map(|(name, _)| *name).filter(|name| !everywhere(name)).collect();
        only.sort_unstable();
        assert_eq!(only, X86_64_ONLY);
    }
}
