//! Snapshots of what people read: help, tables and dry runs, with whatever varies replaced. To accept a change, rename
//! the `.snap.new` files, or run with `INSTA_UPDATE=always`.

use super::provider_fixture::{GKE, ProviderFixture};
use insta::{Settings, assert_snapshot};

const PROVIDERS: [(&str, &str); 6] = [
    ("embedded", "up"),
    ("kind", "up --on kind"),
    ("k3s", "up --on k3s"),
    ("minikube", "up --on minikube --image oldest"),
    ("gke", GKE),
    ("current", "up --on current --context mine --registry 127.0.0.1:5000/labs --edge"),
];

/// Runs a block with the directories, digests, times and process ids of this run replaced.
fn with_filters(fixture: &ProviderFixture, check: impl FnOnce()) {
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let root = fixture.base.folder.canonicalize().unwrap();
    for folder in [&root, &fixture.base.folder] {
        settings.add_filter(&regex_of(&folder.to_string_lossy()), "[ROOT]");
    }
    settings.add_filter(&regex_of(&fixture.socket().to_string_lossy()), "[SOCKET]");
    settings.add_filter(r"@sha256:[0-9a-f]{64}", "@[DIGEST]");
    settings.add_filter(r"sha256:[0-9a-f]{64}", "[DIGEST]");
    settings.add_filter(r", \d+ GB free", "");
    settings.add_filter(r"expires=\d+", "expires=[TIME]");
    settings.add_filter(r"kill -TERM \d+", "kill -TERM [PID]");
    settings.add_filter(r"process  \d+, up for \d+ s", "process  [PID], up for [AGE]");
    settings.add_filter(r"running for \d+ s", "running for [AGE]");
    settings.bind(check);
}

fn regex_of(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() { c.into() } else { format!("\\{c}") }).collect()
}

#[test]
fn help_of_every_command() {
    let fixture = ProviderFixture::new("help");
    with_filters(&fixture, || {
        for command in [
            "",
            "lab",
            "labs",
            "explain",
            "check",
            "watch",
            "broken",
            "up",
            "down",
            "status",
            "env",
            "images",
            "images build",
        ]
        .into_iter()
        .chain([
            "images load",
            "images push",
            "doctor",
            "ci",
            "conformance",
            "completions",
            "man",
            "package",
            "prefetch",
            "ui",
            "manifests",
            "book",
        ]) {
            let help = fixture.succeeds(format!("{command} --help").trim_start());
            let name = format!("help {command}");
            assert_snapshot!(name.trim_end().replace(' ', "-"), help);
        }
        // `kubectl --help` is kubectl's own.
        assert_snapshot!("help-kubectl", fixture.succeeds("help kubectl"));
    });
}

#[test]
fn dry_runs_of_every_provider() {
    let fixture = ProviderFixture::new("dry-runs");
    let mut ups = String::new();
    let mut downs = String::new();
    for (provider, up) in PROVIDERS {
        ups += &format!("# {provider}\n{}\n", fixture.succeeds(&format!("{up} --dry-run")));
        assert!(!fixture.recorded(provider), "{provider}");
        fixture.succeeds(&format!("{up}{}", if provider == "gke" { " --yes" } else { "" }));
        let before = (state(&fixture), fixture.base.alive("clusters"), fixture.base.alive("edges"));
        let _ = fixture.calls("");
        let down = format!("down --on {provider}");
        downs += &format!("# {provider}\n{}\n", fixture.succeeds(&format!("{down} --dry-run")));
        let after = (state(&fixture), fixture.base.alive("clusters"), fixture.base.alive("edges"));
        assert_eq!(before, after, "{provider}: a dry run changes nothing");
        assert!(!fixture.has_file("calls"), "{provider}: a dry run runs nothing");
        fixture.succeeds(&format!("status --on {provider}"));
        assert!(fixture.succeeds(&down).contains("down\n"), "{provider}");
        assert!(!fixture.recorded(provider), "{provider}");
        assert!(fixture.succeeds(&format!("{down} --dry-run")).contains("cluster is up"));
    }
    with_filters(&fixture, || {
        assert_snapshot!("up-dry-run", ups);
        assert_snapshot!("down-dry-run", downs);
    });
}

/// Returns what the fakes and `xtask` have stored.
fn state(fixture: &ProviderFixture) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![fixture.base.folder.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false if path.ends_with("calls") => {}
                false => files.push(path.to_string_lossy().into_owned()),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn status_of_running_clusters() {
    let fixture = ProviderFixture::new("status");
    fixture.succeeds("up");
    fixture.succeeds("up --on kind");
    let status = fixture.succeeds("status");
    let kind = fixture.succeeds("status --on kind");
    fixture.succeeds("down");
    fixture.succeeds("down --on kind");
    with_filters(&fixture, || {
        assert_snapshot!("status", status);
        assert_snapshot!("status-on-kind", kind);
    });
}

#[test]
fn doctor_table() {
    let fixture = ProviderFixture::new("doctor-table").without("kubectl");
    let tables = ["k3s", "gke", "current"].map(|on| fixture.run(&format!("doctor --on {on}")).1);
    with_filters(&fixture, || {
        let mut settings = Settings::clone_current();
        settings.add_filter(r"(ok  |note)  inotify     .*\n( {20}.*\n)*", "[INOTIFY]\n");
        settings.add_filter(r"(ok  |note)  connections .*\n( {20}.*\n)*", "[CONNECTIONS]\n");
        settings.bind(|| assert_snapshot!("doctor", tables.concat()));
    });
}
