//! Credentials for registries, on this machine and on the nodes, what `up` records of them, and access to
//! the Docker socket, with the fakes of [`super::provider_fixture`].

use super::{
    exit, kill,
    provider_fixture::{GKE, ProviderFixture, which},
    require::skip,
};
use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Command,
};

/// A registry that rejects the credentials, or the upload, and Ctrl-C in the middle of an upload.
#[test]
fn rejected_or_interrupted_push_is_reported_and_leaves_no_file() {
    let fixture = ProviderFixture::new("push");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    for (status, part) in [
        ("401", "127.0.0.1:5000 rejected the credentials (401); `docker login 127.0.0.1:5000`"),
        ("403", "127.0.0.1:5000 rejected the credentials (403); `docker login 127.0.0.1:5000`"),
    ] {
        fixture.fails(lab, &[("FAKE_CURL", status)], 3, part);
    }
    let child = fixture.hanging(lab, ("FAKE_CURL", "hangs"));
    kill("-INT", &child);
    let (code, text) = exit(child.wait_with_output().unwrap());
    assert_eq!(code, 130, "{text}");
    let left = fs::read_dir(fixture.base.folder.join("images")).unwrap().flatten();
    let left: Vec<_> = left.map(|file| file.file_name()).collect();
    assert_eq!(left.len(), 4, "the two images, their stamp and the file of the fixture: {left:?}");
    fixture.succeeds(lab);
}

/// From a file, from Docker's configuration and from a credential helper: the labs get a file with the
/// credentials of that registry, and they appear nowhere else.
#[test]
fn nodes_get_the_credentials_of_pushes_and_nothing_leaks() {
    let fixture = ProviderFixture::new("pull-secret");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let config = fixture.base.folder.join("config.json");
    let handed = fixture.base.folder.join("handed-over");
    let with = |source: &str| {
        let line = format!("{lab} --pull-secret {source}");
        fixture.run_with(&line, &[("FAKE_LABS", "environment")])
    };
    let (code, text) = fixture.run_with(lab, &[("FAKE_LABS", "environment")]);
    assert_eq!((code, text.contains(r#""pull_secret": null"#)), (0, true), "{text}");
    assert!(!handed.exists(), "only on request");

    fixture.fails(
        &format!("{lab} --pull-secret login"),
        &[],
        3,
        "there are no stored credentials for 127.0.0.1:5000; `docker login 127.0.0.1:5000` stores some",
    );
    let missing = format!("{lab} --pull-secret nowhere.json");
    fixture.fails(&missing, &[], 2, "nowhere.json`: No such file");
    let stored = r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpzZXNhbWUtb3Blbg=="},"b.example":{"auth":"eDp5"}}}"#;
    let kept = r#"{"auths":{"127.0.0.1:5000":{}},"credsStore":"fake"}"#;
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
        let log = fixture.base.folder.join("home/clusters/current/commands.log");
        let logged = fs::read_to_string(log).unwrap();
        assert!(logged.contains("curl --disable"), "{logged}");
        for word in ["sesame-open", "dTpzZXNhbWUtb3Blbg"] {
            assert!(!text.contains(word) && !logged.contains(word), "{word}: {text}\n{logged}");
        }
    }
    fs::write(&config, kept).unwrap();
    let file = format!("{lab} --pull-secret {}", config.display());
    fixture.fails(
        &file,
        &[],
        2,
        "a credential helper stores it, which `--pull-secret login` queries",
    );
}

/// A truncated response and a helper without credentials: the error is reported, the output is not.
#[test]
fn truncated_secret_is_not_in_the_error() {
    let fixture = ProviderFixture::new("cut-off");
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let (code, text) = fixture.run_with(lab, &[("FAKE_CURL", "cut-off")]);
    assert_eq!((code, text.contains("sesame-open")), (3, false), "{text}");
    assert!(text.contains("curl: (18) end of response with 879 bytes missing"), "{text}");
    let config = fixture.base.folder.join("config.json");
    fs::write(config, r#"{"credHelpers":{"127.0.0.1:5001":"fake"}}"#).unwrap();
    let lab = "lab phase4 --on current --context mine --registry 127.0.0.1:5001/labs";
    let why = "credentials not found in native keychain";
    fixture.fails(&format!("{lab} --pull-secret login"), &[], 3, why);
}

/// Before anything costs money; and a path to nowhere is not recorded.
#[test]
fn missing_credentials_are_reported_before_creation() {
    let fixture = ProviderFixture::new("no-credentials");
    let pushed = format!("{GKE} --yes --registry 127.0.0.1:5000/labs");
    for (flags, code, part) in [
        (&*format!("{GKE} --yes --pull-secret nowhere.json"), 2, "nowhere.json`: No such file"),
        (&*format!("{pushed} --pull-secret login"), 3, "no stored credentials for 127.0.0.1:5000"),
    ] {
        fixture.fails(flags, &[], code, part);
        assert!(!fixture.has_file("cluster") && !fixture.recorded("gke"), "{flags}");
    }
    fixture.succeeds(&format!("{GKE} --yes"));
    let nowhere = format!("{GKE} --yes --pull-secret nowhere.json");
    fixture.fails(&nowhere, &[], 2, "nowhere.json`: No such file");
    fixture.succeeds("lab phase4 --on gke");
}

/// Overrides of `up` apply to the labs that follow, and a lab may unset or replace them for itself.
#[test]
fn overrides_of_up_are_recorded() {
    let fixture = ProviderFixture::new("overrides");
    fixture.succeeds(&format!("{GKE} --yes"));
    let environment = [("FAKE_LABS", "environment")];
    let handed = fixture.base.folder.join("handed-over");
    fixture.succeeds(&format!("{GKE} --yes --pull-secret login"));
    let (code, text) = fixture.run_with("lab phase4 --on gke", &environment);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        fs::read_to_string(&handed).unwrap(),
        r#"{"auths":{"europe-west1-docker.pkg.dev":{"password":"token","username":"oauth2accesstoken"}}}"#
    );
    let (code, text) = fixture.run_with("lab phase4 --on gke --pull-secret none", &environment);
    assert_eq!((code, text.contains(r#""pull_secret": null"#)), (0, true), "{text}");
    let class = |line: &str| {
        let (code, text) = fixture.run_with(line, &environment);
        assert_eq!((code, text.contains("pull-secret.json")), (0, true), "{line}: {text}");
        let classes =
            [r#""ingress_class": "unnamed""#, r#""annotation": "gce""#, r#""field": "x""#];
        classes.map(|class| text.contains(class)).iter().position(|found| *found)
    };
    assert_eq!(class("lab phase4 --on gke"), Some(0));
    assert_eq!(class("lab phase4 --on gke --ingress-class gce"), Some(1));
    assert_eq!(class("lab phase4 --on gke"), Some(0), "an override of a lab applies to that lab");
    fixture.succeeds(&format!("{GKE} --yes --ingress-class gce"));
    assert_eq!(class("lab phase4 --on gke"), Some(1));
    assert_eq!(class("lab phase4 --on gke --ingress-class x"), Some(2));
    assert_eq!(class("lab phase4 --on gke --ingress-class none"), Some(0));
    let text = fixture.succeeds("lab phase4 --on gke --ingress-class gce-internal");
    assert!(text.contains("gke: an internal Ingress needs a proxy-only subnet"), "{text}");
}

/// Also if the cluster has to be recreated or is incomplete: `up` replaces them, a lab keeps them.
#[test]
fn overrides_outlive_the_cluster() {
    let fixture = ProviderFixture::new("overrides-recreated");
    let class = |line: &str, class: &str| {
        let (code, text) = fixture.run_with(line, &[("FAKE_LABS", "environment")]);
        let found = text.contains(&format!(r#""field": "{class}""#));
        assert_eq!((code, found), (0, true), "{line}: {text}");
    };
    let mut child =
        fixture.hanging("up --on kind --ingress-class x", ("FAKE_KIND", "create-hangs"));
    child.kill().unwrap();
    child.wait().unwrap();
    class("lab phase4 --on kind --ingress-class y", "y");
    class("lab phase4 --on kind", "x");

    let silent = [("FAKE_KUBECTL", "expired")];
    let (code, text) = fixture.run_with("up --on kind --ingress-class z", &silent);
    assert_eq!((code, text.contains("recreating it")), (0, true), "{text}");
    class("lab phase4 --on kind", "z");
    fixture.succeeds("down --on kind");

    let kept = "lab phase4 --on kind --ingress-class x --keep";
    class(kept, "x");
    class("lab phase4 --on kind", "x");
}

/// Of a user's context there is only the record, and a lab that cannot reach the cluster does not remove
/// it.
#[test]
fn overrides_of_a_context_are_recorded_until_down() {
    let fixture = ProviderFixture::new("context-overrides");
    let edges = || fixture.base.alive("edges");
    let environment = [("FAKE_LABS", "environment")];
    let up = "up --on current --context mine --registry 127.0.0.1:5000/a";
    fixture.succeeds(&format!("{up} --ingress-class nginx --edge"));
    assert_eq!(edges(), 1);
    let lab = |line: &str, parts: &[&str]| {
        let (code, text) = fixture.run_with(line, &environment);
        assert_eq!((code, edges(), fixture.recorded("current")), (0, 1, true), "{line}: {text}");
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
    fixture.fails(another, &[], 3, "the current cluster is up with context");

    let dead = fixture.base.folder.join("dead");
    fs::write(&dead, "").unwrap();
    for line in ["lab phase4 --on current", up] {
        fixture.fails(line, &[], 3, "the context is not reachable; check the network");
    }
    fs::remove_file(dead).unwrap();
    lab("lab phase4 --on current", &as_chosen);

    fixture.succeeds("up --on current --context mine --registry 127.0.0.1:5000/b");
    lab("lab phase4 --on current", &[r#""field": "nginx""#, r#""127.0.0.1:5000/b/kubeapp:1.0""#]);
    fixture.succeeds("down --on current");
    assert_eq!((edges(), fixture.recorded("current")), (0, false));
    fixture.fails("lab phase4 --on current", &[], 2, "current requires `--context <name>`");

    fs::write(
        fixture.base.folder.join("config.json"),
        r#"{"auths":{"127.0.0.1:5000":{"auth":"dTpw"}}}"#,
    )
    .unwrap();
    fixture.succeeds(&format!("{up} --pull-secret login"));
    let there = "lab phase4 --on current --context mine --registry none";
    fixture.fails(there, &[], 2, "`--pull-secret none` unsets the one that `up` recorded");
    fixture.succeeds(&format!("{there} --pull-secret none"));
    fixture.succeeds("down --on current");

    fixture.succeeds(up);
    fixture.succeeds("lab phase4 --on current --edge");
    assert_eq!(
        (edges(), fixture.base.pids("edges").len()),
        (0, 2),
        "the edge of a lab is ephemeral"
    );
}

/// As an ordinary user who may not open the socket of the engine.
#[test]
fn permission_denied_on_docker_socket_suggests_fix() {
    let fixture = ProviderFixture::new("denied");
    let (socket, home) =
        (fixture.socket(), env::temp_dir().join(format!("canary-denied-{}", std::process::id())));
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
    // Root may open everything, so the command runs as another user; any other user locks itself out.
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    fs::set_permissions(&socket, fs::Permissions::from_mode(if root { 0o600 } else { 0 })).unwrap();
    for (line, provider) in [("up --on kind", "kind"), ("lab phase4 --on k3s", "k3s")] {
        let mut command = fixture.command(line);
        command.env("CANARY_HOME", &home);
        if root {
            match unprivileged(&command) {
                Some(unprivileged) => command = unprivileged,
                None => return skip("setpriv"),
            }
        }
        let (code, text) = exit(command.output().unwrap());
        assert_eq!(code, 3, "{text}");
        let expected =
            format!("error: {provider}: engine: permission denied on the Docker socket ");
        assert!(text.starts_with(&expected), "{text}");
        assert!(
            text.ends_with("`sudo usermod --append --groups docker $USER` and a new login\n"),
            "{text}"
        );
    }
    let _ = fs::remove_dir_all(home);
}

/// Returns the same command without the rights of root, if setpriv can drop them.
fn unprivileged(command: &Command) -> Option<Command> {
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let runs = |program: &std::ffi::OsStr| {
        let mut test = Command::new("setpriv");
        test.args(words).arg(program).arg("--help");
        test.output().is_ok_and(|output| output.status.success())
    };
    if !runs(command.get_program()) {
        return None;
    }
    let mut unprivileged = Command::new(which("setpriv")?);
    unprivileged.args(words).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => unprivileged.env(name, value),
            None => unprivileged.env_remove(name),
        };
    }
    Some(unprivileged)
}
