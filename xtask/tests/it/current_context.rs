//! An embedded cluster as an external one: `--on current` with the real kubectl and the real labs.

use super::{
    Fixture, eventually, exit,
    require::{images, require},
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// An embedded cluster that ends with its handle.
pub(crate) struct Embedded {
    child: Child,
    pub(crate) kubeconfig: PathBuf,
    /// `127.1.0.1:6443`.
    pub(crate) endpoint: String,
    pub(crate) authority: String,
    pub(crate) token: String,
}

impl Embedded {
    /// Starts one, and puts the real labs into the fixture.
    pub(crate) fn start(fixture: &Fixture) -> Self {
        let binaries = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
        let (folder, labs) = (&fixture.folder, fixture.folder.join("debug/labs"));
        fs::remove_file(&labs).unwrap();
        symlink(binaries.join("labs"), labs).unwrap();
        let kubeconfig = folder.join("embedded-kubeconfig");
        let mut command = Command::new(binaries.join("kube-embedded"));
        command.arg("serve").arg("--kubeconfig").arg(&kubeconfig);
        command.arg("--state").arg(folder.join("embedded")).arg("--exit-with-stdin");
        // Like nodes that have pulled them: kubeapp:1.0 and 2.0, if they are built.
        command.arg("--images").arg(images());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let endpoint = ready["server"].as_str().unwrap().trim_start_matches("https://").to_owned();
        let config = fs::read_to_string(&kubeconfig).unwrap();
        let field = |name: &str| {
            let name = format!("{name}:");
            let value = config.lines().find_map(|line| line.trim().strip_prefix(&*name)?.into());
            value.unwrap().trim().trim_matches('"').to_owned()
        };
        Self {
            child,
            kubeconfig,
            endpoint,
            authority: field("certificate-authority-data"),
            token: field("token"),
        }
    }

    /// Creates a class of that name, which the edge of the cluster also serves.
    pub(crate) fn serve_class(&self, name: &str) {
        let edge = self.kubectl("get ingressclass edge --output json").output().unwrap().stdout;
        let edge: Value = serde_json::from_slice(&edge).unwrap();
        let controller = edge["spec"]["controller"].clone();
        let class = serde_json::json!({"apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}});
        let mut kubectl = self.kubectl("create --filename -");
        let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(class.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn kubectl(&self, line: &str) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", &self.kubeconfig).args(line.split_whitespace());
        kubectl
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn user_context_works_with_the_real_kubectl() {
    if !["kubectl", "kube-embedded", "labs"].into_iter().all(require) {
        return;
    }
    let fixture = Fixture::new("context");
    super::registry::write_images(&fixture.folder);
    let embedded = Embedded::start(&fixture);
    let before = fs::read(&embedded.kubeconfig).unwrap();
    let run = |line: &str| {
        exit(fixture.command(line).env("KUBECONFIG", &embedded.kubeconfig).output().unwrap())
    };
    let kubectl = |line: &str| {
        assert!(embedded.kubectl(line).output().unwrap().status.success(), "{line}");
    };
    let phases = if images().join("kubeapp-2.0.tar").exists() { "phase0 phase4" } else { "phase0" };
    let lab = format!("lab {phases} --on current --context kube-embedded --registry none");
    let (code, text) = run(&lab);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("every claim holds: "), "{text}");

    kubectl("create namespace production");
    let (code, text) = run(&format!("{lab} --yes"));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("was not created by these labs"), "{text}");
    kubectl("label namespace production app.kubernetes.io/managed-by=canary-labs");
    let (code, text) = run(&lab);
    assert_eq!((code, text.contains("pass `--yes`")), (2, true), "{text}");
    kubectl("get namespace production");

    let (code, text) = run("lab phase0 --on current --context another --registry none");
    assert_eq!((code, text.contains("context not found")), (3, true), "{text}");
    assert_eq!(fs::read(&embedded.kubeconfig).unwrap(), before, "the user's own is only read");
    let gone = fs::read_to_string(&embedded.kubeconfig).unwrap();
    let elsewhere = fixture.folder.join("gone");
    fs::write(&elsewhere, gone.replace(&embedded.endpoint, "127.0.0.1:9")).unwrap();
    let output = fixture.command(&lab).env("KUBECONFIG", &elsewhere).output();
    let (code, text) = exit(output.unwrap());
    assert_eq!((code, text.contains("the context is not reachable")), (3, true), "{text}");
}

/// Kills the cluster while pods start and while requests are sent: no claim is judged by what a dead
/// cluster does, and the run ends without waiting for minutes.
#[test]
fn cluster_that_dies_mid_phase_is_reported_and_no_claim_fails() {
    if !["kubectl", "kube-embedded", "labs", "images"].into_iter().all(require) {
        return;
    }
    for moment in ["step-started", "sample-progress"] {
        let fixture = Fixture::new(&format!("mid-phase-{moment}"));
        super::registry::write_images(&fixture.folder);
        let mut embedded = Embedded::start(&fixture);
        let mut child = fixture
            .command(
                "lab phase4 --json --progress --on current --context kube-embedded --registry none",
            )
            .env("KUBECONFIG", &embedded.kubeconfig)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(&format!("\"{moment}\""))), "{moment}");
        embedded.child.kill().unwrap();
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        let (code, text) = exit(child.wait_with_output().unwrap());
        let end: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
        assert_eq!((code, &end["fails"], &end["exitCode"]), (3, &0.into(), &3.into()), "{end}");
        // Either a phase or the watch over the cluster notices first.
        let said = end["errors"][0].as_str().unwrap();
        assert!(
            ["does not respond", "does not answer", "no longer answers"]
                .iter()
                .any(|s| said.contains(s)),
            "{end}"
        );
        let last = text.lines().last().unwrap();
        assert!(
            last.starts_with("error: the current cluster became unavailable during the run: ")
                && last.contains("check the network, a VPN, or whether the cluster is up")
                && !last.contains("recreates"),
            "{text}"
        );
    }
}

/// Expired credentials and certificates, in the words of the real kubectl.
#[test]
fn expired_credentials_are_distinguished_from_an_unreachable_cluster() {
    if !["kubectl", "openssl", "kube-embedded", "labs"].into_iter().all(require) {
        return;
    }
    let fixture = Fixture::new("expired");
    super::registry::write_images(&fixture.folder);
    let embedded = Embedded::start(&fixture);
    let config = fs::read_to_string(&embedded.kubeconfig).unwrap();
    // The user with a token and no certificate.
    let user = config.lines().find(|line| line.starts_with("    user: ")).unwrap().to_owned();
    let config = config.replace(&user, &format!("{user}-token"));
    let tls = Tls::make(&fixture.folder);
    let fails = |config: String, part: &str| {
        let file = fixture.folder.join("changed");
        fs::write(&file, config).unwrap();
        let lab = "lab phase0 --on current --context kube-embedded --registry none";
        let (code, text) = exit(fixture.command(lab).env("KUBECONFIG", file).output().unwrap());
        let last = text.lines().last().unwrap_or_default();
        assert!(code == 3 && last.starts_with("error: ") && last.contains(part), "{text}");
        assert!(!last.contains("not reachable"), "{text}");
    };
    let accepts = "the cluster does not accept the credentials; log in again";
    fails(config.replace(&embedded.token, "expired"), accepts);
    fails(config.replace(&embedded.authority, &tls.authority), "does not match the kubeconfig");
    let server = |arguments: &str| Server::start(&fixture.folder, arguments);
    let at = |server: &Server| {
        let config = config.replace(&embedded.endpoint, &server.address);
        config.replace(&embedded.authority, &tls.authority)
    };
    let expired = server("-cert expired.crt");
    fails(at(&expired), "a certificate has expired; renew the certificate of the cluster");
    let asks = server("-cert ca.crt -Verify 1 -verify_return_error -CAfile ca.crt");
    let user = format!(
        "client-certificate: {0}/expired.crt\n    client-key: {0}/key",
        fixture.folder.display()
    );
    let config = at(&asks).replace(&format!("token: {}", embedded.token), &user);
    assert!(config.contains("client-key"), "{config}");
    fails(config, "the cluster does not accept the client certificate; it may have expired");
}

/// A certificate authority for 127.0.0.1, and an expired certificate of it.
struct Tls {
    /// In base64, as in kubeconfigs.
    authority: String,
}

impl Tls {
    fn make(folder: &Path) -> Self {
        let script = "exec 2>&1
            openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout key -out ca.crt \
                -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 &&
            openssl req -new -key key -subj /CN=old -out request &&
            echo subjectAltName=IP:127.0.0.1 >extensions &&
            openssl x509 -req -in request -CA ca.crt -CAkey key -CAcreateserial -days -1 \
                -extfile extensions -out expired.crt &&
            openssl base64 -A -in ca.crt >authority";
        let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
        let (code, text) = exit(output);
        assert_eq!(code, 0, "{text}");
        Self { authority: fs::read_to_string(folder.join("authority")).unwrap() }
    }
}

/// A TLS server that ends with its handle.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path, arguments: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-key", "key", "-accept", &address]);
        command.args(arguments.split_whitespace()).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), address };
        eventually("it listens", || TcpStream::connect(&server.address).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
