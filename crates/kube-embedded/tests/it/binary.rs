//! The `kube-embedded` program.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-embedded");

fn serve(folder: &Path, more: &[&str]) -> (Child, Value) {
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--sandbox", "plain", "--nodes", "1", "--state"])
        .arg(folder)
        .arg("--kubeconfig")
        .arg(folder.join("config"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

/// A folder that goes when the test does, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder() -> Folder {
    let name = format!("binary-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    Folder(path)
}

#[test]
fn it_says_when_it_is_ready_and_ends_with_its_parent() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let (mut child, ready) = serve(folder.path(), &["--exit-with-stdin"]);
    assert_eq!(ready["ready"], true);
    assert!(ready["server"].as_str().unwrap().starts_with("https://127."));
    let config = folder.path().join("config");
    assert_eq!(ready["kubeconfig"], config.to_str().unwrap());
    let mode = config.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn it_ends_on_a_signal_and_clears_up_after_those_that_were_killed() {
    let folder = folder();
    let (mut killed, _) = serve(folder.path(), &[]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(std::fs::read_dir(folder.path()).unwrap().count() > 0);
    let (mut child, _) = serve(folder.path(), &[]);
    // SAFETY: the process is a child of this one that nobody has waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// In a user namespace in which no other may be made, as where an administrator forbids them.
#[test]
fn without_namespaces_pods_are_plain_processes_and_it_says_why() {
    let folder = folder();
    let script = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && exec '{PROGRAM}' serve --exit-with-stdin \
         --state '{}'",
        folder.path().display()
    );
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return test_support::missing("unshare", "`apt-get install util-linux` installs it");
    };
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    drop(child.stdin.take());
    let ended = child.wait().unwrap();
    if line.is_empty() {
        return test_support::missing("user-namespaces", &format!("unshare ended with {ended}"));
    }
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["sandbox"], "plain", "{ready}");
    let reason = ready["sandboxReason"].as_str().unwrap();
    assert!(reason.starts_with("namespaces do not work here: "), "{reason}");
    assert!(reason.contains("sudo sysctl user.max_user_namespaces=10000"), "{reason}");
    assert!(ended.success());
}

#[test]
fn it_explains_what_is_wrong() {
    let run = |arguments: &[&str]| {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    };
    let (code, text) = run(&["serv"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("a similar subcommand exists: 'serve'"), "{text}");
    let (code, text) = run(&["serve", "--sandbox", "plain", "--state", "/dev/null/x"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("failed to create a state directory in /dev/null/x"), "{text}");
    let (code, text) = run(&["serve", "--sandbox", "plain", "--images", "/no/such.tar"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("/no/such.tar"), "{text}");
}
