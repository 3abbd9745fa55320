//! `cargo xtask status`: the clusters that `up` made, at a glance. Exit code 3 when there is none.

use crate::{
    cluster::{self, PROVIDERS, Provider, outside::House},
    flags, kubectl,
    process::Signals,
    project::Project,
    running::Running,
};
use anyhow::Result;
use std::path::Path;

pub(crate) fn run(flags: &flags::Status) -> Result<()> {
    let project = Project::find()?;
    let home = project.home()?;
    if let Provider::Outside(provider) = cluster::provider(flags.on.as_deref())? {
        let house = House::of(&home, provider)?;
        let versions = house.versions(&Signals::block()?);
        if let Some(line) = house.tell()? {
            println!("{line}\n");
        }
        println!("{}", versions?);
        return Ok(());
    }
    let others = others(&home)?;
    for line in &others {
        println!("{line}");
    }
    match Running::expect(&project) {
        Err(_) if flags.on.is_none() && !others.is_empty() => Ok(()),
        running => embedded(&running?),
    }
}

/// A line for each cluster that `up --on` made.
fn others(home: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (name, provider) in PROVIDERS {
        if let Provider::Outside(provider) = provider
            && home.join("clusters").join(name).is_dir()
        {
            lines.extend(House::of(home, provider)?.tell()?);
        }
    }
    Ok(lines)
}

fn embedded(running: &Running) -> Result<()> {
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
