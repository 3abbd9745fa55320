//! Fakes of the app. They are this test binary itself, started by a script, since no other program is
//! sure to be installed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Writes an executable script.
pub(crate) fn executable(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable script");
    path
}

/// Writes a script that runs [`never_healthy`] as that version.
pub(crate) fn script(folder: &Path, version: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let script = format!(
        "#!/bin/sh\nCANARY_FAKE={version} exec '{}' --exact fake_app::never_healthy --ignored\n",
        test.display()
    );
    executable(folder, &format!("fake-{version}"), &script)
}

/// Not a test but a program: the app with a `/health` that responds with 503.
#[test]
#[ignore = "a program that other tests start"]
fn never_healthy() {
    let (Ok(version), Ok(ip)) = (std::env::var("CANARY_FAKE"), std::env::var("POD_IP")) else {
        return;
    };
    let listener = TcpListener::bind(format!("{ip}:8080")).expect("the app's port");
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { continue };
        let mut request = String::new();
        let mut lines = BufReader::new(&connection);
        while lines.read_line(&mut request).is_ok_and(|n| n > 2) {}
        let (status, body) = match request.split_whitespace().nth(1) {
            Some("/version") => ("200 OK", format!("{version}\n")),
            Some("/health") => ("503 Service Unavailable", String::new()),
            _ => ("200 OK", format!("Version {version} of your app")),
        };
        let length = body.len();
        _ = write!(
            connection,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
    }
}
