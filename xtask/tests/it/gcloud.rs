//! The real gcloud, its plugin and kubectl, with a fake of Google's APIs on loopback whose cluster is an
//! embedded one: from `up --on gke` to a passing phase and to `down`, without an account.

use super::{
    Fixture,
    current_context::Embedded,
    exit,
    require::{images, require},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// The state of Google Cloud and the requests that it received.
#[derive(Default)]
struct Google {
    created: bool,
    repository: bool,
    requests: Vec<String>,
    /// The response to every request for a new cluster.
    refusal: Option<(u16, &'static str)>,
}

impl Google {
    /// Responds to the requests that gcloud sends to the container, Artifact Registry, Compute and Service
    /// Usage APIs.
    fn respond(&mut self, method: &str, path: &str, body: &Value, cluster: &Value) -> (u16, Value) {
        let path = path.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let operation =
            |kind: &str| json!({"name": "op-1", "status": "DONE", "operationType": kind});
        self.requests.push(format!("{method} {path}"));
        match (method, last) {
            ("GET", "container.googleapis.com") => (200, json!({"state": "ENABLED"})),
            ("GET", "clusters") if self.created => (200, json!({"clusters": [cluster]})),
            ("GET", "clusters") => (200, json!({})),
            ("POST", "clusters") => {
                if let Some((code, message)) = self.refusal {
                    let error =
                        json!({"code": code, "message": message, "status": "RESOURCE_EXHAUSTED"});
                    return (code, json!({"error": error}));
                }
                self.requests.push(body["cluster"]["resourceLabels"]["made-by"].to_string());
                self.created = true;
                (200, operation("CREATE_CLUSTER"))
            }
            ("GET", "canary-labs") if path.contains("/clusters/") && self.created => {
                (200, cluster.clone())
            }
            ("DELETE", "canary-labs") => {
                self.created = false;
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
            let _ = handle(stream, &google, &cluster);
        }
    });
    format!("http://{address}/")
}

fn handle(stream: TcpStream, google: &Mutex<Google>, cluster: &Value) -> std::io::Result<()> {
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
    let (code, response) = google.lock().unwrap().respond(method, path, &body, cluster);
    let response = response.to_string();
    write!(
        reader.get_mut(),
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{response}",
        response.len()
    )
}

#[test]
fn real_gcloud_creates_a_cluster_for_a_phase_and_deletes_it() {
    let tools = ["gcloud", "gke-gcloud-auth-plugin", "kubectl", "kube-embedded", "labs"];
    if !tools.into_iter().all(require) {
        return;
    }
    let fixture = Fixture::new("gcloud");
    super::registry::write_images(&fixture.folder);
    let embedded = Embedded::start(&fixture);
    let token = fixture.folder.join("token");
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
        let mut command = fixture.command(line);
        for (name, path) in [
            ("CONTAINER", ""),
            ("ARTIFACTREGISTRY", ""),
            ("SERVICEUSAGE", ""),
            ("COMPUTE", "compute/v1/"),
        ] {
            let variable = format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}");
            command.env(variable, format!("{api}{path}"));
        }
        command.env("CLOUDSDK_CONFIG", fixture.folder.join("gcloud"));
        command.env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", &token);
        command.env("CLOUDSDK_CORE_CHECK_GCE_METADATA", "false");
        command.env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true");
        exit(command.output().unwrap())
    };
    let up = "up --on gke --project p --location europe-west1 --registry none --yes";

    google.lock().unwrap().refusal = Some((403, "Insufficient regional quota to satisfy request"));
    let (code, text) = run(up);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains("gcloud: the project's quota is exceeded; use another `--location`"),
        "{text}"
    );
    google.lock().unwrap().refusal = None;

    let (code, text) = run(up);
    assert_eq!(code, 0, "{text}");
    // One of the two ways to select GKE's Ingress controller: `gce` in the annotation. No class at all is
    // what every other cluster gets.
    embedded.serve_class("gce");
    let labs = match images().join("kubeapp-2.0.tar").exists() {
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
    assert!(!google.created, "{:?}", google.requests);
    let requests = google.requests.join("\n");
    assert!(
        requests.contains("POST /v1/projects/p/locations/europe-west1/clusters\n\"canary-labs\"")
    );
    assert!(requests.contains("/aggregated/forwardingRules"), "{requests}");
}
