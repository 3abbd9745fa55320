//! Pushes images to an OCI registry without a Docker engine: the few requests of the distribution
//! specification, by curl. It is on nearly every machine, brings its own TLS, proxies and certificates,
//! and costs nothing to compile. Credentials are passed on standard input and never on a command line.
//! Blobs that the registry has are not sent again, so an interrupted push resumes.

use super::{
    Image,
    archive::{self, Packed},
    credentials::{self, Credential, Login},
};
use crate::{
    exec::{
        command_line::CommandLine,
        runner::{CommandRunner, KnownError},
    },
    failure::Failure,
    output::errln,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time for one request: a layer may be large and the network slow.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["Could not resolve host"],
        "the registry's name cannot be resolved",
        "check its name and the network",
    ),
    KnownError::new(
        &["Failed to connect", "Couldn't connect to server"],
        "the registry does not respond",
        "check its name and the network",
    ),
    KnownError::new(
        &["SSL certificate problem"],
        "the registry's certificate is not trusted",
        "add its authority to those of this machine, or set CURL_CA_BUNDLE",
    ),
];

/// A registry and path to push to, and the credential for it.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// The prefix of image names: `europe-west1-docker.pkg.dev/project/canary-labs`.
    pub(crate) name: String,
    /// `https://host`.
    base: String,
    host: String,
    path: String,
    /// `None` for the credential in Docker's configuration.
    user: Option<(String, String)>,
}

impl Registry {
    /// Parses `<host>[/<path>]`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let name = name.trim_end_matches('/');
        let (host, path) = name.split_once('/').unwrap_or((name, ""));
        let machine = host.rsplit_once(':').map_or(host, |(machine, _)| machine);
        let host_like = host.contains('.') || host.contains(':') || host == "localhost";
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if name.contains("://") || !host_like || !path.chars().all(allowed) || path.contains("//") {
            bail!(Failure::Usage(format!(
                "`{name}` is not a valid registry; expected `<host>[/<path>]` in lower case, such as \
                 localhost:5000 or docker.io/<user>"
            )));
        }
        let local = machine == "localhost" || machine.starts_with("127.");
        let at = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Ok(Self {
            name: name.into(),
            // Like Docker and containerd, which use no TLS for registries on loopback.
            base: format!("{}://{at}", if local { "http" } else { "https" }),
            host: host.into(),
            path: path.into(),
            user: None,
        })
    }

    /// Sets the user name and password.
    pub(crate) fn with_login(self, user: &str, password: &str) -> Self {
        Self { user: Some((user.into(), password.into())), ..self }
    }

    /// Returns the credential for it, if there is one.
    pub(crate) fn login(&self, runner: &CommandRunner) -> Result<Option<Login>> {
        match &self.user {
            Some((user, password)) => {
                let credential = Credential::UserPassword(user.clone(), password.clone());
                Ok(Some(Login { key: credentials::key(&self.host).into(), credential }))
            }
            None => credentials::stored(&self.host, &self.path, runner),
        }
    }

    /// Returns the host and the path, which image names begin with.
    pub(crate) fn host_and_path(&self) -> (&str, &str) {
        (&self.host, &self.path)
    }

    fn repository(&self, image: &str) -> String {
        if self.path.is_empty() { image.into() } else { format!("{}/{image}", self.path) }
    }
}

/// Pushes one image under its own name and tag.
pub(crate) fn push(registry: &Registry, image: &Image, runner: &CommandRunner) -> Result<()> {
    let to = format!("{}/{}", registry.name, image.name);
    let packed = archive::unpack(&image.archive)?;
    let (name, tag) = image.name.split_once(':').context("an image without a tag")?;
    let mut session = Session::begin(registry, name, runner, image.archive.with_extension("push"))?;
    let sent = session.push(&packed, tag).with_context(|| format!("failed to push {to}"));
    let _ = fs::remove_file(&session.body);
    match sent? {
        0 => errln!("{to} is up to date"),
        _ => errln!("pushed {to}"),
    }
    Ok(())
}

struct Session<'a> {
    registry: &'a Registry,
    runner: &'a CommandRunner<'a>,
    /// `https://host/v2/path/kubeapp`.
    url: String,
    /// The lines of curl's configuration that authenticate.
    login: String,
    /// The file with the body of a request.
    body: PathBuf,
}

/// The registry's response.
#[derive(Debug, PartialEq)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> Session<'a> {
    fn begin(
        registry: &'a Registry,
        image: &str,
        runner: &'a CommandRunner<'a>,
        body: PathBuf,
    ) -> Result<Self> {
        let repository = registry.repository(image);
        let url = format!("{}/v2/{repository}", registry.base);
        let mut session = Self { registry, runner, url, login: String::new(), body };
        let root = format!("{}/v2/", registry.base);
        let first = session.request("GET", &root, &[], None)?;
        if first.status == 401 {
            let basic = session.stored()?;
            let challenge = first.header("www-authenticate").unwrap_or_default();
            session.login = match token_url(challenge, &repository) {
                None => basic,
                Some(url) => {
                    session.login = basic;
                    let response = session.request("GET", &url, &[], None)?;
                    ensure!(response.status == 200, rejection(registry, response.status));
                    let token: Value = serde_json::from_str(&response.body).unwrap_or_default();
                    let token =
                        ["token", "access_token"].iter().find_map(|k| token.get(k)?.as_str());
                    let token = token.context("the registry returned no token")?;
                    format!("header = {}\n", quoted(&format!("Authorization: Bearer {token}")))
                }
            };
        }
        Ok(session)
    }

    /// Returns the credential as curl's configuration.
    fn stored(&self) -> Result<String> {
        Ok(match self.registry.login(self.runner)?.map(|login| login.credential) {
            None => String::new(),
            Some(Credential::UserPassword(user, password)) => {
                format!("user = {}\n", quoted(&format!("{user}:{password}")))
            }
            Some(Credential::Basic(auth)) => {
                format!("header = {}\n", quoted(&format!("Authorization: Basic {auth}")))
            }
        })
    }

    /// Pushes the blobs, then the manifest. Returns the number of blobs that had to be sent.
    fn push(&mut self, packed: &Packed, tag: &str) -> Result<usize> {
        let mut sent = 0;
        for (digest, bytes) in &packed.blobs {
            let there = self.request("HEAD", &format!("{}/blobs/{digest}", self.url), &[], None)?;
            if there.status == 200 {
                continue;
            }
            let begun =
                self.request("POST", &format!("{}/blobs/uploads/", self.url), &[], Some(b""))?;
            ensure!(begun.status == 202, rejection(self.registry, begun.status));
            let location = begun
                .header("location")
                .context("the registry returned no location for the upload")?;
            let location = self.absolute(location);
            let separator = if location.contains('?') { '&' } else { '?' };
            let url = format!("{location}{separator}digest={digest}");
            let done = self.request(
                "PUT",
                &url,
                &["Content-Type: application/octet-stream"],
                Some(bytes),
            )?;
            ensure!(done.status == 201, rejection(self.registry, done.status));
            sent += 1;
        }
        let url = format!("{}/manifests/{tag}", self.url);
        let kind = format!("Content-Type: {}", oci_archive::MANIFEST_MEDIA_TYPE);
        let done = self.request("PUT", &url, &[&kind], Some(&packed.manifest))?;
        ensure!(done.status == 201, rejection(self.registry, done.status));
        if let Some(digest) = done.header("docker-content-digest") {
            ensure!(
                digest == packed.digest.to_string(),
                "the registry stored another image: {digest}"
            );
        }
        Ok(sent)
    }

    fn absolute(&self, location: &str) -> String {
        match location.starts_with('/') {
            true => format!("{}{location}", self.registry.base),
            false => location.into(),
        }
    }

    fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[&str],
        body: Option<&[u8]>,
    ) -> Result<Response> {
        if let Some(body) = body {
            fs::write(&self.body, body)
                .with_context(|| format!("failed to write {}", self.body.display()))?;
        }
        // Credentials are for the registry alone: an upload may be redirected to another host.
        let trusted = url.starts_with(&self.registry.base) || method == "GET";
        let login = if trusted { &*self.login } else { "" };
        let config = config(method, url, headers, body.map(|_| &*self.body), login);
        let line = CommandLine::new("curl --disable --config -").stdin_text(config);
        // Tokens are responses to GET requests.
        let line = if method == "GET" { line.sensitive_output() } else { line };
        parse(&self.runner.query(&line, REQUEST_TIMEOUT)?.into_stdout(KNOWN_ERRORS)?)
    }
}

fn config(method: &str, url: &str, headers: &[&str], body: Option<&Path>, login: &str) -> String {
    let mut text = format!(
        "silent\nshow-error\ninclude\ngloboff\nmax-time = {}\nconnect-timeout = 20\n\
         noproxy = \"localhost,127.0.0.0/8,127.0.0.1\"\nurl = {}\n{login}",
        REQUEST_TIMEOUT.as_secs() - 10,
        quoted(url)
    );
    for header in headers {
        text += &format!("header = {}\n", quoted(header));
    }
    match (method, body) {
        ("HEAD", _) => text += "head\n",
        (method, Some(body)) => {
            text += &format!("request = {method}\n");
            text += &format!("data-binary = {}\n", quoted(&format!("@{}", body.display())));
        }
        (method, None) => text += &format!("request = {method}\n"),
    }
    text
}

/// Quotes a value for curl's configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', ""))
}

/// Parses the last response that curl prints: `100 Continue` or a proxy's response may precede it.
fn parse(text: &str) -> Result<Response> {
    let mut rest = text;
    loop {
        let (head, body) =
            rest.split_once("\r\n\r\n").context("invalid HTTP response from the registry")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.context("invalid HTTP response from the registry")?;
        if body.starts_with("HTTP/") {
            rest = body;
            continue;
        }
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        return Ok(Response { status, headers: headers.collect(), body: body.into() });
    }
}

/// Returns the URL of the token that a challenge requires; `None` if it requires no token.
fn token_url(challenge: &str, repository: &str) -> Option<String> {
    let fields = challenge.strip_prefix("Bearer ")?;
    let field = |name: &str| {
        let (_, rest) = fields.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let separator = if field("realm")?.contains('?') { '&' } else { '?' };
    let service = field("service").map(|service| format!("service={service}&"));
    Some(format!(
        "{}{separator}{}scope=repository:{repository}:pull,push",
        field("realm")?,
        service.unwrap_or_default()
    ))
}

fn rejection(registry: &Registry, status: u16) -> String {
    let host = &registry.host;
    match status {
        401 | 403 => format!(
            "{host} rejected the credentials ({status}); `docker login {host}` stores others"
        ),
        404 => format!("{host} has no such repository (404); create it first, or check the path"),
        413 => format!("{host} rejected the image as too large (413)"),
        429 => format!("{host} rate-limited the request (429); retry later"),
        _ => format!("{host} responded with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_names_are_parsed_or_rejected() {
        for (name, base, repository) in [
            ("localhost:5000", "http://localhost:5000", "kubeapp"),
            ("127.1.2.3:5000/a/", "http://127.1.2.3:5000", "a/kubeapp"),
            ("docker.io/user", "https://registry-1.docker.io", "user/kubeapp"),
            ("eu-docker.pkg.dev/p/r", "https://eu-docker.pkg.dev", "p/r/kubeapp"),
        ] {
            let registry = Registry::parse(name).unwrap();
            assert_eq!((&*registry.base, &*registry.repository("kubeapp")), (base, repository));
        }
        for wrong in
            ["user", "https://ghcr.io/u", "ghcr.io/User", "ghcr.io/a:1", "", "ghcr.io/a//b"]
        {
            let error = Registry::parse(wrong).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn request_is_written_as_curl_configuration() {
        let text = config(
            "PUT",
            "https://h/v2/?a=\"b\"",
            &["X: y"],
            Some(Path::new("/b")),
            "user = \"u:p\"\n",
        );
        for line in [
            r#"url = "https://h/v2/?a=\"b\"""#,
            r#"user = "u:p""#,
            r#"header = "X: y""#,
            "request = PUT",
            r#"data-binary = "@/b""#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(config("HEAD", "u", &[], None, "").ends_with("\nhead\n"));
        assert_eq!(quoted("a\nurl = evil"), "\"aurl = evil\"", "one line stays one line");
    }

    #[test]
    fn last_response_is_parsed() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nLocation: /x\r\n\r\nbody";
        let response = parse(text).unwrap();
        assert_eq!((response.status, response.header("location")), (201, Some("/x")));
        assert_eq!(response.body, "body");
        assert!(parse("SSH-2.0").is_err());
    }

    #[test]
    fn token_url_is_built_from_the_challenge() {
        let challenge =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
        assert_eq!(
            token_url(challenge, "u/kubeapp").unwrap(),
            "https://auth.docker.io/token?service=registry.docker.io&scope=repository:u/kubeapp:pull,push"
        );
        assert_eq!(token_url(r#"Basic realm="x""#, "r"), None);
    }
}
