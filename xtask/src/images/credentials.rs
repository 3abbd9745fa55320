//! Registry credentials: from Docker's config.json or a credential helper. They are never printed or
//! logged.

use crate::exec::{command_line::CommandLine, runner::CommandRunner};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{env, fs, path::PathBuf, time::Duration};

/// Time for a credential helper to respond: it may have to query a keyring.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The credential for one registry.
pub(crate) struct Login {
    /// The key of the registry in Docker's configuration, which kubelets match, too.
    pub(crate) key: String,
    pub(crate) credential: Credential,
}

/// A user name and password, in the form in which they were found.
#[derive(Debug, PartialEq)]
pub(crate) enum Credential {
    UserPassword(String, String),
    /// `user:password` in base64, as HTTP basic authentication sends it.
    Basic(String),
}

/// Returns the key of a registry in Docker's configuration.
pub(crate) fn key(host: &str) -> &str {
    if host == "docker.io" { "https://index.docker.io/v1/" } else { host }
}

/// Returns how much of a registry's path a key of Docker's configuration matches; `None` if it is for
/// another registry. The rules are the kubelet's: an optional scheme, a legacy `/v1/`, then a path.
fn match_length(key: &str, (host, path): (&str, &str)) -> Option<usize> {
    let bare = key.split_once("://").map_or(key, |(_, bare)| bare);
    let (named, below) = bare.split_once('/').unwrap_or((bare, ""));
    let below = below.strip_prefix("v1/").or_else(|| below.strip_prefix("v2/")).unwrap_or(below);
    let below = below.trim_matches('/');
    let hub = |host: &str| ["docker.io", "index.docker.io"].contains(&host);
    let inside = path
        .strip_prefix(below)
        .is_some_and(|rest| below.is_empty() || rest.is_empty() || rest.starts_with('/'));
    ((named == host || (hub(named) && hub(host))) && inside).then_some(below.len())
}

/// Returns the key that matches most of the path, as the kubelet chooses it.
pub(crate) fn longest_match<'a>(
    keys: impl Iterator<Item = &'a String>,
    place: (&str, &str),
) -> Option<&'a str> {
    let matching = keys.filter_map(|key| Some((match_length(key, place)?, key.as_str())));
    matching.max_by_key(|(length, _)| *length).map(|(_, key)| key)
}

/// Returns the credential that `docker login` stored for a registry.
pub(crate) fn stored(host: &str, path: &str, runner: &CommandRunner) -> Result<Option<Login>> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(env::home_dir()?.join(".docker"))).unwrap_or_default();
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    match find(&config, (host, path)) {
        Stored::Nothing => Ok(None),
        Stored::Basic(key, auth) => Ok(Some(Login { key, credential: Credential::Basic(auth) })),
        Stored::Helper(key, helper) => {
            let line = CommandLine::new(&format!("docker-credential-{helper} get"));
            let line = line.stdin_text(format!("{key}\n")).sensitive_output_except_errors();
            let output = runner.query(&line, HELPER_TIMEOUT)?.into_stdout(&[])?;
            Ok(Some(Login { key, credential: parse_helper_output(&helper, &output)? }))
        }
    }
}

#[derive(Debug, PartialEq)]
enum Stored {
    Nothing,
    Basic(String, String),
    Helper(String, String),
}

fn find(config: &Value, place: (&str, &str)) -> Stored {
    let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned()).filter(|t| !t.is_empty());
    let of = |field: &str| {
        let all = config.get(field)?.as_object()?;
        let key = longest_match(all.keys(), place)?;
        Some((key.to_owned(), all.get(key)?))
    };
    let auths = of("auths");
    if let Some((key, helper)) = of("credHelpers")
        && let Some(helper) = text(Some(helper))
    {
        return Stored::Helper(key, helper);
    }
    match auths {
        None => Stored::Nothing,
        Some((key, entry)) => match (text(entry.get("auth")), text(config.get("credsStore"))) {
            (Some(auth), _) => Stored::Basic(key, auth),
            (None, Some(helper)) => Stored::Helper(key, helper),
            (None, None) => Stored::Nothing,
        },
    }
}

fn parse_helper_output(helper: &str, output: &str) -> Result<Credential> {
    let problem = || format!("docker-credential-{helper} returned no user name and password");
    let output: Value = serde_json::from_str(output).ok().with_context(problem)?;
    let field = |name: &str| Some(output.get(name)?.as_str()?.to_owned());
    let (name, password) = field("Username").zip(field("Secret")).with_context(problem)?;
    ensure!(
        name != "<token>",
        "docker-credential-{helper} returned an identity token instead of a user name and password; \
         `docker login` with an access token of the registry stores those"
    );
    Ok(Credential::UserPassword(name, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_are_found_as_the_kubelet_finds_them() {
        let config = json!({
            "auths": {"ghcr.io": {"auth": "dTpw"}, "https://index.docker.io/v1/": {},
                "https://old.example/v1/": {"auth": "b2xk"}, "quay.io/team": {"auth": "dGVhbQ=="},
                "quay.io/team/app": {"auth": "YXBw"}},
            "credHelpers": {"eu-docker.pkg.dev": "gcloud"}, "credsStore": "desktop",
        });
        let basic = |key: &str, auth: &str| Stored::Basic(key.into(), auth.into());
        let helper = |key: &str, helper: &str| Stored::Helper(key.into(), helper.into());
        for (place, expected) in [
            (("ghcr.io", "owner"), basic("ghcr.io", "dTpw")),
            (("eu-docker.pkg.dev", "p/r"), helper("eu-docker.pkg.dev", "gcloud")),
            (("docker.io", "user"), helper("https://index.docker.io/v1/", "desktop")),
            (("old.example", ""), basic("https://old.example/v1/", "b2xk")),
            (("quay.io", "team/app/x"), basic("quay.io/team/app", "YXBw")),
            (("quay.io", "team/application"), basic("quay.io/team", "dGVhbQ==")),
            (("quay.io", "teams"), Stored::Nothing),
            (("other.example:5000", ""), Stored::Nothing),
        ] {
            assert_eq!(find(&config, place), expected, "{place:?}");
        }
        assert_eq!(find(&Value::Null, ("ghcr.io", "")), Stored::Nothing);
    }

    #[test]
    fn credential_helper_output_is_parsed_or_rejected() {
        let credential =
            parse_helper_output("x", r#"{"ServerURL":"h","Username":"u","Secret":"p"}"#).unwrap();
        assert_eq!(credential, Credential::UserPassword("u".into(), "p".into()));
        for (output, part) in [
            ("no", "no user name and password"),
            (r#"{"Username":"u"}"#, "no user name and password"),
            (r#"{"Username":"<token>","Secret":"hidden"}"#, "an identity token"),
        ] {
            let error = parse_helper_output("x", output).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("hidden"), "{error}");
        }
    }
}
