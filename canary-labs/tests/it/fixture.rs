//! A participant: the one file, an empty home, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository")
}

/// Stops the cluster and removes the folder when it is dropped.
pub(crate) struct Participant {
    pub(crate) home: PathBuf,
}

impl Participant {
    /// Packs the program; `None` where the images were not built, which is reported.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_canary-labs"));
        let built = program.ancestors().nth(2).expect("the target directory").join("images");
        let images = std::env::var_os("CANARY_IMAGES").map_or(built, PathBuf::from);
        if !images.join("stamp.json").is_file() {
            test_support::missing(
                "app-images",
                "run `cargo xtask images`, or set CANARY_IMAGES to their directory",
            );
            return None;
        }
        let folder = format!("canary-labs-{name}-{}", std::process::id());
        let participant = Self { home: std::env::temp_dir().join(folder) };
        fs::create_dir_all(participant.home.join("bin")).expect("a home");
        let mut pack = Command::new(program);
        pack.arg("pack").arg(repository()).arg(images).arg(participant.program());
        assert!(pack.status().expect("canary-labs").success());
        Some(participant)
    }

    fn program(&self) -> PathBuf {
        let moved = self.home.join("bin/moved/canary-labs");
        if moved.exists() { moved } else { self.home.join("bin/canary-labs") }
    }

    pub(crate) fn move_program(&self) {
        fs::create_dir(self.home.join("bin/moved")).expect("a folder");
        let to = self.home.join("bin/moved/canary-labs");
        fs::rename(self.home.join("bin/canary-labs"), to).expect("moved");
    }

    /// Returns a command in the home that knows only it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env_clear().env("HOME", &self.home).env("LANG", "C.UTF-8");
        command.env("PATH", format!("{}/bin:{path}", self.home.display()));
        command.current_dir(&self.home).stdin(Stdio::null());
        command
    }

    /// Runs the program, and returns its exit code and all that it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(self.program()).args(arguments).output().expect("canary-labs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        _ = self.command(self.program()).args(["down", "--yes"]).output();
        _ = fs::remove_dir_all(&self.home);
    }
}
