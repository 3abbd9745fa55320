//! Pushing an image to an OCI registry, without a Docker engine: the few requests of the distribution
//! specification, by curl. It is on nearly every machine, brings TLS, proxies and certificates of its
//! own, and costs nothing to compile; credentials reach it on its standard input and are on no command
//! line. What a registry has already is not sent again, so a push that was interrupted goes on.

use super::{
    Image,
    archive::{self, Packed},
    credentials::{self, Login, Who},
};
use crate::{
    failure::Failure,
    tool::{Fault, Line, Tools},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A layer may be large and the network slow.
const REQUEST: Duration = Duration::from_secs(300);

const FAULTS: &[Fault] = &[
    ("Could not resolve host", "the registry is not known", "check its name and the network"),
    ("Failed to connect", "the registry does not answer", "check its name and the network"),
    (
        "Couldn't connect to server",
        "the registry does not answer",
        "check its name and the network",
    ),
    (
        "SSL certificate problem",
        "the registry's certificate is not trusted",
        "add its authority to this machine's, or set CURL_CA_BUNDLE",
    ),
];

/// A place for images and who we are there.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// As image names begin: `europe-west1-docker.pkg.dev/project/canary-labs`.
    pub(crate) name: String,
    /// `https://host`.
    base: String,
    host: String,
    path: String,
    /// Else whatever Docker's configuration knows.
    user: Option<(String, String)>,
}

impl Registry {
    /// A registry by its name.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let name = name.trim_end_matches('/');
        let (host, path) = name.split_once('/').unwrap_or((name, ""));
        let machine = host.rsplit_once(':').map_or(host, |(machine, _)| machine);
        let host_like = host.contains('.') || host.contains(':') || host == "localhost";
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if name.contains("://") || !host_like || !path.chars().all(allowed) || path.contains("//") {
            bail!(Failure::Usage(format!(
                "`{name}` names no registry: `<host>/<path>` in small letters, such as \
                 localhost:5000 or docker.io/<user>"
            )));
        }
        let here = machine == "localhost" || machine.starts_with("127.");
        let at = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Ok(Self {
            name: name.into(),
            // As everybody does: no certificates on this machine itself.
            base: format!("{}://{at}", if here { "http" } else { "https" }),
            host: host.into(),
            path: path.into(),
            user: None,
        })
    }

    /// The same, as that user.
    pub(crate) fn with(self, user: &str, password: &str) -> Self {
        Self { user: Some((user.into(), password.into())), ..self }
    }

    /// Who we are there; `None` if nobody knows.
    pub(crate) fn login(&self, tools: &Tools) -> Result<Option<Login>> {
        match &self.user {
            Some((user, password)) => {
                let who = Who::User(user.clone(), password.clone());
                Ok(Some(Login { key: credentials::key(&self.host).into(), who }))
            }
            None => credentials::stored(&self.host, &self.path, tools),
        }
    }

    /// What an image's name begins with that is pulled from there: the host, then the path.
    pub(crate) fn place(&self) -> (&str, &str) {
        (&self.host, &self.path)
    }

    fn repository(&self, image: &str) -> String {
        if self.path.is_empty() { image.into() } else { format!("{}/{image}", self.path) }
    }
}

/// Pushes one image under its own name and tag.
pub(crate) fn push(registry: &Registry, image: &Image, tools: &Tools) -> Result<()> {
    let to = format!("{}/{}", registry.name, image.name);
    let packed = archive::unpack(&image.archive)?;
    let (name, tag) = image.name.split_once(':').context("an image without a tag")?;
    let mut session = Session::begin(registry, name, tools, image.archive.with_extension("push"))?;
    let sent = session.push(&packed, tag).with_context(|| format!("cannot push {to}"));
    let _ = fs::remove_file(&session.body);
    match sent? {
        0 => eprintln!("pushed {to}, which was there"),
        _ => eprintln!("pushed {to}"),
    }
    Ok(())
}

struct Session<'a> {
    registry: &'a Registry,
    tools: &'a Tools<'a>,
    /// `https://host/v2/path/kubeapp`.
    url: String,
    /// Lines of curl's configuration that say who we are.
    login: String,
    /// What is being sent.
    body: PathBuf,
}

/// What a registry said.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> Session<'a> {
    fn begin(
        registry: &'a Registry,
        image: &str,
        tools: &'a Tools<'a>,
        body: PathBuf,
    ) -> Result<Self> {
        let repository = registry.repository(image);
        let url = format!("{}/v2/{repository}", registry.base);
        let mut session = Self { registry, tools, url, login: String::new(), body };
        let root = format!("{}/v2/", registry.base);
        let first = session.request("GET", &root, &[], None)?;
        if first.status == 401 {
            let basic = session.stored()?;
            let challenge = first.header("www-authenticate").unwrap_or_default();
            session.login = match bearer(challenge, &repository) {
                None => basic,
                Some(url) => {
                    session.login = basic;
                    let answer = session.request("GET", &url, &[], None)?;
                    ensure!(answer.status == 200, refused(registry, answer.status));
                    let token: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                    let token =
                        ["token", "access_token"].iter().find_map(|k| token.get(k)?.as_str());
                    let token = token.context("the registry hands out no token")?;
                    format!("header = {}\n", quoted(&format!("Authorization: Bearer {token}")))
                }
            };
        }
        Ok(session)
    }

    /// Who we are, as curl's configuration.
    fn stored(&self) -> Result<String> {
        Ok(match self.registry.login(self.tools)?.map(|login| login.who) {
            None => String::new(),
            Some(Who::User(user, password)) => {
                format!("user = {}\n", quoted(&format!("{user}:{password}")))
            }
            Some(Who::Basic(auth)) => {
                format!("header = {}\n", quoted(&format!("Authorization: Basic {auth}")))
            }
        })
    }

    /// Answers how many blobs had to be sent.
    fn push(&mut self, packed: &Packed, tag: &str) -> Result<usize> {
        let mut sent = 0;
        for (digest, bytes) in &packed.blobs {
            let there = self.request("HEAD", &format!("{}/blobs/{digest}", self.url), &[], None)?;
            if there.status == 200 {
                continue;
            }
            let begun =
                self.request("POST", &format!("{}/blobs/uploads/", self.url), &[], Some(b""))?;
            ensure!(begun.status == 202, refused(self.registry, begun.status));
            let location = begun.header("location").context("no location for the upload")?;
            let location = self.absolute(location);
            let separator = if location.contains('?') { '&' } else { '?' };
            let url = format!("{location}{separator}digest={digest}");
            let done = self.request(
                "PUT",
                &url,
                &["Content-Type: application/octet-stream"],
                Some(bytes),
            )?;
            ensure!(done.status == 201, refused(self.registry, done.status));
            sent += 1;
        }
        let url = format!("{}/manifests/{tag}", self.url);
        let kind = format!("Content-Type: {}", oci_archive::MANIFEST_MEDIA_TYPE);
        let done = self.request("PUT", &url, &[&kind], Some(&packed.manifest))?;
        ensure!(done.status == 201, refused(self.registry, done.status));
        if let Some(digest) = done.header("docker-content-digest") {
            ensure!(
                digest == packed.digest.to_string(),
                "the registry has stored another image: {digest}"
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
    ) -> Result<Answer> {
        if let Some(body) = body {
            fs::write(&self.body, body)
                .with_context(|| format!("cannot write {}", self.body.display()))?;
        }
        // Who we are is for the registry alone, wherever it sends us to upload.
        let ours = url.starts_with(&self.registry.base) || method == "GET";
        let login = if ours { &*self.login } else { "" };
        let config = config(method, url, headers, body.map(|_| &*self.body), login);
        let line = Line::new("curl --disable --config -").told(config);
        // Tokens are handed out so.
        let line = if method == "GET" { line.answering_in_private() } else { line };
        answer(&self.tools.ask(&line, REQUEST)?.well(FAULTS)?)
    }
}

fn config(method: &str, url: &str, headers: &[&str], body: Option<&Path>, login: &str) -> String {
    let mut text = format!(
        "silent\nshow-error\ninclude\ngloboff\nmax-time = {}\nconnect-timeout = 20\n\
         noproxy = \"localhost,127.0.0.0/8,127.0.0.1\"\nurl = {}\n{login}",
        REQUEST.as_secs() - 10,
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

/// As curl's configuration takes a text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', ""))
}

/// The last answer of what curl shows: before it there may be `100 Continue`, or a proxy's own.
fn answer(text: &str) -> Result<Answer> {
    let mut rest = text;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").context("the registry speaks no HTTP")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.context("the registry speaks no HTTP")?;
        if body.starts_with("HTTP/") {
            rest = body;
            continue;
        }
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        return Ok(Answer { status, headers: headers.collect(), body: body.into() });
    }
}

/// Where the token is to be had that a challenge asks for; `None` if it asks for no token.
fn bearer(challenge: &str, repository: &str) -> Option<String> {
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

fn refused(registry: &Registry, status: u16) -> String {
    let host = &registry.host;
    match status {
        401 | 403 => format!(
            "{host} refuses the credentials ({status}); `docker login {host}` stores others"
        ),
        404 => format!("{host} has no such repository (404); make it first, or check the path"),
        413 => format!("{host} finds the image too large (413)"),
        429 => format!("{host} has had too many requests (429); wait a while"),
        _ => format!("{host} answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_from_other_words() {
        for (name, base, repository) in [
            ("localhost:5000", "http://localhost:5000", "kubeapp"),
            ("127.1.2.3:5000/a/", "http://127.1.2.3:5000", "a/kubeapp"),
            ("docker.io/user", "https://registry-1.docker.io", "user/kubeapp"),
            ("eu-docker.pkg.dev/p/r", "https://eu-docker.pkg.dev", "p/r/kubeapp"),
        ] {
            let registry = Registry::of(name).unwrap();
            assert_eq!((&*registry.base, &*registry.repository("kubeapp")), (base, repository));
        }
        for wrong in
            ["user", "https://ghcr.io/u", "ghcr.io/User", "ghcr.io/a:1", "", "ghcr.io/a//b"]
        {
            let error = Registry::of(wrong).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_curls_configuration() {
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
    fn the_last_answer_counts() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nLocation: /x\r\n\r\nbody";
        let answer = answer(text).unwrap();
        assert_eq!((answer.status, answer.header("location")), (201, Some("/x")));
        assert_eq!(answer.body, "body");
        assert!(super::answer("SSH-2.0").is_err());
    }

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let challenge =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
        assert_eq!(
            bearer(challenge, "u/kubeapp").unwrap(),
            "https://auth.docker.io/token?service=registry.docker.io&scope=repository:u/kubeapp:pull,push"
        );
        assert_eq!(bearer(r#"Basic realm="x""#, "r"), None);
    }
}
