//! `kill -9` of any process of ours at random moments of a lab: what is left, what the next run does, and
//! which verdicts are given. Run it by hand:
//!
//!     SOAK_KILLS=200 cargo test -p xtask --test it soak -- --ignored --nocapture
//!
//! `SOAK_ROLE=Pod` kills only processes of that role.

use super::{
    folders, kill, processes_of,
    require::{images, require},
};
use std::{
    collections::BTreeMap,
    env, fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The moments of a kill, after the start of a run.
const SPAN: Duration = Duration::from_millis(8000);
/// The deadline of a run and of a cleanup, for a machine under load.
const DEADLINE: Duration = Duration::from_secs(240);

/// A process of a run, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Xtask,
    Labs,
    Cluster,
    /// The zygote, a pause process or a container.
    Pod,
}

const ROLES: [Role; 4] = [Role::Xtask, Role::Labs, Role::Cluster, Role::Pod];

/// xorshift64*: repeatable by SOAK_SEED, which is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Returns the words of a process' command line.
fn words(pid: &str) -> Vec<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).split('\0').map(Into::into).collect()
}

/// Returns the processes of the run by role. The cluster is the child of `xtask` among its processes.
fn processes(home: &Path) -> Vec<(Role, String)> {
    let program = |pid: &str| words(pid).first()?.rsplit('/').next().map(str::to_owned);
    let role = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?.to_owned();
        Some(match program(pid)?.as_str() {
            "xtask" => Role::Xtask,
            "labs" if words(pid).iter().any(|word| word == "run") => Role::Labs,
            "kube-embedded" if program(&parent).as_deref() == Some("xtask") => Role::Cluster,
            _ => Role::Pod,
        })
    };
    processes_of(home).into_iter().filter_map(|pid| Some((role(&pid)?, pid))).collect()
}

/// Links the programs, so that a build that runs meanwhile does not replace them.
fn link_programs(folder: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("debug")).unwrap();
    for program in ["xtask", "labs", "kube-embedded"] {
        fs::hard_link(built.join(program), folder.join("debug").join(program)).unwrap();
    }
    symlink(images(), folder.join("images")).unwrap();
}

fn xtask(home: &Path, line: &str) -> Command {
    let mut command = Command::new(home.with_file_name("debug").join("xtask"));
    command.args(line.split(' ')).env("CANARY_PREBUILT", "1").env("CANARY_HOME", home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads a stream to its end on a thread, as a full pipe would block its writer.
fn read(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        let _ = stream.map(|mut stream| stream.read_to_string(&mut text));
        text
    })
}

/// Waits for the run and returns its exit code and output. A signal is code -1; -2 is a run that hung and
/// was ended.
fn finish(mut child: Child) -> (i32, String) {
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let began = Instant::now();
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > DEADLINE && !hung {
            hung = true;
            kill("-TERM", &child);
        }
        thread::sleep(Duration::from_millis(10));
    };
    let code = if hung { -2 } else { status.code().unwrap_or(-1) };
    (code, stdout.join().unwrap() + &stderr.join().unwrap())
}

/// Waits until no process of the run is left and returns how long that took.
fn until_gone(home: &Path) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if processes_of(home).is_empty() {
            return Some(began.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}

#[test]
#[ignore = "takes minutes; see the top of this file"]
fn killed_processes_leave_nothing_and_spoil_no_verdict() {
    assert!(
        ["labs", "kube-embedded", "images"].into_iter().all(require),
        "needs a built workspace"
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (kills, seed) = (number("SOAK_KILLS", 20), number("SOAK_SEED", now | 1));
    println!("SOAK_SEED={seed}");
    let only = env::var("SOAK_ROLE").ok();
    let wanted = |role: &Role| only.as_ref().is_none_or(|only| *only == format!("{role:?}"));
    let roles: Vec<Role> = ROLES.into_iter().filter(wanted).collect();
    let mut random = Random(seed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xtask-soak");
    link_programs(&folder);
    let mut outcomes: BTreeMap<(Role, i32), u64> = BTreeMap::new();
    let (mut late, mut slowest, mut faults) = (0, Duration::ZERO, Vec::new());
    let mut done = 0;
    while done < kills {
        let home: PathBuf = folder.join(format!("home-{done}"));
        fs::create_dir_all(&home).unwrap();
        let child = xtask(&home, "lab phase4 --json").spawn().unwrap();
        thread::sleep(Duration::from_millis(random.below(SPAN.as_millis() as u64)));
        // Each role as often; there are many more pods than others.
        let role = roles[random.below(roles.len() as u64) as usize];
        let found = processes(&home);
        let victims: Vec<&String> =
            found.iter().filter(|(of, _)| *of == role).map(|(_, pid)| pid).collect();
        let victim = victims.get(random.below(victims.len() as u64) as usize).copied();
        let killed = victim.is_some_and(|pid| {
            Command::new("kill").args(["-KILL", pid]).status().is_ok_and(|status| status.success())
        });
        let (code, text) = finish(child);
        let gone = until_gone(&home);
        slowest = slowest.max(gone.unwrap_or(DEADLINE));
        late += u64::from(gone.is_none_or(|after| after > Duration::from_secs(1)));
        if !killed {
            // It was too early or too late for that role.
            let _ = fs::remove_dir_all(&home);
            continue;
        }
        done += 1;
        println!("{done}: {role:?} killed: exit {code}, all gone after {gone:?}");
        *outcomes.entry((role, code)).or_default() += 1;
        let expected: &[i32] = match role {
            Role::Xtask => &[-1],
            // 0: it had finished already.
            Role::Labs | Role::Cluster => &[0, 3],
            Role::Pod => &[0, 1, 3],
        };
        let last = text.lines().rev().take(4).collect::<Vec<_>>();
        if gone.is_none() || !expected.contains(&code) || text.contains("panicked") {
            faults.push(format!("{role:?} killed: exit {code}, gone after {gone:?}: {last:#?}"));
        } else if code == 1 {
            // A request that a killed program was serving is lost, so that its claim fails: it has to say why.
            let of = |event: &str| {
                text.lines().filter(move |line| line.contains(event)).collect::<Vec<_>>()
            };
            let (failed, diagnosed) = (of("\"fails\""), of("\"event\":\"diagnosis\""));
            println!("{role:?} killed: claims fail: {failed:#?}: {diagnosed:#?}");
            let of_pod = |line: &&str| {
                ["pod", "readiness"]
                    .iter()
                    .any(|layer| line.contains(&format!("\"layer\":\"{layer}\"")))
            };
            if !diagnosed.iter().any(of_pod) {
                faults.push(format!("{role:?} killed: no pod is blamed: {diagnosed:#?}"));
            }
        }
        let (code, text) = finish(xtask(&home, "lab phase0").spawn().unwrap());
        if code != 0 || folders(&home.join("runs")) != 0 || until_gone(&home).is_none() {
            faults.push(format!("after {role:?}: the next run exits with {code}: {text}"));
        }
        let _ = fs::remove_dir_all(&home);
    }
    let _ = fs::remove_dir_all(&folder);
    println!("{done} kills; by role and exit code: {outcomes:?}");
    println!("left after a second: {late} times; the slowest was gone after {slowest:?}");
    assert!(faults.is_empty(), "{faults:#?}");
}
