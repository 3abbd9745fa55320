//! The page of `--ui` and `labs ui`, driven in a real browser.

use crate::fixture::{Fixture, ci_tool, repository};
use kube_embedded::{Cluster, Config};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Returns the browser, if all programs that the test needs are here.
fn browser() -> Option<&'static str> {
    let found = ["chromium", "google-chrome"];
    let found = found.into_iter().find(|browser| test_support::runs(browser, &["--version"]));
    if found.is_none() {
        test_support::missing("chromium", "`apt-get install chromium`");
    }
    if !test_support::runs("python3", &["--version"]) {
        test_support::missing("python3", "`apt-get install python3`");
        return None;
    }
    found
}

fn write_environment(fixture: &Fixture) -> PathBuf {
    let environment = fixture.environment.kubeconfig.with_file_name("environment.json");
    let text = serde_json::to_string(&fixture.environment).expect("JSON");
    fs::write(&environment, text).expect("an environment");
    environment
}

async fn drive(mode: &str, browser: &str, files: &[&Path]) {
    let mut command = Command::new("python3");
    command.arg(repository().join("labs/tests/page.py")).args([mode, browser]);
    command.arg(env!("CARGO_BIN_EXE_labs")).args(files).kill_on_drop(true);
    command.env("PYTHONDONTWRITEBYTECODE", "1").args(std::env::var_os("CANARY_SCREENSHOTS"));
    let output = command.output().await.expect("python3");
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}{err}", String::from_utf8_lossy(out));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_a_run_to_its_end_and_finds_the_next_one() {
    let Some(browser) = browser() else { return };
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    drive("run", browser, &[&write_environment(&fixture)]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_what_is_done_by_hand_and_follows_the_next_cluster() {
    let Some(browser) = browser() else { return };
    if !test_support::runs("kubectl", &["version", "--client"]) {
        return test_support::missing("kubectl", "see https://kubernetes.io/docs/tasks/tools/");
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let other = fixture.environment.kubeconfig.with_file_name("other");
    let config = Config { nodes: 2, ..Config::default() };
    let next = Cluster::start(config).await.expect("another cluster");
    fs::write(&other, next.kubeconfig()).expect("a kubeconfig");
    drive("hand", browser, &[&write_environment(&fixture), &other]).await;
    cluster.stop().await;
    next.stop().await;
}

/// Violations of axe-core, in light and dark, at 1280x720 and zoomed to 400%, and with the contrast of AAA.
#[tokio::test(flavor = "multi_thread")]
async fn page_report_and_room_are_accessible() {
    let Some(browser) = browser() else { return };
    let axe = ci_tool("npm/node_modules/axe-core/axe.min.js");
    if !axe.is_file() {
        return test_support::missing("axe-core", "`.ci/run` installs it");
    }
    // With a claim that fails, so that there is a diagnosis.
    let fixture = Fixture::new().with_embedded_timeouts();
    let fixture = fixture.set("lb/app-canary.yml", "/spec/replicas", json!(2));
    let cluster = fixture.cluster().await;
    let environment = write_environment(&fixture);
    let report = environment.with_file_name("report.html");
    drive("audit", browser, &[&environment, &axe, &report]).await;
    cluster.stop().await;
}
