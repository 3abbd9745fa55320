//! The images with a Docker engine, as people use them without these labs: loaded, built and run by the
//! `docker` command.

use crate::{
    archives,
    fixture::{Fixture, eventually, repository},
};
use labs::sampler::Sampler;
use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

#[tokio::test]
async fn archives_load_and_run() {
    if !engine_responds() {
        return test_support::missing("docker", "start a Docker engine");
    }
    for version in ["1.0", "2.0"] {
        let image = archives::image(version);
        let _tag = Tag::of(&image.manifest_name);
        let archive = image.archive.to_str().expect("a path in UTF-8");
        let output = docker(&["load", "--input", archive]);
        assert!(output.ends_with(&image.manifest_name), "{output}");
        assert_eq!(Container::run(&image.manifest_name).version().await, format!("{version}\n"));
    }
}

#[tokio::test]
async fn build_argument_selects_the_version() {
    if !engine_responds() {
        return test_support::missing("docker", "start a Docker engine");
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

#[tokio::test(flavor = "multi_thread")]
async fn evidence_names_the_runtime_of_the_images() {
    if !engine_responds() {
        return test_support::missing("docker", "start a Docker engine");
    }
    let mut fixture = Fixture::new();
    fixture.environment.docker = true;
    let run = fixture.run_alone("phase2").await;
    run.assert_fails(&[]);
    let by = if cfg!(feature = "docker") {
        "run by the Docker engine: "
    } else {
        "run by the cluster, as these labs were built without their feature `docker`"
    };
    let evidence = run.evidence("image-runs");
    assert!(evidence.starts_with(by), "{evidence}");
}

fn engine_responds() -> bool {
    test_support::runs("docker", &["version", "--format", "{{.Server.Version}}"])
}

/// Runs the command, which must succeed, and returns its output.
fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("the docker command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A tag that is restored on drop.
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

/// A container that is removed on drop.
struct Container(String);

impl Container {
    fn run(image: &str) -> Self {
        Self(docker(&["run", "--detach", "--pull", "never", "--publish", "127.0.0.1::8080", image]))
    }

    /// Waits for the response to `/version`.
    async fn version(&self) -> String {
        let published = docker(&["port", &self.0, "8080/tcp"]);
        // If the test runs in a container, its loopback interface is another one, but the bridge is shared.
        let bridge = "{{range .NetworkSettings.Networks}}{{.IPAddress}}:8080{{end}}";
        let bridge = docker(&["inspect", "--format", bridge, &self.0]);
        let addresses: [SocketAddr; 2] =
            [published, bridge].map(|address| address.parse().expect("an address"));
        eventually(Duration::from_secs(20), async || {
            let mut failures = Vec::new();
            for address in addresses {
                let timeout = Duration::from_secs(5);
                match Sampler::new(address, "kubeapp", "/version", timeout).fetch().await {
                    Ok(response) if response.status == 200 => {
                        return Ok(String::from_utf8(response.body).expect("UTF-8"));
                    }
                    other => failures.push((address, other)),
                }
            }
            Err(failures)
        })
        .await
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        _ = Command::new("docker").args(["rm", "--force", &self.0]).output();
    }
}
