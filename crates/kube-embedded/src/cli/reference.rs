//! What is generated from the definition of the command line: completions and the manual page.

use clap::Command;
use clap_complete::{Shell, generate};

pub(super) fn completions(shell: Shell, mut command: Command) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut command, "kube-embedded", &mut script);
    script
}

pub(super) fn man(command: Command) -> Vec<u8> {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(command).render(&mut page);
    page
}
