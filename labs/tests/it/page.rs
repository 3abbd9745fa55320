//! The page of `--ui`, driven in a real browser while phases run.

use crate::fixture::{Fixture, repository};
use std::fs;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_a_run_to_its_end_and_finds_the_next_one() {
    let browsers = ["chromium", "google-chrome"];
    let Some(browser) = browsers.into_iter().find(|b| test_support::runs(b, &["--version"])) else {
        return test_support::missing("chromium", "`apt-get install chromium`");
    };
    if !test_support::runs("python3", &["--version"]) {
        return test_support::missing("python3", "`apt-get install python3`");
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let environment = fixture.environment.kubeconfig.with_file_name("environment.json");
    let text = serde_json::to_string(&fixture.environment).expect("JSON");
    fs::write(&environment, text).expect("an environment");
    let mut command = Command::new("python3");
    command.arg(repository().join("labs/tests/page.py")).arg(browser);
    command.arg(env!("CARGO_BIN_EXE_labs")).arg(&environment).kill_on_drop(true);
    command.args(std::env::var_os("CANARY_SCREENSHOTS"));
    let output = command.output().await.expect("python3");
    cluster.stop().await;
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}{err}", String::from_utf8_lossy(out));
}
