//! The real gcloud, its plugin and kubectl, in front of a stand-in of Google's APIs on loopback that
//! hands out an embedded cluster: the whole way from `up --on gke` to a green phase and to `down`,
//! without an account. Where one of these programs is missing, the test says that it did not run.

use super::{
    World, ended,
    real::{Embedded, images, lacking},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

/// What Google's side knows: whether the cluster is there, and what it was asked.
#[derive(Default)]
struct Google {
    made: bool,
    repository: bool,
    asked: Vec<String>,
    /// Answers every request for a new cluster so.
    refusal: Option<(u16, &'static str)>,
}

impl Google {
    /// The one answer to each request of the container, Artifact Registry, Compute and Service Usage
    /// APIs that gcloud makes on the way.
    fn answer(&mut self, method: &str, path: &str, body: &Value, cluster: &Value) -> (u16, Value) {
        let path = path.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let operation =
            |kind: &str| json!({"name": "op-1", "status": "DONE", "operationType": kind});
        self.asked.push(format!("{method} {path}"));
        match (method, last) {
            ("GET", "container.googleapis.com") => (200, json!({"state": "ENABLED"})),
            ("GET", "clusters") if self.made => (200, json!({"clusters": [cluster]})),
            ("GET", "clusters") => (200, json!({})),
            ("POST", "clusters") => {
                if let Some((code, message)) = self.refusal {
                    let error =
                        json!({"code": code, "message": message, "status": "RESOURCE_EXHAUSTED"});
                    return (code, json!({"error": error}));
                }
                self.asked.push(body["cluster"]["resourceLabels"]["made-by"].to_string());
                self.made = true;
                (200, operation("CREATE_CLUSTER"))
            }
            ("GET", "canary-labs") if path.contains("/clusters/") && self.made => {
                (200, cluster.clone())
            }
            ("DELETE", "canary-labs") => {
                self.made = false;
                (200, operation("DELETE_CLUSTER"))
            }
            ("GET", "op-1") => (200, operation("CREATE_CLUSTER")),
            ("POST", "repositories") if self.repository => {
                let message = "the repository already exists";
                let error = json!({"code": 409, "message": message, "status": "ALREADY_EXISTS"});
                (409, json!({"error": error}))
            }
            ("POST", "repositories") => {
                self.repository = true;
                let name = "projects/p/locations/europe-west1/operations/op-2";
                (200, json!({"name": name, "done": true, "response": {}}))
            }
            ("GET", "op-2") => {
                let name = "projects/p/locations/europe-west1/operations/op-2";
                (200, json!({"name": name, "done": true, "response": {}}))
            }
            ("GET", "repositories") => (200, json!({"repositories": []})),
            ("GET", _) if path.contains("/aggregated/") => (200, json!({"items": {}})),
            _ => (
                404,
                json!({"error": {"code": 404, "message": "not found", "status": "NOT_FOUND"}}),
            ),
        }
    }
}

fn serve(google: Arc<Mutex<Google>>, cluster: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = converse(stream, &google, &cluster);
        }
    });
    format!("http://{address}/")
}

fn converse(stream: TcpStream, google: &Mutex<Google>, cluster: &Value) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (code, answer) = google.lock().unwrap().answer(method, path, &body, cluster);
    let answer = answer.to_string();
    write!(
        reader.get_mut(),
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    )
}

#[test]
fn the_real_gcloud_makes_a_cluster_for_a_phase_and_takes_it_apart() {
    let Some(binaries) = Path::new(env!("CARGO_BIN_EXE_xtask")).parent() else { return };
    if let Some(lack) = lacking(&["gcloud", "gke-gcloud-auth-plugin", "kubectl"]) {
        return eprintln!("not tested: {lack}");
    }
    let world = World::new("gcloud");
    super::registry::write_images(&world.folder);
    let embedded = Embedded::start(binaries, &world);
    let token = world.folder.join("token");
    fs::write(&token, &embedded.token).unwrap();
    let google = Arc::new(Mutex::new(Google::default()));
    let api = serve(
        google.clone(),
        json!({"name": "canary-labs", "location": "europe-west1", "zone": "europe-west1",
            "status": "RUNNING", "endpoint": embedded.endpoint, "currentMasterVersion": "1.36.2",
            "selfLink": "https://container.googleapis.com/v1/projects/p/locations/europe-west1/clusters/canary-labs",
            "masterAuth": {"clusterCaCertificate": embedded.authority}}),
    );
    let run = |line: &str| {
        let mut command = world.command(line);
        for (name, path) in [
            ("CONTAINER", ""),
            ("ARTIFACTREGISTRY", ""),
            ("SERVICEUSAGE", ""),
            ("COMPUTE", "compute/v1/"),
        ] {
            let variable = format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}");
            command.env(variable, format!("{api}{path}"));
        }
        command.env("CLOUDSDK_CONFIG", world.folder.join("gcloud"));
        command.env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", &token);
        command.env("CLOUDSDK_CORE_CHECK_GCE_METADATA", "false");
        command.env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true");
        ended(command.output().unwrap())
    };
    let up = "up --on gke --project p --location europe-west1 --registry none --yes";

    google.lock().unwrap().refusal = Some((403, "Insufficient regional quota to satisfy request"));
    let (code, text) = run(up);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains("gcloud: the project's quota refuses it; another `--location`"),
        "{text}"
    );
    google.lock().unwrap().refusal = None;

    let (code, text) = run(up);
    assert_eq!(code, 0, "{text}");
    // One of the two ways in which GKE takes an Ingress for its own: `gce` in the annotation. No class
    // at all is what every other cluster gets.
    embedded.serve_class("gce");
    let labs = match images(binaries).join("kubeapp-2.0.tar").exists() {
        true => &["lab phase0 phase4 --on gke", "lab phase5 --on gke --ingress-class gce"][..],
        false => &["lab phase0 --on gke"],
    };
    for lab in labs {
        let (code, text) = run(lab);
        assert_eq!(code, 0, "{lab}: {text}");
        assert!(text.contains("\nevery claim"), "{lab}: {text}");
    }
    let (code, text) = run("down --on gke");
    assert_eq!(code, 0, "{text}");
    let google = google.lock().unwrap();
    assert!(!google.made, "{:?}", google.asked);
    let asked = google.asked.join("\n");
    assert!(asked.contains("POST /v1/projects/p/locations/europe-west1/clusters\n\"canary-labs\""));
    assert!(asked.contains("/aggregated/forwardingRules"), "{asked}");
}
