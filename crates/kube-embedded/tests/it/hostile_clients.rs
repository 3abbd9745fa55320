//! Clients that hold connections and read nothing, against the program itself: it has the descriptors
//! and the memory of a process.

use crate::fixture::{
    eventually, in_time,
    program::{Directory, PROGRAM, start},
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Namespace, Service},
        networking::v1::Ingress,
    },
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{fs, net::SocketAddr, process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// A cluster in a process of its own.
struct Program {
    child: Child,
    kubeconfig: String,
    address: SocketAddr,
    _directory: Directory,
}

impl Program {
    /// Starts the program with this limit on open files, soft and hard.
    async fn start(open_files: u32) -> Self {
        let directory = Directory::new();
        let config = directory.path().join("config");
        let script = "ulimit -n \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh", &open_files.to_string(), PROGRAM, "serve"])
            .args(["--sandbox", "plain", "--nodes", "1", "--exit-with-stdin", "--state"])
            .arg(directory.path())
            .arg("--kubeconfig")
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let (child, ready) = start(&mut command).await;
        let address = ready["server"].as_str().unwrap().trim_start_matches("https://");
        let address = address.parse().unwrap();
        let kubeconfig = fs::read_to_string(config).unwrap();
        Self { child, kubeconfig, address, _directory: directory }
    }

    /// Returns a client that has no connection yet.
    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig).unwrap();
        let options = Default::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Returns a figure of `/proc/PID/status`, in its unit.
    fn status(&self, name: &str) -> u64 {
        let pid = self.child.id().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id().unwrap())).unwrap().count()
    }

    /// Connects over TLS as the kubeconfig's user, with a receive buffer that is soon full.
    async fn connect(&self, connector: &TlsConnector) -> TlsStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = in_time(socket.connect(self.address)).await.unwrap();
        let name = ServerName::from(self.address.ip());
        in_time(connector.connect(name, stream)).await.unwrap()
    }

    fn connector(&self) -> TlsConnector {
        let pem = |name: &str| -> Vec<u8> {
            let field = self.kubeconfig.split_whitespace().skip_while(|word| *word != name).nth(1);
            serde_json::from_value::<ByteString>(json!(field.unwrap())).unwrap().0
        };
        let certificate =
            |name: &str| CertificateDer::from_pem_slice(&pem(name)).unwrap().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(certificate("certificate-authority-data:")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data:")).unwrap();
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate("client-certificate-data:")], key);
        TlsConnector::from(Arc::new(config.unwrap()))
    }
}

fn object<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

/// Opens connections that send nothing.
async fn idle(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(in_time(TcpStream::connect(to)).await.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_descriptors_to_other_clients() {
    const LIMIT: u32 = 256;
    let program = Program::start(LIMIT).await;
    let client = program.client().await;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = json!({ "metadata": { "name": "app" }, "spec": { "ports": [{ "port": 8080 }] } });
    services.create(&PostParams::default(), &object(service)).await.unwrap();
    let ingresses: Api<Ingress> = Api::default_namespaced(client.clone());
    let backend = json!({ "service": { "name": "app", "port": { "number": 8080 } } });
    let ingress = json!({ "metadata": { "name": "app" }, "spec": { "defaultBackend": backend } });
    ingresses.create(&PostParams::default(), &object(ingress)).await.unwrap();
    let published = eventually("the address of the Ingress", async || {
        let ingress = ingresses.get("app").await.unwrap();
        let annotations = ingress.metadata.annotations.unwrap_or_default();
        let status = ingress.status?.load_balancer?.ingress?;
        // Where port 80 may not be bound, an annotation names its replacement.
        let moved = annotations.get("canary-labs.dev/published-port");
        let port = moved.and_then(|all| Some(all.split(',').next()?.split_once('=')?.1));
        Some(format!("{}:{}", status.first()?.ip.clone()?, port.unwrap_or("80")))
    })
    .await;
    let published: SocketAddr = published.parse().unwrap();

    let _to_ingress = idle(published, 400).await;
    let _to_api = idle(program.address, 200).await;
    eventually("idle connections to be closed", async || {
        let open = program.descriptors();
        if open < LIMIT as usize { Ok(()) } else { Err(format!("{open} descriptors")) }
    })
    .await;
    for n in 0..5 {
        // A new connection each.
        let namespaces: Api<Namespace> = Api::all(program.client().await);
        in_time(namespaces.list(&ListParams::default())).await.unwrap();
        let mut stream = in_time(TcpStream::connect(published)).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        in_time(stream.read_to_string(&mut response)).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 503"), "request {n}: {response:?}");
    }
    // The client that was there before has not noticed.
    in_time(services.get("app")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_watches_cost_little_memory_each() {
    const WATCHES: u64 = 200;
    const EVENTS: usize = 300;
    let program = Program::start(4096).await;
    let connector = program.connector();
    let maps: Api<ConfigMap> = Api::default_namespaced(program.client().await);
    let value = "x".repeat(16 << 10);
    let map = json!({ "metadata": { "name": "large" }, "data": { "k": value } });
    maps.create(&PostParams::default(), &object(map)).await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let mut stream = program.connect(&connector).await;
        let request = "GET /api/v1/configmaps?watch=true HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        in_time(stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        watches.push(stream);
    }
    let before = program.status("VmRSS:");
    for n in 0..EVENTS {
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        in_time(maps.patch("large", &PatchParams::default(), &patch)).await.unwrap();
    }
    let each = program.status("VmRSS:").saturating_sub(before) / WATCHES;
    println!("{each} KiB for each watch");
    // The history of the events is about 20 MiB, 100 KiB for each watch.
    assert!(each < 300, "{each} KiB for each watch");
    // A watch that is read gets all events.
    let mut seen = Vec::new();
    let last = format!("\"n\":\"{}\"", EVENTS - 1);
    while !seen.windows(last.len()).any(|part| part == last.as_bytes()) {
        let mut chunk = vec![0; 1 << 20];
        let read = in_time(watches[0].read(&mut chunk)).await.unwrap();
        assert!(read > 0, "the watch ended");
        let keep = seen.len().saturating_sub(last.len());
        seen.drain(..keep);
        seen.extend_from_slice(&chunk[..read]);
    }
}
