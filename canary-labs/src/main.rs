//! All programs of this workspace in one file, with what they need: `cargo xtask package` makes it.
//!
//! It is called by three names. As `canary-labs` it has the commands of `cargo xtask`, on an installation instead of
//! a checkout; that installation has links to this very file by the names `labs` and `kube-embedded`.

mod installation;

use anyhow::{Context as _, bail};
use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// The command that a person types.
const PROGRAM: &str = "canary-labs";

fn main() -> ExitCode {
    let name = env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("kube-embedded") => kube_embedded::cli::main(),
        Some("labs") => labs_main(),
        _ => commands(),
    }
}

fn labs_main() -> ExitCode {
    labs::names::set_program(PROGRAM);
    labs::cli::main(env::args_os())
}

fn commands() -> ExitCode {
    let first = env::args_os().nth(1);
    match first.as_deref().and_then(OsStr::to_str) {
        // These need no cluster, and `cargo xtask` leaves them to the labs.
        Some(name) if labs::names::WITHOUT_CLUSTER.contains(&name) => return labs_main(),
        Some("pack") => return exit_of(pack()),
        _ => {}
    }
    match installation::open(env::current_exe) {
        Ok(folder) => {
            let commands = labs::cli::without_cluster();
            xtask::Installation { folder, program: PROGRAM, commands }.select();
            xtask::main()
        }
        Err(error) => exit_of(Err(error)),
    }
}

/// `canary-labs pack REPOSITORY IMAGES FILE`, which `cargo xtask package` runs.
fn pack() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args_os().skip(2).collect();
    let [repository, images, file] = arguments.as_slice() else {
        bail!("usage: canary-labs pack REPOSITORY IMAGES FILE");
    };
    let program = env::current_exe().context("failed to find this program's own file")?;
    installation::pack(&program, repository.as_ref(), images.as_ref(), file.as_ref())
}

fn exit_of(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(3)
        }
    }
}
