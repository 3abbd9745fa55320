//! `labs broken`.

use super::common::{block_on, print, read_environment};
use crate::broken::{self, Exercise};
use crate::run::{self, Exit};
use crate::step::Target;
use crate::wrap::{columns, wrap_lines};
use anyhow::{Context as _, bail};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[group(id = "action", multiple = false)]
struct Action {
    /// Judge whether it is fixed, and change nothing
    #[arg(long, requires = "number")]
    check: bool,
    /// Print a hint: 1 is the vaguest
    #[arg(long, value_name = "N", requires = "number", value_parser = clap::value_parser!(u8).range(1..=3))]
    hint: Option<u8>,
    /// Print the commands that fix it
    #[arg(long, requires = "number")]
    solution: bool,
}

#[derive(Args, Debug)]
pub(super) struct BrokenFlags {
    /// The exercise; without it, all are listed
    number: Option<usize>,
    #[command(flatten)]
    action: Action,
    /// The environment file that describes the cluster (written by `cargo xtask`)
    #[arg(long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// The namespace of the exercise; it is emptied when one starts
    #[arg(long, short, value_name = "NAME", default_value = "broken")]
    namespace: String,
    /// Take the exercises from this folder
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

impl BrokenFlags {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let exercises = broken::read(&self.from.clone().unwrap_or_else(broken::folder))?;
        let Some(number) = self.number else {
            let line = |(index, exercise): (usize, &Exercise)| {
                format!("{:>3}  {:<7} {}\n", index + 1, exercise.phase, exercise.title)
            };
            return Ok(print(&exercises.iter().enumerate().map(line).collect::<String>()));
        };
        let Some(exercise) = number.checked_sub(1).and_then(|index| exercises.get(index)) else {
            bail!("there is no exercise {number}; they are 1 to {}", exercises.len());
        };
        self.act(number, exercise)
    }

    fn act(&self, number: usize, exercise: &Exercise) -> anyhow::Result<Exit> {
        let path = self.environment.as_deref().context("--environment is missing")?;
        let environment = read_environment(path)?;
        let (name, environment) = (&*self.namespace, &environment);
        let solution =
            exercise.solution(Target { namespace: name, environment: Some(environment) });
        if self.action.solution {
            return Ok(print(&(solution.join("\n") + "\n")));
        }
        if let Some(depth) = self.action.hint {
            let hint = exercise.hints.get(usize::from(depth) - 1).cloned();
            let hint = hint.map(|hint| wrap_lines(&hint, 0, columns()));
            return Ok(print(&(hint.unwrap_or_else(|| solution.join("\n")) + "\n")));
        }
        block_on(async {
            let client = run::client(&environment.kubeconfig).await?;
            if self.action.check {
                let open = exercise.open(environment, client, name).await?;
                let exit = if open.is_empty() { Exit::Holds } else { Exit::Fails };
                let text = if open.is_empty() { "fixed".to_owned() } else { open.join("\n") };
                let text = wrap_lines(&text, 2, columns());
                print(&(text + "\n"));
                return Ok(exit);
            }
            exercise.start(environment, client, name).await?;
            let text = format!(
                "{number}. {}\n\n{}\n\nIt is in namespace `{name}`. Find the fault and fix it with \
                 kubectl.\n\n  $ cargo xtask broken {number} --check     # judges it\n  \
                 $ cargo xtask broken {number} --hint 1    # helps\n",
                exercise.title, exercise.symptom
            );
            Ok(print(&wrap_lines(&text, 0, columns())))
        })
    }
}
