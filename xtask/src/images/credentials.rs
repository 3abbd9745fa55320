//! Who we are at a registry: what `docker login` has left in Docker's configuration, or what a program
//! hands out that keeps it elsewhere. Nothing of it is printed or logged.

use crate::tool::{Line, Tools};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{env, fs, path::PathBuf, time::Duration};

/// For a helper to answer: it may have to ask a keyring.
const HELPER: Duration = Duration::from_secs(30);

/// A way in.
pub(crate) struct Login {
    /// What Docker's configuration calls the registry, which kubelets go by, too.
    pub(crate) key: String,
    pub(crate) who: Who,
}

/// Name and password, as they were found.
#[derive(Debug, PartialEq)]
pub(crate) enum Who {
    User(String, String),
    /// Both in base 64, as HTTP sends them.
    Basic(String),
}

/// What Docker's configuration calls a registry.
pub(crate) fn key(host: &str) -> &str {
    if host == "docker.io" { "https://index.docker.io/v1/" } else { host }
}

/// How much of a registry's path a key of Docker's configuration names; `None` if it is another
/// registry's. The rules are kubelet's: with or without a scheme, `/v1/` of old, then a path.
pub(crate) fn covers(key: &str, (host, path): (&str, &str)) -> Option<usize> {
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

/// Of all keys the one that names most of the path, as kubelets choose.
pub(crate) fn nearest<'a>(
    keys: impl Iterator<Item = &'a String>,
    place: (&str, &str),
) -> Option<&'a str> {
    let covering = keys.filter_map(|key| Some((covers(key, place)?, key.as_str())));
    covering.max_by_key(|(length, _)| *length).map(|(_, key)| key)
}

/// What `docker login` has stored for a registry.
pub(crate) fn stored(host: &str, path: &str, tools: &Tools) -> Result<Option<Login>> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(env::home_dir()?.join(".docker"))).unwrap_or_default();
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    match find(&config, (host, path)) {
        Stored::Nothing => Ok(None),
        Stored::Basic(key, auth) => Ok(Some(Login { key, who: Who::Basic(auth) })),
        Stored::Helper(key, helper) => {
            let line = Line::new(&format!("docker-credential-{helper} get"));
            let line = line.told(format!("{key}\n")).answering_in_private_or_why_not();
            let answer = tools.ask(&line, HELPER)?.well(&[])?;
            Ok(Some(Login { key, who: of_helper(&helper, &answer)? }))
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
        let key = nearest(all.keys(), place)?;
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

fn of_helper(helper: &str, answer: &str) -> Result<Who> {
    let problem = || format!("docker-credential-{helper} answers with no name and password");
    let answer: Value = serde_json::from_str(answer).ok().with_context(problem)?;
    let field = |name: &str| Some(answer.get(name)?.as_str()?.to_owned());
    let (name, password) = field("Username").zip(field("Secret")).with_context(problem)?;
    ensure!(
        name != "<token>",
        "docker-credential-{helper} has an identity token there, which is no name and password; \
         `docker login` with an access token of the registry stores some"
    );
    Ok(Who::User(name, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_are_those_of_docker_login() {
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
    fn a_helper_answers_with_a_name_and_a_password_or_else_why_not() {
        let who = of_helper("x", r#"{"ServerURL":"h","Username":"u","Secret":"p"}"#).unwrap();
        assert_eq!(who, Who::User("u".into(), "p".into()));
        for (answer, part) in [
            ("no", "no name and password"),
            (r#"{"Username":"u"}"#, "no name and password"),
            (r#"{"Username":"<token>","Secret":"hidden"}"#, "an identity token"),
        ] {
            let error = of_helper("x", answer).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("hidden"), "{error}");
        }
    }
}
