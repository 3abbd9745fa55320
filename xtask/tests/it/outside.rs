//! A world in which clusters are made by other people's programs: stand-ins for these programs and for
//! the engine, and what they were asked to do.

use super::{World, ended, eventually};
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

/// A world with an engine and programs of its own on the PATH, and none of this machine's.
pub(crate) struct Outside {
    pub(crate) world: World,
}

const ALL: [&str; 8] = [
    "kind",
    "minikube",
    "docker",
    "docker-credential-stand-in",
    "kubectl",
    "gcloud",
    "gke-gcloud-auth-plugin",
    "curl",
];

impl Outside {
    pub(crate) fn new(name: &str) -> Self {
        let world = World::new(name);
        let programs = world.folder.join("path");
        fs::create_dir_all(&programs).unwrap();
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/path");
        for program in ALL {
            symlink(stand_ins.join(program), programs.join(program)).unwrap();
        }
        for program in ["sh", "cat", "sed", "grep", "mv", "rm", "sleep", "dirname"] {
            symlink(which(program).unwrap(), programs.join(program)).unwrap();
        }
        super::registry::write_images(&world.folder);
        let outside = Self { world };
        outside.engine("2");
        outside
    }

    /// Sockets have short names, and target folders need not.
    pub(crate) fn socket(&self) -> PathBuf {
        let name = self.world.folder.file_name().unwrap().to_string_lossy();
        env::temp_dir().join(format!("{name}-{}.sock", std::process::id()))
    }

    /// Answers as an engine does, until the test's process ends.
    pub(crate) fn engine(&self, cgroups: &str) {
        let _ = fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let info = format!(
            r#"{{"ServerVersion":"29.0.0","Driver":"overlay2","DockerRootDir":"/nonexistent",
                "CgroupVersion":"{cgroups}","MemTotal":8000000000}}"#
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), mut asked) = (stream, [0; 256]) else { return };
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{info}").as_bytes());
            }
        });
    }

    pub(crate) fn without(self, program: &str) -> Self {
        fs::remove_file(self.world.folder.join("path").join(program)).unwrap();
        self
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.world.command(line);
        command.env("PATH", self.world.folder.join("path"));
        command.env("STAND_IN_WORLD", &self.world.folder);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", &self.world.folder);
        command
    }

    pub(crate) fn run(&self, line: &str) -> (i32, String) {
        self.run_with(line, &[])
    }

    pub(crate) fn run_with(&self, line: &str, env: &[(&str, &str)]) -> (i32, String) {
        ended(self.command(line).envs(env.iter().copied()).output().unwrap())
    }

    /// Runs what has to go well.
    pub(crate) fn well(&self, line: &str) -> String {
        let (code, text) = self.run(line);
        assert_eq!(code, 0, "{line}: {text}");
        text
    }

    /// Runs what has to fail so.
    pub(crate) fn fails(&self, line: &str, env: &[(&str, &str)], expected: i32, part: &str) {
        let (code, text) = self.run_with(line, env);
        assert_eq!(code, expected, "{line}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(part), "{line}: {text}");
    }

    /// Starts what then hangs in a stand-in.
    pub(crate) fn hanging(&self, line: &str, env: (&str, &str)) -> Child {
        let _ = fs::remove_file(self.world.folder.join("hanging"));
        let child = self.command(line).env(env.0, env.1).spawn().unwrap();
        eventually("it hangs", || self.there("hanging"));
        child
    }

    /// The command lines of one program since last asked, without the world's own folders.
    pub(crate) fn calls(&self, program: &str) -> Vec<String> {
        let file = self.world.folder.join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        let home = self.world.folder.canonicalize().unwrap();
        let calls = calls.replace(&*home.to_string_lossy(), "W");
        let calls = calls.replace(&*self.world.folder.to_string_lossy(), "W");
        let lines = calls.lines().filter(|line| line.split(' ').next() == Some(program));
        lines.map(Into::into).collect()
    }

    pub(crate) fn there(&self, file: &str) -> bool {
        self.world.folder.join(file).exists()
    }

    /// Names of the kind clusters there are.
    pub(crate) fn kinds(&self) -> String {
        fs::read_to_string(self.world.folder.join("kinds")).unwrap_or_default()
    }

    pub(crate) fn recorded(&self, provider: &str) -> bool {
        self.there(&format!("home/clusters/{provider}/cluster.json"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
    }
}
