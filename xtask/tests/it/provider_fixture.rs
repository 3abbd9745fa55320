//! A fixture with fakes of kind, docker, gcloud and the others, and of the Docker engine.

use super::{Fixture, eventually, exit};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let all = env::var_os("PATH")?;
    env::split_paths(&all).map(|folder| folder.join(program)).find(|file| file.exists())
}

pub(crate) const GKE: &str =
    "up --on gke --project p --location europe-west1-b --standard --nodes 2";

/// A fixture with an engine and programs of its own on the PATH, and no others.
pub(crate) struct ProviderFixture {
    pub(crate) base: Fixture,
}

const ALL: [&str; 8] = [
    "kind",
    "minikube",
    "docker",
    "docker-credential-fake",
    "kubectl",
    "gcloud",
    "gke-gcloud-auth-plugin",
    "curl",
];

impl ProviderFixture {
    pub(crate) fn new(name: &str) -> Self {
        let base = Fixture::new(name);
        let programs = base.folder.join("path");
        fs::create_dir_all(&programs).unwrap();
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/path");
        for program in ALL {
            symlink(fakes.join(program), programs.join(program)).unwrap();
        }
        for program in ["sh", "cat", "sed", "grep", "mv", "rm", "sleep", "dirname"] {
            symlink(which(program).unwrap(), programs.join(program)).unwrap();
        }
        super::registry::write_images(&base.folder);
        let fixture = Self { base };
        fixture.engine("2");
        fixture
    }

    /// Returns a short path for the socket: target directories may be too long for one.
    pub(crate) fn socket(&self) -> PathBuf {
        let name = self.base.folder.file_name().unwrap().to_string_lossy();
        env::temp_dir().join(format!("{name}-{}.sock", std::process::id()))
    }

    /// Responds like an engine with that version of cgroups, until the test process exits.
    pub(crate) fn engine(&self, cgroups: &str) {
        self.engine_info(&format!(r#""CgroupVersion":"{cgroups}""#));
    }

    /// Responds like an engine with these further fields.
    pub(crate) fn engine_info(&self, fields: &str) {
        let _ = fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let info = format!(
            r#"{{"ServerVersion":"29.0.0","Driver":"overlay2","DockerRootDir":"/nonexistent",
                {fields},"MemTotal":8000000000}}"#
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), mut request) = (stream, [0; 256]) else { return };
                let _ = stream.read(&mut request);
                let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{info}").as_bytes());
            }
        });
    }

    pub(crate) fn without(self, program: &str) -> Self {
        fs::remove_file(self.base.folder.join("path").join(program)).unwrap();
        self
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.base.command(line);
        command.env("PATH", self.base.folder.join("path"));
        command.env("FAKE_ROOT", &self.base.folder);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", &self.base.folder);
        command
    }

    pub(crate) fn run(&self, line: &str) -> (i32, String) {
        self.run_with(line, &[])
    }

    pub(crate) fn run_with(&self, line: &str, env: &[(&str, &str)]) -> (i32, String) {
        exit(self.command(line).envs(env.iter().copied()).output().unwrap())
    }

    /// Runs a command that must succeed.
    pub(crate) fn succeeds(&self, line: &str) -> String {
        let (code, text) = self.run(line);
        assert_eq!(code, 0, "{line}: {text}");
        text
    }

    /// Runs a command that must fail with that exit code and error.
    pub(crate) fn fails(&self, line: &str, env: &[(&str, &str)], expected: i32, part: &str) {
        let (code, text) = self.run_with(line, env);
        assert_eq!(code, expected, "{line}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(part), "{line}: {text}");
    }

    /// Starts a command that hangs in a fake.
    pub(crate) fn hanging(&self, line: &str, env: (&str, &str)) -> Child {
        let _ = fs::remove_file(self.base.folder.join("hanging"));
        let child = self.command(line).env(env.0, env.1).spawn().unwrap();
        eventually("the fake hangs", || self.has_file("hanging"));
        child
    }

    /// Returns the command lines of one program since the last call, with `W` for the fixture's directory.
    pub(crate) fn calls(&self, program: &str) -> Vec<String> {
        let file = self.base.folder.join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        let home = self.base.folder.canonicalize().unwrap();
        let calls = calls.replace(&*home.to_string_lossy(), "W");
        let calls = calls.replace(&*self.base.folder.to_string_lossy(), "W");
        let lines = calls.lines().filter(|line| line.split(' ').next() == Some(program));
        lines.map(Into::into).collect()
    }

    pub(crate) fn has_file(&self, file: &str) -> bool {
        self.base.folder.join(file).exists()
    }

    /// Returns the names of the existing kind clusters.
    pub(crate) fn kinds(&self) -> String {
        fs::read_to_string(self.base.folder.join("kinds")).unwrap_or_default()
    }

    pub(crate) fn recorded(&self, provider: &str) -> bool {
        self.has_file(&format!("home/clusters/{provider}/cluster.json"))
    }
}

impl Drop for ProviderFixture {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
    }
}
