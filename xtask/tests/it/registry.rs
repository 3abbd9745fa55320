//! Pushing images to a real registry on this machine, Debian's `docker-registry`.

use super::{Fixture, eventually, exit, require::require};
use oci_archive::Digest;
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Writes two small but complete image archives, and the stamp that `xtask` keeps of them.
pub(crate) fn write_images(folder: &Path) {
    let images = folder.join("images");
    let mut stamps = Vec::new();
    for version in ["1.0", "2.0"] {
        let file = images.join(format!("kubeapp-{version}.tar"));
        let (digest, bytes) = archive(version);
        fs::write(&file, &bytes).unwrap();
        stamps.push(format!(
            r#"{{"version":"{version}","name":"kubeapp:{version}","digest":"{digest}",
                "archive":{file:?},"size":{},"rebuilt":{file:?},"binary":{file:?},
                "build_input":"KUBEAPP_VERSION={version}"}}"#,
            bytes.len()
        ));
    }
    let stamp = format!(r#"{{"inputs":"","images":[{}]}}"#, stamps.join(","));
    fs::write(images.join("stamp.json"), stamp).unwrap();
}

fn archive(version: &str) -> (String, Vec<u8>) {
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    let layer = tar(&[("app".into(), version.as_bytes())]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},
            "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&layer)
    );
    let described = |kind: &str, bytes: &[u8]| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest(bytes), bytes.len())
    };
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{},"layers":[{}]}}"#,
        described("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        described("application/vnd.oci.image.layer.v1.tar", &layer)
    );
    let index =
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, described(kind, manifest.as_bytes()));
    let blob = |bytes: &[u8]| Digest::of(bytes).blob_path();
    let bytes = tar(&[
        (blob(&layer), &layer),
        (blob(config.as_bytes()), config.as_bytes()),
        (blob(manifest.as_bytes()), manifest.as_bytes()),
        ("index.json".into(), index.as_bytes()),
    ]);
    (digest(manifest.as_bytes()), bytes)
}

fn tar(files: &[(String, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A registry that ends with its handle.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Starts one. With `password` it requires user `u` and password `p`.
    fn start(fixture: &Fixture, password: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, folder) = (format!("127.0.0.1:{port}"), &fixture.folder);
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.join("registry").display()
        );
        if password {
            let users = folder.join("htpasswd");
            fs::write(&users, "u:$2b$05$RRtk6oujjKHMhFL6k/CZROPmCH/8G422zF0mZDKOp/VFX3Bnp.pXy\n")
                .unwrap();
            config +=
                &format!("auth:\n  htpasswd:\n    realm: labs\n    path: {}\n", users.display());
        }
        let file = folder.join("registry.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let registry = Self { child, address };
        eventually("the registry listens", || TcpStream::connect(&registry.address).is_ok());
        registry
    }

    /// Returns the registry's response to a request for the manifest of a tag.
    fn manifest(&self, path: &str, tag: &str) -> String {
        let url = format!("http://{}/v2/{path}/manifests/{tag}", self.address);
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--user", "u:p", "--header", accept, &url]);
        exit(curl.output().unwrap()).1.to_lowercase()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn digests(fixture: &Fixture) -> Vec<String> {
    let stamp = fs::read(fixture.folder.join("images/stamp.json")).unwrap();
    let stamp: serde_json::Value = serde_json::from_slice(&stamp).unwrap();
    let images = stamp["images"].as_array().unwrap();
    images.iter().map(|image| image["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn images_are_pushed_to_a_registry_once() {
    let fixture = Fixture::new("registry");
    write_images(&fixture.folder);
    if !["docker-registry", "curl"].into_iter().all(require) {
        return;
    }
    let registry = Registry::start(&fixture, false);
    let push = format!("images push {}/labs/canary", registry.address);
    let (code, text) = fixture.run(&push);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("/labs/canary/kubeapp:2.0\n"), "{text}");
    for (tag, digest) in ["1.0", "2.0"].iter().zip(digests(&fixture)) {
        let found = registry.manifest("labs/canary/kubeapp", tag);
        assert!(found.contains(&format!("docker-content-digest: {digest}")), "{found}");
    }
    let (code, text) = fixture.run(&push);
    assert_eq!((code, text.matches(" is up to date").count()), (0, 2), "{text}");
    let left = fs::read_dir(fixture.folder.join("images")).unwrap();
    assert!(left.flatten().all(|file| !file.path().to_string_lossy().ends_with(".push")));
}

#[test]
fn registry_with_authentication_gets_the_credentials_of_docker_login() {
    let fixture = Fixture::new("registry-login");
    write_images(&fixture.folder);
    if !["docker-registry", "curl"].into_iter().all(require) {
        return;
    }
    let registry = Registry::start(&fixture, true);
    let push = format!("images push {}/labs", registry.address);
    // `u:q` and `u:p` in base64.
    for (auth, code, part) in [
        (None, 3, "rejected the credentials (401); `docker login 127.0.0.1:"),
        (Some("dTpx"), 3, "rejected the credentials (401)"),
        (Some("dTpw"), 0, "pushed "),
    ] {
        if let Some(auth) = auth {
            let config = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address);
            fs::write(fixture.folder.join("config.json"), config).unwrap();
        }
        let mut command = fixture.command(&push);
        let output = command.env("DOCKER_CONFIG", &fixture.folder).output().unwrap();
        let (actual, text) = exit(output);
        assert_eq!(actual, code, "{auth:?}: {text}");
        assert!(text.contains(part) && !text.contains("dTp"), "{auth:?}: {text}");
    }
    let found = registry.manifest("labs/kubeapp", "1.0");
    assert!(found.contains(&digests(&fixture)[0]), "{found}");
}

#[test]
fn absent_registry_and_corrupt_archive_are_reported() {
    let fixture = Fixture::new("registry-gone");
    write_images(&fixture.folder);
    if !require("curl") {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, text) = fixture.run(&format!("images push 127.0.0.1:{port}/labs"));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("the registry does not respond; check its name"), "{text}");
    let file = fixture.folder.join("images/kubeapp-1.0.tar");
    let size = fs::metadata(&file).unwrap().len();
    fs::write(file, vec![0; size as usize]).unwrap();
    let (code, text) = fixture.run(&format!("images push 127.0.0.1:{port}/labs"));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("is not an image archive"), "{text}");
}
