//! `cargo xtask status`: the cluster that `up` started, at a glance. Exit code 3 when none runs.

use crate::{kubectl, project::Project, running::Running};
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    let running = Running::expect(&Project::find()?)?;
    let about = &running.about;
    let api = kubectl::output(about, &["get", "--raw", "/readyz"]);
    println!("API      {}, {}", about.server, api.unwrap_or_else(|error| format!("{error:#}")));
    println!("process  {}, up for {}", about.pid, age(about.age().as_secs()));
    println!("sandbox  {}", about.sandbox);
    for (name, digest) in &about.images {
        println!("image    {name}  {digest}");
    }
    println!("config   {}", about.kubeconfig.display());
    match kubectl::output(about, &["get", "nodes"]) {
        Ok(nodes) => println!("\n{nodes}"),
        Err(error) => println!("nodes    {error:#}"),
    }
    Ok(())
}

fn age(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_readable() {
        assert_eq!([59, 61, 3600, 7325].map(age), ["59 s", "1 min 1 s", "1 h 0 min", "2 h 2 min"]);
    }
}
