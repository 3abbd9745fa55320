//! The command line: one file each subcommand.

mod client;
mod edge;
mod limits;
mod logging;
mod output;
mod published;
mod reference;
mod serve;
mod shutdown;
mod status_file;

use clap::{CommandFactory, Parser, Subcommand};
use output::print;
use std::{io::Write, process::ExitCode};

/// A Kubernetes cluster in one process, for tests and labs, and the edge of external clusters.
/// Both listen on loopback addresses only.
#[derive(Debug, Parser)]
#[command(name = "kube-embedded", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (follows Kubernetes v",
    kube_embedded_core::kubernetes_minor_version!(),
    ")"
);

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Edge(edge::Edge),
    Published(published::Published),
    /// Print what differs from Kubernetes: what is refused, what is ignored, and which resources exist.
    ExplainLimits,
    /// Print a shell completion script.
    Completions {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff: `kube-embedded man | man -l -`.
    Man,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    // Wrong usage exits with 2, help and version with 0.
    match Cli::parse().command {
        Command::Serve(serve) => run(&serve.log.clone(), serve.run()),
        Command::Edge(edge) => run(&edge.log.clone(), edge.run()),
        Command::Published(published) => run(&<_>::default(), async {
            let all = published.run().await?;
            match print(format!("{all}\n").as_bytes()) {
                ExitCode::SUCCESS => Ok(()),
                _ => Err("failed to write to stdout".into()),
            }
        }),
        Command::ExplainLimits => print(limits::text().as_bytes()),
        Command::Completions { shell } => print(&reference::completions(shell, Cli::command())),
        Command::Man => print(&reference::man(Cli::command())),
    }
}

fn run(log: &logging::Options, work: impl Future<Output = Result<(), String>>) -> ExitCode {
    let result = logging::init(log).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("failed to start worker threads: {error}"))?;
        let result = runtime.block_on(work);
        // A thread that reads stdin would keep the runtime alive.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Not `eprintln!`, which panics where stderr is closed.
            let _ = writeln!(std::io::stderr(), "kube-embedded: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sandbox;
    use std::path::{Path, PathBuf};

    fn parse(line: &str) -> Result<Command, String> {
        let words = ["kube-embedded"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn command_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_flags_become_a_config() {
        let line = "serve --images a --images b --nodes 2 --sandbox plain --exit-with-stdin";
        let Ok(Command::Serve(serve)) = parse(line) else { panic!("{line}") };
        assert!(serve.exit_with_stdin && serve.kubeconfig.is_none());
        let config = serve.config();
        assert_eq!(config.images, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((config.nodes, config.sandbox), (2, Some(Sandbox::Plain)));
        assert!(config.load_balancers);
        let Ok(Command::Serve(serve)) = parse("serve --no-load-balancers") else { panic!() };
        assert!(!serve.config().load_balancers);
        assert_eq!(serve.config().sandbox, None);
    }

    #[test]
    fn edge_flags_become_options() {
        let line = "edge --kubeconfig k --published 30080=127.0.0.1:8080 --exit-with-stdin";
        let Ok(Command::Edge(edge)) = parse(line) else { panic!("{line}") };
        assert_eq!(edge.options().published[&30080], "127.0.0.1:8080".parse().unwrap());
        assert!(edge.exit_with_stdin);
        assert_eq!(edge.kubeconfig, Path::new("k"));
    }

    #[test]
    fn invalid_arguments_are_named_with_what_is_allowed() {
        for (line, expected) in [
            ("", "Usage: kube-embedded"),
            ("serv", "tip: a similar subcommand exists: 'serve'"),
            ("serve --nodes", "a value is required for '--nodes <N>'"),
            ("serve --nodes 0", "invalid value '0' for '--nodes <N>': 0 is not in 1..=100"),
            ("serve --sandbox x", "[possible values: auto, namespaced, plain]"),
            ("edge", "--kubeconfig <PATH>"),
            ("edge --kubeconfig k --published 80", "expected NODEPORT=IP:PORT, such as"),
            ("serve --imagse x", "tip: a similar argument exists: '--images'"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
