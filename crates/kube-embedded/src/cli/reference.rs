//! What is generated from the definition of the command line: completions and the manual page.

use super::Cli;
use clap::CommandFactory;

pub(super) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kube-embedded", &mut script);
    script
}

pub(super) fn man() -> Vec<u8> {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(Cli::command()).render(&mut page);
    page
}
