//! Seccomp profiles as the OCI runtime specification has them, and their compilation.

use super::syscalls;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A default, and the system calls that are treated in another way.
pub(super) struct Profile {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
}

/// A system call, with arguments that all have to match.
pub(super) struct Rule {
    pub(super) number: i64,
    pub(super) action: Action,
    pub(super) arguments: Vec<Argument>,
}

pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) operator: SeccompCmpOp,
    pub(super) value: u64,
}

pub(super) type Action = SeccompAction;

impl Profile {
    /// Parses a profile in JSON. System calls that this architecture does not have are left out, as
    /// libseccomp does.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let errno = &json["defaultErrnoRet"];
        let default =
            action(&json["defaultAction"], errno).map_err(|e| format!("defaultAction: {e}"))?;
        for unsupported in ["listenerPath", "listenerMetadata"] {
            if !json[unsupported].is_null() {
                return Err(format!("{unsupported} is not supported; remove it"));
            }
        }
        let mut rules = Vec::new();
        for (index, entry) in json["syscalls"].as_array().into_iter().flatten().enumerate() {
            let failed = |e: String| format!("syscalls[{index}]: {e}");
            let action = action(&entry["action"], &entry["errnoRet"]).map_err(failed)?;
            for name in entry["names"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                let known = syscalls::all().find(|(known, _, _)| *known == name);
                let Some((_, number, _)) = known else { continue };
                let arguments = entry["args"].as_array().into_iter().flatten().map(argument);
                let arguments = arguments.collect::<Result<_, _>>().map_err(failed)?;
                rules.push(Rule { number: *number, action: action.clone(), arguments });
            }
        }
        Ok(Self { default, rules })
    }

    /// Compiles the profile. The compiler knows two actions a filter, but the kernel takes the most
    /// restrictive result of several filters: the last one separates what has a rule from what has
    /// none, and those before it restrict, for one action each.
    pub(super) fn compile(&self) -> Result<Vec<Vec<libc::sock_filter>>, String> {
        let mut others: Vec<&Action> = Vec::new();
        for Rule { action, .. } in &self.rules {
            if !others.contains(&action) && ![&Action::Allow, &self.default].contains(&action) {
                others.push(action);
            }
        }
        let mut filters = Vec::new();
        for action in others {
            let rules = self.rules.iter().filter(|rule| rule.action == *action);
            filters.push(filter(rules, Action::Allow, action.clone())?);
        }
        if self.default != Action::Allow {
            filters.push(self.allowing_filter()?);
        }
        Ok(filters)
    }
}

impl Profile {
    /// Returns the filter that separates what has a rule from what has none.
    fn allowing_filter(&self) -> Result<Vec<libc::sock_filter>, String> {
        let rules = || self.rules.iter().filter(|rule| rule.action != self.default);
        let by_number: BTreeSet<i64> =
            rules().filter(|rule| rule.arguments.is_empty()).map(|rule| rule.number).collect();
        let others = rules().filter(|rule| !by_number.contains(&rule.number));
        let mut program = Vec::new();
        if matches!(self.default, Action::Errno(_)) {
            program.extend(unknown_is_missing());
        }
        program.extend(allow_by_number(&by_number));
        program.extend(filter(others, self.default.clone(), Action::Allow)?);
        Ok(program)
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The architecture of the calls that a filter knows (`AUDIT_ARCH_*`).
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xC000_00B7;
#[cfg(target_arch = "riscv64")]
const OWN_ARCHITECTURE: u32 = 0xC000_00F3;
/// None: the compiler knows no other architecture either, and fails.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const OWN_ARCHITECTURE: u32 = 0;

/// Returns instructions to put before a filter: they allow system calls by their numbers, and leave all else to it.
///
/// The compiler has a test for each number, 1,600 instructions for the default profile. When a filter is installed, the kernel
/// runs it once for each number to know what it always allows: that takes 1.2 ms, longer than all else that a container needs of it.
/// Allowed numbers are few intervals.
fn allow_by_number(numbers: &BTreeSet<i64>) -> Vec<libc::sock_filter> {
    let mut intervals: Vec<(u32, u32)> = Vec::new();
    for number in numbers.iter().filter_map(|number| u32::try_from(*number).ok()) {
        match intervals.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => intervals.push((number, number)),
        }
    }
    let if_else = |code, k, [jt, jf]: [u8; 2]| libc::sock_filter { code, jt, jf, k };
    let plain = |code, k| if_else(code, k, [0, 0]);
    // From the end, so that the length of what is to be jumped over is known.
    let mut reversed = Vec::new();
    for (first, last) in intervals.into_iter().rev() {
        let rest = reversed.len() as u32;
        reversed.extend([
            plain(RETURN, libc::SECCOMP_RET_ALLOW),
            if_else(IF_GREATER, last, [1, 0]),
            // Less than this interval, and more than the one before.
            plain(JUMP, rest + 2),
            if_else(IF_AT_LEAST, first, [1, 0]),
        ]);
    }
    let rest = reversed.len() as u32;
    reversed.extend([
        plain(LOAD, NUMBER),
        // Of another architecture: the filter behind judges that.
        plain(JUMP, rest + 1),
        if_else(IF_EQUAL, OWN_ARCHITECTURE, [1, 0]),
        plain(LOAD, ARCHITECTURE),
    ]);
    reversed.reverse();
    reversed
}

/// Returns instructions to put before a filter: system calls that did not exist when the profile was
/// written are reported as missing, since programs then try another way. `EPERM` would be an error.
fn unknown_is_missing() -> [libc::sock_filter; 3] {
    let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    [
        libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: NUMBER },
        libc::sock_filter { code: IF_GREATER, jt: 0, jf: 1, k: syscalls::LAST as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: missing },
    ]
}

fn filter<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    otherwise: Action,
    matched: Action,
) -> Result<Vec<libc::sock_filter>, String> {
    let mut by_number: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for rule in rules {
        let of_call = by_number.entry(rule.number).or_default();
        if rule.arguments.is_empty() {
            always.push(rule.number);
            continue;
        }
        let conditions = rule.arguments.iter().map(|argument| {
            let Argument { index, operator, value } = argument;
            SeccompCondition::new(*index, SeccompCmpArgLen::Qword, operator.clone(), *value)
        });
        let conditions = conditions.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        of_call.push(SeccompRule::new(conditions).map_err(|e| e.to_string())?);
    }
    // A rule without arguments covers those that have some.
    for number in always {
        by_number.insert(number, Vec::new());
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(by_number, otherwise, matched, architecture);
    let program = filter.and_then(BpfProgram::try_from).map_err(|e| e.to_string())?;
    let instructions = program.iter();
    Ok(instructions
        .map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect())
}

fn action(name: &Value, errno: &Value) -> Result<Action, String> {
    let number = errno.as_u64().and_then(|n| u32::try_from(n).ok());
    Ok(match name.as_str().unwrap_or_default() {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(number.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_TRAP" => Action::Trap,
        _ => {
            return Err(format!(
                "action {name} is not supported; allowed are SCMP_ACT_ALLOW, _ERRNO, _KILL, \
                 _KILL_THREAD, _KILL_PROCESS, _LOG, _TRACE and _TRAP"
            ));
        }
    })
}

fn argument(json: &Value) -> Result<Argument, String> {
    let value = json["value"].as_u64().unwrap_or(0);
    let (operator, value) = match json["op"].as_str().unwrap_or_default() {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, value),
        // The mask comes first.
        "SCMP_CMP_MASKED_EQ" => {
            (SeccompCmpOp::MaskedEq(value), json["valueTwo"].as_u64().unwrap_or(0))
        }
        other => {
            return Err(format!(
                "args: op {other:?} is unknown; allowed are SCMP_CMP_NE, _LT, _LE, _EQ, _GE, _GT and _MASKED_EQ"
            ));
        }
    };
    let index = json["index"].as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 6);
    let index = index.ok_or_else(|| "args: index must be 0 to 5".to_owned())?;
    Ok(Argument { index, operator, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &[libc::sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        run_on(OWN_ARCHITECTURE, program, number, arguments)
    }

    /// Runs a filter as the kernel does, for the instructions that occur.
    fn run_on(
        architecture: u32,
        program: &[libc::sock_filter],
        number: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = vec![number, architecture, 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut value) = (0, 0);
        loop {
            let i = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                0x20 => value = data[i.k as usize / 4],
                0x05 => at += i.k as usize,
                0x15 => at += jump(value == i.k),
                0x25 => at += jump(value > i.k),
                0x35 => at += jump(value >= i.k),
                0x54 => value &= i.k,
                0x06 => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// Returns the most restrictive result of all filters: the smallest, for the actions used here.
    fn verdict(profile: &Profile, number: i64, first: u64) -> u32 {
        let filters = profile.compile().unwrap();
        let results = filters.iter().map(|f| run(f, number as u32, [first, 0, 0, 0, 0, 0]));
        results.min_by_key(|result| result & 0x7fff_0000).unwrap_or(libc::SECCOMP_RET_ALLOW)
    }

    const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;

    #[test]
    fn profile_of_the_specification_is_honored() {
        let profile = Profile::parse(
            r#"{ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                { "names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["write"], "action": "SCMP_ACT_LOG" },
                { "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7 },
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 255, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" }] } ] }"#,
        )
        .unwrap();
        let table = [
            (libc::SYS_read, 0, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_write, 0, libc::SECCOMP_RET_LOG),
            (libc::SYS_mkdirat, 0, ERRNO | 7),
            (libc::SYS_socket, 0x102, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_socket, 0x103, ERRNO | 38),
            (libc::SYS_keyctl, 0, ERRNO | 38),
        ];
        for (number, first, expected) in table {
            assert_eq!(verdict(&profile, number, first), expected, "{number}({first})");
        }
    }

    #[test]
    fn default_allow_restricts_what_is_named() {
        let profile = Profile::parse(
            r#"{ "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO" }] }"#,
        )
        .unwrap();
        assert_eq!(verdict(&profile, libc::SYS_mkdirat, 0), ERRNO | libc::EPERM as u32);
        assert_eq!(verdict(&profile, libc::SYS_keyctl, 0), libc::SECCOMP_RET_ALLOW);
    }

    /// The compiler alone is the reference.
    #[test]
    fn filter_by_intervals_judges_every_call_as_the_compiler_does() {
        let more = ["SYS_TIME".to_owned(), "SYS_PTRACE".to_owned()];
        let capabilities = crate::runtime::Capabilities::new;
        let strange = Profile::parse(
            r#"{ "defaultAction": "SCMP_ACT_KILL", "syscalls": [
                { "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] },
                { "names": ["write", "socket", "read", "execve"], "action": "SCMP_ACT_LOG" } ] }"#,
        );
        let none = Profile { default: Action::Errno(1), rules: Vec::new() };
        for profile in [
            super::super::default_profile(capabilities(&[], &[]).unwrap(), true),
            super::super::default_profile(capabilities(&more, &[]).unwrap(), false),
            strange.unwrap(),
            none,
        ] {
            let rules = profile.rules.iter().filter(|rule| rule.action != profile.default);
            let mut reference = filter(rules, profile.default.clone(), Action::Allow).unwrap();
            if matches!(profile.default, Action::Errno(_)) {
                reference.splice(0..0, unknown_is_missing());
            }
            let by_intervals = profile.allowing_filter().unwrap();
            // In x32, of the same architecture, numbers have a high bit.
            let numbers = (0..=syscalls::LAST as u32 + 9).chain(0x4000_0000..0x4000_0230);
            for number in numbers.chain([u32::MAX, i32::MAX as u32]) {
                for first in [0, 1, 8, 40, 0x2_0008, 0x1000_0000, 0x7e02_0000, u64::MAX] {
                    for architecture in [OWN_ARCHITECTURE, 0x4000_0003, 0] {
                        let judge = |program: &[libc::sock_filter]| {
                            run_on(architecture, program, number, [first, 0, 0, 0, 0, 0])
                        };
                        let (found, expected) = (judge(&by_intervals), judge(&reference));
                        assert_eq!(found, expected, "{architecture:x}: {number}({first})");
                    }
                }
            }
        }
    }

    #[test]
    fn default_filter_is_quick_to_install() {
        let profile = super::super::default_profile(crate::runtime::Capabilities::default(), true);
        let length = profile.allowing_filter().unwrap().len();
        assert!(length < 350, "{length} instructions");
    }

    #[test]
    fn default_of_the_runtime_judges_by_arguments() {
        let capabilities = crate::runtime::Capabilities::default();
        let profile = super::super::default_profile(capabilities, true);
        let refused = ERRNO | libc::EPERM as u32;
        let missing = ERRNO | libc::ENOSYS as u32;
        let allowed = libc::SECCOMP_RET_ALLOW;
        let table = [
            (libc::SYS_clone, libc::SIGCHLD as u64, allowed),
            (libc::SYS_clone, libc::CLONE_NEWUSER as u64, refused),
            (libc::SYS_unshare, 0, refused),
            (libc::SYS_personality, 0, allowed),
            (libc::SYS_personality, 0x4_0000, refused),
            (libc::SYS_socket, libc::AF_INET as u64, allowed),
            (libc::SYS_socket, libc::AF_VSOCK as u64, refused),
            (libc::SYS_keyctl, 0, refused),
            (libc::SYS_execve, 0, allowed),
            (syscalls::LAST + 1, 0, missing),
        ];
        for (number, first, expected) in table {
            assert_eq!(verdict(&profile, number, first), expected, "{number}({first})");
        }
        let filters = profile.compile().unwrap();
        let clone3: Vec<_> =
            filters.iter().map(|f| run(f, libc::SYS_clone3 as u32, [0; 6])).collect();
        assert_eq!(clone3, [missing, allowed]);
    }
}
