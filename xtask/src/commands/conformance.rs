//! `cargo xtask conformance`: the official conformance suite of the Gateway API, on the embedded cluster
//! and the official CustomResourceDefinitions.
//!
//! The suite, its echo server and the definitions are Go modules, pinned in `conformance/go.mod`. Images of
//! the echo server and of a stand-in for CoreDNS are packed here, without an engine.

use crate::{
    build,
    cargo::{self, DockerClient},
    exec::{command_line::CommandLine, daemon::Daemon, process::Signals, runner::CommandRunner},
    failure::Failure,
    files,
    output::{errln, outln},
    project::Project,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use oci_archive::{ImageBuilder, ImageConfig, Platform, TarWriter};
use serde::Deserialize;
use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// Time to download and compile the suite, which is half of Kubernetes' client libraries.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1200);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const APPLY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for the suite, each test of which has deadlines of its own.
const SUITE_TIMEOUT: Duration = Duration::from_secs(900);

/// The images that the suite's manifests name, with the program in each.
const IMAGES: [(&str, &str); 4] = [
    ("registry.k8s.io/gateway-api/echo-basic:v1.5.1", "echo-basic"),
    ("registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2", "echo-basic"),
    ("registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3", "echo-basic"),
    ("registry.k8s.io/coredns/coredns:v1.12.2", "dns"),
];

const PROFILES: &str = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP";

/// Run the official conformance suite of the Gateway API
///
/// Needs Go, kubectl, and a user who may bind port 80. The report is written below `conformance/reports`.
#[derive(Args)]
pub(super) struct Conformance {
    /// Profiles of the suite, separated by commas
    #[arg(long, value_name = "LIST", default_value = PROFILES)]
    profiles: String,
    /// Run only the tests of core features
    #[arg(long)]
    core: bool,
    /// Run one test, e.g. `HTTPRouteWeight`; writes no report
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Write the report to this file
    #[arg(long, value_name = "FILE", default_value = "conformance/reports/report.yaml")]
    report: PathBuf,
}

pub(super) fn run(args: &Conformance) -> Result<()> {
    let project = Project::find()?;
    let signals = Signals::install()?;
    let folder = project.target.join("conformance");
    fs::create_dir_all(folder.join("images"))
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let log = folder.join("commands.log");
    let _ = fs::remove_file(&log);
    let suite = Suite {
        project: &project,
        folder: &folder,
        runner: CommandRunner::new(&signals, Some(log)),
    };
    if suite.version("go").is_err() {
        return outln!("skipped: Go is not installed; see https://go.dev/doc/install");
    }
    suite.version("kubectl")?;
    build::binaries(&project, DockerClient::Omitted)?;
    if !cargo::prebuilt() {
        suite.compile()?;
    }
    suite.pack()?;
    let began = Instant::now();
    let state = folder.join("state");
    files::private_directory(&state)?;
    let mut cluster = suite.start(&state, &signals)?;
    let passed = suite.run(args, &cluster);
    cluster.process.stop(&signals);
    let _ = fs::remove_dir_all(&state);
    let seconds = began.elapsed().as_secs_f64();
    if !passed? {
        errln!("failed after {seconds:.0} s; the log is {}", suite.log().display());
        bail!(Failure::Child(1));
    }
    outln!("passed in {seconds:.0} s")
}

/// The suite, and where its programs and images are.
struct Suite<'a> {
    project: &'a Project,
    folder: &'a Path,
    runner: CommandRunner<'a>,
}

/// A running cluster.
struct Cluster {
    process: Daemon,
    kubeconfig: PathBuf,
    /// The A in `127.A.0.0/16`.
    block: u8,
}

/// The line that `kube-embedded serve` prints.
#[derive(Deserialize)]
struct Ready {
    server: String,
}

impl Suite<'_> {
    fn log(&self) -> PathBuf {
        self.folder.join("suite.log")
    }

    fn version(&self, program: &str) -> Result<()> {
        let line = match program {
            "go" => CommandLine::new("go version"),
            _ => CommandLine::new("kubectl version --client"),
        };
        self.query(&line, START_TIMEOUT).map(drop)
    }

    fn query(&self, line: &CommandLine, timeout: Duration) -> Result<String> {
        self.runner.query(line, timeout)?.into_stdout(&[])
    }

    fn go(&self, arguments: &str) -> CommandLine {
        let module = self.project.root.join("conformance");
        let line = CommandLine::new("go").path("-C", &module).args(arguments.split_whitespace());
        // Static programs, for images that contain nothing else, and one build cache for all.
        line.env("CGO_ENABLED", "0")
    }

    /// Compiles the suite and the programs in its pods.
    fn compile(&self) -> Result<()> {
        errln!("building the conformance suite (the first time takes minutes)…");
        let suite = self.go("test -c").path("-o", &self.folder.join("conformance.test"));
        self.query(&suite.args(["."]), BUILD_TIMEOUT)?;
        for (program, package) in
            [("echo-basic", "sigs.k8s.io/gateway-api/conformance/echo-basic"), ("dns", "./dns")]
        {
            let build = self.go("build").path("-o", &self.folder.join(program));
            self.query(&build.args([package]), BUILD_TIMEOUT)?;
        }
        Ok(())
    }

    /// Packs the programs in the pods as images.
    fn pack(&self) -> Result<()> {
        for (index, (name, program)) in IMAGES.iter().enumerate() {
            let archive = self.folder.join(format!("images/{index}.tar"));
            pack(name, &self.folder.join(program), &archive)?;
        }
        Ok(())
    }

    fn start(&self, state: &Path, signals: &Signals) -> Result<Cluster> {
        let kubeconfig = state.join("kubeconfig");
        let line = CommandLine::default()
            .args([self.project.program("kube-embedded").to_string_lossy(), "serve".into()])
            .path("--kubeconfig", &kubeconfig)
            .path("--state", &state.join("state"))
            .path("--images", &self.folder.join("images"))
            .args(["--exit-with-stdin"]);
        let mut command = line.to_command()?;
        command.current_dir("/").stdin(Stdio::piped());
        let mut process = Daemon::start("cluster", command, &self.folder.join("cluster.log"))?;
        let ready: Ready = process.wait_ready(START_TIMEOUT, signals)?;
        let block = ready.server.split('.').nth(1).and_then(|part| part.parse().ok());
        let block =
            block.with_context(|| format!("{} is no address of a cluster", ready.server))?;
        Ok(Cluster { process, kubeconfig, block })
    }

    /// Runs the suite. Returns whether all tests passed.
    fn run(&self, args: &Conformance, cluster: &Cluster) -> Result<bool> {
        let module = self.go("list -m -f {{.Dir}} sigs.k8s.io/gateway-api");
        let module = PathBuf::from(self.query(&module, APPLY_TIMEOUT)?.trim());
        // Retries and session persistence are in no others.
        let definitions = definitions(&module.join("config/crd/experimental"))?;
        let apply = CommandLine::new("kubectl apply --server-side").kubeconfig(&cluster.kubeconfig);
        let files = definitions.iter().fold(apply, |line, file| line.path("-f", file));
        self.query(&files, APPLY_TIMEOUT)?;
        let wait = "kubectl wait --for=condition=Accepted gatewayclass/kube-embedded --timeout=30s";
        self.query(&CommandLine::new(wait).kubeconfig(&cluster.kubeconfig), APPLY_TIMEOUT)?;
        errln!("running the profiles {}…", args.profiles);
        let report = self.project.root.join(&args.report);
        let output = self.runner.query(&self.line(args, cluster, &report), SUITE_TIMEOUT)?;
        let text = output.stdout.clone() + &output.stderr;
        fs::write(self.log(), &text).context("failed to write the log of the suite")?;
        for line in text.lines().filter(|line| line.trim_start().starts_with("--- FAIL")) {
            errln!("{}", line.trim_end());
        }
        if args.test.is_none() && output.is_success() {
            summary(&report)?;
        }
        Ok(output.is_success())
    }

    fn line(&self, args: &Conformance, cluster: &Cluster, report: &Path) -> CommandLine {
        let program = self.folder.join("conformance.test");
        let line = CommandLine::default()
            .args([program.to_string_lossy()])
            .kubeconfig(&cluster.kubeconfig)
            .args(["-test.run=TestConformance", "-test.v", "--cleanup-base-resources=false"])
            .args([format!("-test.timeout={}s", SUITE_TIMEOUT.as_secs())])
            .args(["--gateway-class=kube-embedded", "--organization=canary-labs"])
            .args(["--project=kube-embedded", "--contact=@canary-labs"])
            .args([format!("--url={}", env!("CARGO_PKG_REPOSITORY"))])
            .args([format!("--version=v{}", env!("CARGO_PKG_VERSION"))])
            .args([format!("--usable-address=127.{}.3.77", cluster.block)])
            // Reserved for documentation (RFC 5737).
            .args(["--unusable-address=192.0.2.1"])
            .args([format!("--conformance-profiles={}", args.profiles)]);
        let line = match args.core {
            true => line.args(["--supported-features=Gateway,ReferenceGrant,HTTPRoute"]),
            false => line,
        };
        match &args.test {
            Some(test) => line.args([format!("--run-test={test}")]),
            None => line.args([format!("--report-output={}", report.display())]),
        }
    }
}

/// Returns the files of the official definitions, without the policies that are written in CEL.
fn definitions(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("gateway.networking.k8s.io_") && !name.contains("_vap_") {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "{} has no CustomResourceDefinitions", folder.display());
    files.sort();
    Ok(files)
}

/// Prints the lines of a report that say how many tests passed.
fn summary(report: &Path) -> Result<()> {
    let text = fs::read_to_string(report)
        .with_context(|| format!("failed to read {}", report.display()))?;
    for line in text.lines().map(str::trim_start) {
        if ["name:", "summary:", "Failed:", "Passed:", "Skipped:"]
            .iter()
            .any(|k| line.starts_with(k))
        {
            outln!("{line}")?;
        }
    }
    outln!("{}", report.display())
}

/// Packs a static program as an image.
fn pack(name: &str, program: &Path, archive: &Path) -> Result<()> {
    let failed = || format!("failed to pack {name}");
    let binary = fs::read(program).with_context(failed)?;
    let mut layer = TarWriter::new(Vec::new());
    layer.file("program", 0o755, &binary)?;
    let config = ImageConfig {
        // The name server listens on port 53.
        user: "0:0".to_owned(),
        env: vec!["PATH=/".to_owned()],
        entrypoint: vec!["/program".to_owned()],
        ..ImageConfig::default()
    };
    let to = BufWriter::new(File::create(archive).with_context(failed)?);
    ImageBuilder::new(name, Platform::host(), config)?
        .layer(layer.finish()?, "COPY program /program")
        .write(to)
        .with_context(failed)?;
    Ok(())
}
