//! Who may do what: credentials for registries, on this machine and on the nodes, what `up` remembers
//! of them, and the rights to use an engine. Among the stand-ins of [`super::outside`].

use super::{
    ended, kill,
    outside::{GKE, Outside, which},
};
use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Command,
};

/// A registry that lets nobody in, or not to write, and Ctrl-C in the middle of an upload.
#[test]
fn a_push_that_is_refused_or_interrupted_is_told_and_leaves_no_file() {
    let outside = Outside::new("push");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    for (status, part) in [
        ("401", "127.0.0.1:5000 refuses the credentials (401); `docker login 127.0.0.1:5000`"),
        ("403", "127.0.0.1:5000 refuses the credentials (403); `docker login 127.0.0.1:5000`"),
    ] {
        outside.fails(lab, &[("STAND_IN_CURL", status)], 3, part);
    }
    let child = outside.hanging(lab, ("STAND_IN_CURL", "hangs"));
    kill("-INT", &child);
    let (code, text) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 130, "{text}");
    let left = fs::read_dir(outside.world.folder.join("images")).unwrap().flatten();
    let left: Vec<_> = left.map(|file| file.file_name()).collect();
    assert_eq!(left.len(), 4, "the two images, what is known of them and what was there: {left:?}");
    outside.well(lab);
}

/// From a file, from Docker's own configuration and from a program that keeps it: the labs are handed
/// a file with the credentials of that registry, and nothing else tells of them.
#[test]
fn the_nodes_of_a_private_registry_are_handed_what_pushes_use() {
    let outside = Outside::new("pull-secret");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let config = outside.world.folder.join("config.json");
    let handed = outside.world.folder.join("handed-over");
    let with = |source: &str| {
        let line = format!("{lab} --pull-secret {source}");
        outside.run_with(&line, &[("STAND_IN_LABS", "environment")])
    };
    let (code, text) = outside.run_with(lab, &[("STAND_IN_LABS", "environment")]);
    assert_eq!((code, text.contains(r#""pull_secret": null"#)), (0, true), "{text}");
    assert!(!handed.exists(), "nothing changes for who does not ask for it");

    outside.fails(
        &format!("{lab} --pull-secret login"),
        &[],
        3,
        "nobody has logged in to 127.0.0.1:5000 here: `docker login 127.0.0.1:5000` does",
    );
    let missing = format!("{lab} --pull-secret nowhere.json");
    outside.fails(&missing, &[], 2, "nowhere.json`: No such file");
    let stored = r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpzZXNhbWUtb3Blbg=="},"b.example":{"auth":"eDp5"}}}"#;
    let kept = r#"{"auths":{"127.0.0.1:5000":{}},"credsStore":"stand-in"}"#;
    let basic = r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpzZXNhbWUtb3Blbg=="}}}"#;
    let user = r#"{"auths":{"127.0.0.1:5000":{"password":"sesame-open","username":"u"}}}"#;
    for (source, docker, expected) in [
        ("login", stored, basic),
        ("login", kept, user),
        (&*config.to_string_lossy(), stored, basic),
    ] {
        fs::write(&config, docker).unwrap();
        let (code, text) = with(source);
        assert_eq!(code, 0, "{text}");
        assert_eq!(fs::read_to_string(&handed).unwrap(), expected);
        assert!(text.contains("/pull-secret.json\""), "{text}");
        let log = outside.world.folder.join("home/clusters/current/commands.log");
        let logged = fs::read_to_string(log).unwrap();
        assert!(logged.contains("curl --disable"), "{logged}");
        for word in ["sesame-open", "dTpzZXNhbWUtb3Blbg"] {
            assert!(!text.contains(word) && !logged.contains(word), "{word}: {text}\n{logged}");
        }
    }
    fs::write(&config, kept).unwrap();
    let file = format!("{lab} --pull-secret {}", config.display());
    outside.fails(
        &file,
        &[],
        2,
        "a credential helper keeps that, which `--pull-secret login` asks",
    );
}

/// An answer that breaks off and a helper that has nothing: why is told, and what was said so far is not.
#[test]
fn a_program_that_fails_in_the_middle_of_a_secret_does_not_tell_it() {
    let outside = Outside::new("cut-off");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let (code, text) = outside.run_with(lab, &[("STAND_IN_CURL", "cut-off")]);
    assert_eq!((code, text.contains("sesame-open")), (3, false), "{text}");
    assert!(text.contains("curl: (18) end of response with 879 bytes missing"), "{text}");
    let config = outside.world.folder.join("config.json");
    fs::write(config, r#"{"credHelpers":{"127.0.0.1:5001":"stand-in"}}"#).unwrap();
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5001/labs";
    let why = "credentials not found in native keychain";
    outside.fails(&format!("{lab} --pull-secret login"), &[], 3, why);
}

/// Before it costs money; and a name that leads nowhere is not remembered.
#[test]
fn credentials_that_are_not_there_are_told_before_anything_is_made() {
    let outside = Outside::new("no-credentials");
    let pushed = format!("{GKE} --yes --registry 127.0.0.1:5000/labs");
    for (flags, code, part) in [
        (&*format!("{GKE} --yes --pull-secret nowhere.json"), 2, "nowhere.json`: No such file"),
        (&*format!("{pushed} --pull-secret login"), 3, "nobody has logged in to 127.0.0.1:5000"),
    ] {
        outside.fails(flags, &[], code, part);
        assert!(!outside.there("cluster") && !outside.recorded("gke"), "{flags}");
    }
    outside.well(&format!("{GKE} --yes"));
    let nowhere = format!("{GKE} --yes --pull-secret nowhere.json");
    outside.fails(&nowhere, &[], 2, "nowhere.json`: No such file");
    outside.well("lab phase4 --on gke");
}

/// What `up` was told counts for the labs that follow, and a lab may take it back or choose for itself.
#[test]
fn choices_of_up_are_remembered() {
    let outside = Outside::new("choices");
    outside.well(&format!("{GKE} --yes"));
    let environment = [("STAND_IN_LABS", "environment")];
    let handed = outside.world.folder.join("handed-over");
    outside.well(&format!("{GKE} --yes --pull-secret login"));
    let (code, text) = outside.run_with("lab phase4 --on gke", &environment);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        fs::read_to_string(&handed).unwrap(),
        r#"{"auths":{"europe-west1-docker.pkg.dev":{"password":"token","username":"oauth2accesstoken"}}}"#
    );
    let (code, text) = outside.run_with("lab phase4 --on gke --pull-secret none", &environment);
    assert_eq!((code, text.contains(r#""pull_secret": null"#)), (0, true), "{text}");
    let class = |line: &str| {
        let (code, text) = outside.run_with(line, &environment);
        assert_eq!((code, text.contains("pull-secret.json")), (0, true), "{line}: {text}");
        let classes =
            [r#""ingress_class": "unnamed""#, r#""annotation": "gce""#, r#""field": "x""#];
        classes.map(|class| text.contains(class)).iter().position(|found| *found)
    };
    assert_eq!(class("lab phase4 --on gke"), Some(0));
    assert_eq!(class("lab phase4 --on gke --ingress-class gce"), Some(1));
    assert_eq!(class("lab phase4 --on gke"), Some(0), "a lab's own choice is for that lab");
    outside.well(&format!("{GKE} --yes --ingress-class gce"));
    assert_eq!(class("lab phase4 --on gke"), Some(1));
    assert_eq!(class("lab phase4 --on gke --ingress-class x"), Some(2));
    assert_eq!(class("lab phase4 --on gke --ingress-class none"), Some(0));
    let text = outside.well("lab phase4 --on gke --ingress-class gce-internal");
    assert!(text.contains("gke: an internal Ingress needs a proxy-only subnet"), "{text}");
}

/// Also where the cluster has to be made again, or was left half made: by `up` anew, by a lab as it was.
#[test]
fn choices_outlive_the_cluster_they_were_made_for() {
    let outside = Outside::new("choices-anew");
    let class = |line: &str, class: &str| {
        let (code, text) = outside.run_with(line, &[("STAND_IN_LABS", "environment")]);
        let found = text.contains(&format!(r#""field": "{class}""#));
        assert_eq!((code, found), (0, true), "{line}: {text}");
    };
    let mut child =
        outside.hanging("up --on kind --ingress-class x", ("STAND_IN_KIND", "create-hangs"));
    child.kill().unwrap();
    child.wait().unwrap();
    class("lab phase4 --on kind --ingress-class y", "y");
    class("lab phase4 --on kind", "x");

    let silent = [("STAND_IN_KUBECTL", "expired")];
    let (code, text) = outside.run_with("up --on kind --ingress-class z", &silent);
    assert_eq!((code, text.contains("making it anew")), (0, true), "{text}");
    class("lab phase4 --on kind", "z");
    outside.well("down --on kind");

    let kept = "lab phase4 --on kind --ingress-class x --keep";
    class(kept, "x");
    class("lab phase4 --on kind", "x");
}

/// The same for a context of the user's, which nothing lists: only the record tells of it, and a lab
/// that cannot reach it takes nothing away.
#[test]
fn choices_for_a_context_are_remembered_until_down() {
    let outside = Outside::new("context-choices");
    let edges = || outside.world.alive("edges");
    let environment = [("STAND_IN_LABS", "environment")];
    let up = "up --on current --context mine --registry 127.0.0.1:5000/a";
    outside.well(&format!("{up} --ingress-class nginx --edge"));
    assert_eq!(edges(), 1);
    let lab = |line: &str, parts: &[&str]| {
        let (code, text) = outside.run_with(line, &environment);
        assert_eq!((code, edges(), outside.recorded("current")), (0, 1, true), "{line}: {text}");
        for part in parts.iter().chain(&[r#""propagation": 0"#]) {
            assert!(text.contains(part), "{line}: {part}: {text}");
        }
    };
    let as_chosen = [r#""field": "nginx""#, r#""127.0.0.1:5000/a/kubeapp:1.0""#];
    lab("lab phase4 --on current", &as_chosen);
    lab("lab phase4 --on current --ingress-class x", &[r#""field": "x""#]);
    let there = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/b";
    lab(there, &[r#""field": "nginx""#, r#""127.0.0.1:5000/b/kubeapp:1.0""#]);
    lab("lab phase4 --on current", &as_chosen);
    let another = "lab phase4 --on current --context another --registry none";
    outside.fails(another, &[], 3, "a current cluster is up with context");

    let dead = outside.world.folder.join("dead");
    fs::write(&dead, "").unwrap();
    for line in ["lab phase4 --on current", up] {
        outside.fails(line, &[], 3, "the context is not reachable; check the network");
    }
    fs::remove_file(dead).unwrap();
    lab("lab phase4 --on current", &as_chosen);

    outside.well("up --on current --context mine --registry 127.0.0.1:5000/b");
    lab("lab phase4 --on current", &[r#""field": "nginx""#, r#""127.0.0.1:5000/b/kubeapp:1.0""#]);
    outside.well("down --on current");
    assert_eq!((edges(), outside.recorded("current")), (0, false));
    outside.fails("lab phase4 --on current", &[], 2, "which context?");

    fs::write(
        outside.world.folder.join("config.json"),
        r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpw"}}}"#,
    )
    .unwrap();
    outside.well(&format!("{up} --pull-secret login"));
    let there = "lab phase4 --on current --context mine --registry none";
    outside.fails(there, &[], 2, "`--pull-secret none` leaves out what `up` remembers");
    outside.well(&format!("{there} --pull-secret none"));
    outside.well("down --on current");

    outside.well(up);
    outside.well("lab phase4 --on current --edge");
    assert_eq!((edges(), outside.world.pids("edges").len()), (0, 2), "that of a lab goes with it");
}

/// As an ordinary user, who may not open the engine's socket.
#[test]
fn an_engine_that_this_user_may_not_use_is_told_with_what_mends_it() {
    let outside = Outside::new("denied");
    let (socket, home) =
        (outside.socket(), env::temp_dir().join(format!("canary-denied-{}", std::process::id())));
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
    // Root may open everything, so it becomes nobody here; any other user shuts itself out.
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    fs::set_permissions(&socket, fs::Permissions::from_mode(if root { 0o600 } else { 0 })).unwrap();
    for (line, provider) in [("up --on kind", "kind"), ("lab phase4 --on k3s", "k3s")] {
        let mut command = outside.command(line);
        command.env("CANARY_HOME", &home);
        if root {
            match as_nobody(&command) {
                Some(nobody) => command = nobody,
                None => return eprintln!("not tested: nobody else than root can run this here"),
            }
        }
        let (code, text) = ended(command.output().unwrap());
        assert_eq!(code, 3, "{text}");
        let said = format!("error: {provider}: engine: no rights to use the Docker engine at ");
        assert!(text.starts_with(&said), "{text}");
        assert!(
            text.ends_with("`sudo usermod --append --groups docker $USER` and a new login\n"),
            "{text}"
        );
    }
    let _ = fs::remove_dir_all(home);
}

/// The same command without root's rights, if that can be had.
fn as_nobody(command: &Command) -> Option<Command> {
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let runs = |program: &std::ffi::OsStr| {
        let mut test = Command::new("setpriv");
        test.args(words).arg(program).arg("--help");
        test.output().is_ok_and(|output| output.status.success())
    };
    if !runs(command.get_program()) {
        return None;
    }
    let mut nobody = Command::new(which("setpriv")?);
    nobody.args(words).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nobody.env(name, value),
            None => nobody.env_remove(name),
        };
    }
    Some(nobody)
}
