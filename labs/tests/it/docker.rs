//! The images with a Docker engine, as people use them without these labs: loaded, built and run by
//! the `docker` command. Where no engine answers there is nothing to test.

use crate::{archives, world::World, world::repository};
use labs::sample::Sampler;
use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

#[tokio::test]
async fn both_archives_load_and_run() {
    if !answers() {
        return;
    }
    for version in ["1.0", "2.0"] {
        let image = archives::image(version);
        let _tag = Tag::of(&image.manifest_name);
        let archive = image.archive.to_str().expect("a path in UTF-8");
        let said = docker(&["load", "--input", archive]);
        assert!(said.ends_with(&image.manifest_name), "{said}");
        assert_eq!(Container::run(&image.manifest_name).version().await, format!("{version}\n"));
    }
}

#[tokio::test]
async fn a_build_argument_picks_the_version() {
    if !answers() {
        return;
    }
    let name = format!("canary-labs-test-{:x}:2.0", rand::random::<u64>());
    let _tag = Tag::of(&name);
    let file = repository().join("app/Dockerfile");
    let image = archives::image("2.0");
    let context = image.archive.parent().and_then(Path::to_str).expect("a path in UTF-8");
    let file = file.to_str().expect("a path in UTF-8");
    let recipe = ["--build-arg", "version=2.0", "--file", file, "--tag", &name, context];
    docker(&[&["build"][..], &recipe].concat());
    assert_eq!(Container::run(&name).version().await, "2.0\n");
}

#[tokio::test]
async fn the_report_tells_who_ran_the_images() {
    if !answers() {
        return;
    }
    let mut world = World::new();
    world.environment.docker = true;
    let played = world.play("phase2").await;
    played.fails(&[]);
    let by = if cfg!(feature = "docker") {
        "run by the Docker engine: "
    } else {
        "run by the cluster, as these labs were built without their feature `docker`"
    };
    let evidence = played.evidence("image-runs");
    assert!(evidence.starts_with(by), "{evidence}");
}

fn answers() -> bool {
    let mut command = Command::new("docker");
    command.args(["version", "--format", "{{.Server.Version}}"]);
    let answers = command.output().is_ok_and(|output| output.status.success());
    if !answers {
        eprintln!("skipped: no Docker engine answers");
    }
    answers
}

/// What the command prints, which must succeed.
fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("the docker command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A name that means afterwards what it meant before.
struct Tag {
    name: String,
    before: Option<String>,
}

impl Tag {
    fn of(name: &str) -> Self {
        let mut command = Command::new("docker");
        command.args(["image", "inspect", "--format", "{{.Id}}", name]);
        let found = command.output().expect("the docker command");
        let id = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        Self { name: name.to_owned(), before: found.status.success().then_some(id) }
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let mut command = Command::new("docker");
        match &self.before {
            Some(id) => command.args(["tag", id, &self.name]),
            None => command.args(["rmi", "--force", &self.name]),
        };
        _ = command.output();
    }
}

/// A container that ends with the test.
struct Container(String);

impl Container {
    fn run(image: &str) -> Self {
        Self(docker(&["run", "--detach", "--pull", "never", "--publish", "127.0.0.1::8080", image]))
    }

    /// What it answers to `/version`, as soon as it does.
    async fn version(&self) -> String {
        let published = docker(&["port", &self.0, "8080/tcp"]);
        // A test that runs in a container itself has another loopback, but the same bridge.
        let bridge = "{{range .NetworkSettings.Networks}}{{.IPAddress}}:8080{{end}}";
        let bridge = docker(&["inspect", "--format", bridge, &self.0]);
        let places = [published, bridge].map(|place| place.parse().expect("an address"));
        let patience = Duration::from_secs(20);
        let since = Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            for place in places {
                let place: SocketAddr = place;
                let sampler = Sampler::new(place, "kubeapp", "/version", Duration::from_secs(5));
                match sampler.fetch().await {
                    Ok(answer) if answer.status == 200 => {
                        return String::from_utf8(answer.body.to_vec()).expect("UTF-8");
                    }
                    other => assert!(since.elapsed() < patience, "{place}: {other:?}"),
                }
            }
            pace.tick().await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        _ = Command::new("docker").args(["rm", "--force", &self.0]).output();
    }
}
