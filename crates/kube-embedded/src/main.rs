//! `kube-embedded`: a cluster for as long as the process lives, or the edge of somebody else's.

use kube_embedded::{Cluster, Config, Sandbox};
use kube_embedded_apiserver::credentials::write_private;
use kube_embedded_proxy::outside::{Options, OutsideEdge, Way};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

const HELP: &str = "\
A Kubernetes in one process, for tests and labs, and its edge for clusters of others. Both listen on
loopback addresses only.

usage: kube-embedded serve [--kubeconfig PATH] [--images PATH]... [--state DIR]
                           [--sandbox auto|namespaced|plain] [--nodes N] [--no-load-balancers]
                           [--exit-with-stdin]
       kube-embedded edge --kubeconfig PATH [--published NODEPORT=IP:PORT]...
                          [--nodes-unreachable] [--namespace NAME] [--exit-with-stdin]
       kube-embedded explain-limits
       kube-embedded --version | --help

serve prints one line of JSON when the API answers, and serves until SIGTERM or SIGINT.
  --kubeconfig PATH   where the kubeconfig is written (mode 0600, removed at the end);
                      without it, into the cluster's private folder
  --images PATH       an image archive (OCI layout or docker-archive, .tar) or a folder of them
  --state DIR         the folder for the cluster's private one; default $XDG_RUNTIME_DIR or /tmp
  --data DIR          where objects outlive the process (not supported yet)
  --sandbox KIND      how pods are kept apart; auto takes the best that works here
  --nodes N           how many nodes run pods; default 3
  --no-load-balancers load balancers and Ingresses get no addresses, as on a cluster of kind
  --exit-with-stdin   ends when stdin does: when the parent is gone, however it went

edge gives the load balancers and Ingresses of somebody else's cluster addresses of this host, and
leads traffic to node ports, or to pods through the API where no node can be reached. What another
controller serves it leaves alone. It prints one line of JSON once it does so, ends at SIGTERM or
SIGINT, or once its Lease could not be renewed for five minutes, and takes the addresses back.
  --kubeconfig PATH   the current context of this file
  --published P=IP:Q  node port P is published at IP:Q, for clusters whose nodes cannot be reached
  --nodes-unreachable no node is tried, whatever its address
  --namespace NAME    Services and Ingresses of this namespace alone; else of all
";

const LIMITS: &str = "\
Refused:
  - Kinds that are not listed below: 404, as on a server without them. No CronJobs.
  - CustomResourceDefinitions with conversion by webhook: serve all versions with strategy None.
  - HorizontalPodAutoscalers, ResourceQuotas and LimitRanges, except as a dry run: there are no
    metrics, and nothing is limited.
  - Answers in protobuf (406): requests in it are read, answers are JSON.
  - A continue token or a watch from a resource version that the history no longer holds (2048
    events a resource): 410, as in Kubernetes.
Accepted, and not acted upon:
  - Pods: resource limits and requests beyond scheduling, seccomp and capabilities, readinessGates,
    init containers that stay (restartPolicy: Always), HTTPS and gRPC probes, persistent volumes, a user per container, ephemeral containers (`kubectl debug POD`).
  - Pods as plain processes: all volume mounts, so also the token of the service account; only
    static programs run.
  - Scheduling: affinity between pods, priorities, preemption. Nodes never fail; they renew their
    Leases, and nobody looks at these.
  - Jobs: podFailurePolicy, successPolicy, backoffLimitPerIndex and maxFailedIndexes.
  - Services: UDP and SCTP, externalIPs, loadBalancerSourceRanges, IPv6, ExternalName (there is no
    DNS). Pods see connections come from the cluster, not from the client. A pod that declares a port
    cannot reach other Services on that port by their cluster address.
  - Ingress: annotations other than kubernetes.io/ingress.class, parameters of a class, and backends
    that are resources or ExternalName Services (503, and an event).
  - Custom resources: x-kubernetes-validations (CEL rules), patternProperties, formats other than
    date-time, date, byte, uuid, email, uri, ipv4, ipv6 and cidr. A default that a definition gets
    later shows on older objects once they are written again.
  - RBAC, admission webhooks, network policies: who has the kubeconfig, or the token of any service
    account, can do everything.
Otherwise than in Kubernetes:
  - A program that exec started is killed when its client goes; there it may run on.
  - Objects live in memory: they are gone when the process is.
  - Ingresses of a namespace share one address, and are one set of rules in which the oldest wins.
    Every address answers HTTP and HTTPS, with a self-signed certificate where no Secret has one.
    pathType ImplementationSpecific is Prefix. A host that has rules takes no paths from a wildcard,
    nor from rules without a host. An Ingress without a class is served. Pods are asked in HTTP/1.1,
    and have 60 s to begin an answer; HTTP/2 is spoken with clients over TLS; X-Forwarded-* are ours.
  - A rollout never has more pods than its surge allows, not even for a moment.

Kinds that are served:
";

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1).collect()) {
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(&format!(
            "kube-embedded {} (follows Kubernetes v1.36)\n",
            env!("CARGO_PKG_VERSION")
        )),
        Ok(Command::Limits) => {
            let kinds = kube_embedded_apiserver::resources::registry::all();
            let kinds: String = kinds
                .iter()
                .map(|kind| format!("  - {} {}\n", kind.api_version(), kind.kind))
                .collect();
            print(&format!("{LIMITS}{kinds}"));
        }
        Ok(Command::Serve(serve)) => return run(serve_until_told(*serve)),
        Ok(Command::Edge(edge)) => return run(edge_until_told(edge)),
        Err(message) => {
            eprintln!("kube-embedded: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// A reader that went away is no reason to panic.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[derive(Debug)]
enum Command {
    Help,
    Version,
    Limits,
    Serve(Box<Serve>),
    Edge(Edge),
}

#[derive(Debug, Default)]
struct Edge {
    kubeconfig: PathBuf,
    options: Options,
    exit_with_stdin: bool,
}

#[derive(Debug, Default)]
struct Serve {
    config: Config,
    kubeconfig: Option<PathBuf>,
    exit_with_stdin: bool,
}

fn parse(arguments: Vec<OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let first = arguments.next().ok_or("what shall I do?")?;
    match first.to_str() {
        Some("--help" | "-h" | "help") => Ok(Command::Help),
        Some("--version" | "-V") => Ok(Command::Version),
        Some("explain-limits") => Ok(Command::Limits),
        Some("serve") => parse_serve(arguments),
        Some("edge") => parse_edge(arguments),
        _ => Err(format!("unknown command {first:?}")),
    }
}

fn parse_edge(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let (mut edge, mut kubeconfig) = (Edge::default(), None);
    while let Some(argument) = arguments.next() {
        let flag = argument.to_str().unwrap_or_default().to_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value after it"));
        match &*flag {
            "--kubeconfig" => kubeconfig = Some(value()?),
            "--published" => {
                let text = value()?;
                let (port, at) = published(text.to_str().unwrap_or_default()).ok_or_else(|| {
                    format!(
                        "--published {text:?}: give NODEPORT=IP:PORT, such as 30080=127.0.0.1:8080"
                    )
                })?;
                edge.options.published.insert(port, at);
            }
            "--nodes-unreachable" => edge.options.unreachable = true,
            "--namespace" => {
                edge.options.namespace = Some(value()?.to_string_lossy().into_owned());
            }
            "--exit-with-stdin" => edge.exit_with_stdin = true,
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    edge.kubeconfig = kubeconfig.ok_or("edge needs --kubeconfig PATH")?.into();
    Ok(Command::Edge(edge))
}

fn published(text: &str) -> Option<(u16, SocketAddr)> {
    let (port, at) = text.split_once('=')?;
    Some((port.parse().ok()?, at.parse().ok()?))
}

fn parse_serve(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut serve = Serve::default();
    while let Some(argument) = arguments.next() {
        let flag = argument.to_str().unwrap_or_default().to_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value after it"));
        match &*flag {
            "--kubeconfig" => serve.kubeconfig = Some(value()?.into()),
            "--images" => serve.config.images.push(value()?.into()),
            "--state" => serve.config.state = Some(value()?.into()),
            "--data" => serve.config.data = Some(value()?.into()),
            "--exit-with-stdin" => serve.exit_with_stdin = true,
            "--no-load-balancers" => serve.config.external = false,
            "--nodes" => {
                let text = value()?;
                let nodes = text.to_str().and_then(|text| text.parse().ok());
                let nodes = nodes.filter(|nodes| (1..=100).contains(nodes));
                serve.config.nodes = nodes
                    .ok_or_else(|| format!("--nodes {text:?}: give a number from 1 to 100"))?;
            }
            "--sandbox" => {
                let text = value()?;
                serve.config.sandbox = match text.to_str() {
                    Some("auto") => None,
                    Some("namespaced") => Some(Sandbox::Namespaced),
                    Some("plain") => Some(Sandbox::Plain),
                    _ => {
                        return Err(format!("--sandbox {text:?}: give auto, namespaced or plain"));
                    }
                };
            }
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(Command::Serve(Box::new(serve)))
}

fn run(work: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kube-embedded: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("kube-embedded: {message}");
            ExitCode::FAILURE
        }
    };
    // A thread that waits for stdin would keep the runtime alive.
    runtime.shutdown_background();
    code
}

/// The signals that end us.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    /// Before anything is started, so that no signal ends the process without cleaning up.
    fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("cannot listen to signals: {error}"));
        let (terminate, interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves once somebody tells us to end.
    async fn first(&mut self, by_stdin: bool) -> Telling {
        tokio::select! {
            () = self.ended() => Telling::Signal,
            () = end_of_stdin(), if by_stdin => Telling::Stdin,
        }
    }

    /// Resolves when somebody tells us once more: who does wants it at once. Whoever holds our stdin
    /// closes it and sends a signal, and means the same.
    async fn again(&mut self, first: Telling) {
        if first == Telling::Stdin {
            self.ended().await;
        }
        self.ended().await;
    }
}

/// How we were told to end.
#[derive(Clone, Copy, PartialEq)]
enum Telling {
    Signal,
    Stdin,
}

/// For an edge that is told to end while it begins: until it has something that it can take back.
const BEGINS: Duration = Duration::from_secs(5);

async fn edge_until_told(edge: Edge) -> Result<(), String> {
    let mut told = Told::listen()?;
    let path = &edge.kubeconfig;
    let unusable = |error: &dyn std::fmt::Display| {
        // The rest is a picture of the place.
        let why = error.to_string();
        format!("cannot use {}: {}", path.display(), why.lines().next().unwrap_or_default())
    };
    let text = kube::config::Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
    let config = kube::Config::from_custom_kubeconfig(text, &<_>::default()).await;
    let config = config.map_err(|error| unusable(&error))?;
    let mut starting = pin!(OutsideEdge::start(config, edge.options));
    let started = tokio::select! {
        started = starting.as_mut() => started,
        _ = told.first(edge.exit_with_stdin) => {
            if let Ok(Ok(begun)) = timeout(BEGINS, starting).await {
                begun.stop().await;
            }
            return Ok(());
        }
    };
    let mut edge_of = started.map_err(|error| error.to_string())?;
    let block = edge_of.addresses().block;
    say_ready(json!({
        "addresses": format!("127.{block}.0.0/16"),
        "way": edge_of.way().to_string(),
        "nodesReachable": *edge_of.way() == Way::NodePorts,
    }));
    let (ended, telling) = tokio::select! {
        error = edge_of.failed() => (Err(error.to_string()), Telling::Signal),
        telling = told.first(edge.exit_with_stdin) => (Ok(()), telling),
    };
    tokio::select! {
        () = edge_of.stop() => {}
        () = told.again(telling) => {}
    }
    ended
}

/// Tells whoever started us.
fn say_ready(mut about: Value) {
    about["ready"] = json!(true);
    about["pid"] = json!(std::process::id());
    print(&format!("{about}\n"));
}

async fn serve_until_told(serve: Serve) -> Result<(), String> {
    let begun = Instant::now();
    let mut told = Told::listen()?;
    let started = tokio::select! {
        started = Cluster::start(serve.config) => started,
        () = told.ended() => return Ok(()),
    };
    let cluster = started.map_err(|error| error.to_string())?;
    let path = serve.kubeconfig.unwrap_or_else(|| cluster.state().join("kubeconfig"));
    let text = cluster.kubeconfig();
    write_private(&path, &text)
        .map_err(|error| format!("cannot write the kubeconfig {}: {error}", path.display()))?;
    let sandbox = match cluster.addresses().sandbox {
        Sandbox::Namespaced => "namespaced",
        Sandbox::Plain => "plain",
    };
    say_ready(json!({
        "server": cluster.url(),
        "kubeconfig": std::path::absolute(&path).unwrap_or_else(|_| path.clone()),
        "sandbox": sandbox,
        "sandboxReason": cluster.sandbox_reason(),
        "startedIn": begun.elapsed().as_secs_f64(),
    }));
    let telling = told.first(serve.exit_with_stdin).await;
    tokio::select! {
        // Where it is told again, dropping the cluster ends everything.
        () = cluster.stop() => {}
        () = told.again(telling) => {}
    }
    // Another cluster may have written its own there meanwhile.
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 256];
    while matches!(stdin.read(&mut buffer).await, Ok(read) if read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn arguments_are_understood() {
        let line = "serve --images a --images b --nodes 2 --sandbox plain --exit-with-stdin";
        let Ok(Command::Serve(serve)) = parsed(line) else { panic!("{line}") };
        assert_eq!(serve.config.images, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((serve.config.nodes, serve.config.sandbox), (2, Some(Sandbox::Plain)));
        assert!(serve.exit_with_stdin && serve.kubeconfig.is_none() && serve.config.external);
        let Ok(Command::Serve(serve)) = parsed("serve --no-load-balancers") else { panic!() };
        assert!(!serve.config.external);
        let line = "edge --kubeconfig k --published 30080=127.0.0.1:8080 --exit-with-stdin";
        let Ok(Command::Edge(edge)) = parsed(line) else { panic!("{line}") };
        assert_eq!(edge.options.published[&30080], "127.0.0.1:8080".parse().unwrap());
        assert!(edge.exit_with_stdin && *edge.kubeconfig == *"k");
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, expected) in [
            ("", "what shall I do?"),
            ("run", "unknown command \"run\""),
            ("serve --nodes", "--nodes needs a value after it"),
            ("serve --nodes 0", "--nodes \"0\": give a number from 1 to 100"),
            ("serve --sandbox x", "--sandbox \"x\": give auto, namespaced or plain"),
            ("edge", "edge needs --kubeconfig PATH"),
            (
                "edge --published 80",
                "--published \"80\": give NODEPORT=IP:PORT, such as 30080=127.0.0.1:8080",
            ),
            ("serve --imagse x", "unknown argument \"--imagse\""),
        ] {
            assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
        }
    }
}
