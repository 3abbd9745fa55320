//! Image pull secrets: the credentials that a cluster's nodes need for a private registry. Of all
//! credentials on this machine, the secret contains those of that one registry.

use super::{
    credentials::{self, Credential, Login},
    push::Registry,
};
use crate::{exec::runner::CommandRunner, failure::Failure};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// The value of `--pull-secret` for the credentials that pushes use.
pub(crate) const LOGIN: &str = "login";

/// Returns the secret as a `config.json` document; `source` is [`LOGIN`] or a file of that format.
pub(crate) fn load(source: &str, registry: &Registry, runner: &CommandRunner) -> Result<String> {
    let host = registry.host_and_path().0;
    let (key, entry) = match source {
        LOGIN => entry(registry.login(runner)?.with_context(|| {
            format!(
                "there are no stored credentials for {host}; `docker login {host}` stores some, and \
                 `--pull-secret <file>` reads them from a file"
            )
        })?),
        file => read_entry(Path::new(file), registry)?,
    };
    Ok(json!({ "auths": { key: entry } }).to_string())
}

fn entry(login: Login) -> (String, Value) {
    let entry = match login.credential {
        Credential::UserPassword(user, password) => {
            json!({ "username": user, "password": password })
        }
        Credential::Basic(auth) => json!({ "auth": auth }),
    };
    (login.key, entry)
}

/// Returns the entry of a file that is for the registry: the cluster gets no other.
fn read_entry(file: &Path, registry: &Registry) -> Result<(String, Value)> {
    let text = fs::read(file).map_err(|error| {
        let message = format!(
            "failed to read `--pull-secret {0}`: {error}; allowed are `{LOGIN}` for the credentials \
             of `docker login`, and a file that `docker login` wrote",
            file.display()
        );
        anyhow::Error::from(Failure::Usage(message))
    })?;
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    let none = Map::new();
    let auths = config.get("auths").and_then(Value::as_object).unwrap_or(&none);
    let found = credentials::longest_match(auths.keys(), registry.host_and_path())
        .and_then(|key| Some((key.to_owned(), auths.get(key)?.clone())));
    let text = |entry: &Value, field: &str| {
        entry.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
    };
    match found {
        Some((key, entry))
            if text(&entry, "auth") || (text(&entry, "username") && text(&entry, "password")) =>
        {
            Ok((key, entry))
        }
        Some(_) => bail!(Failure::Usage(format!(
            "{} contains no password for {}: a credential helper stores it, which \
             `--pull-secret {LOGIN}` queries",
            file.display(),
            registry.name
        ))),
        None => bail!(Failure::Usage(format!(
            "{} contains no entry for {} in `auths`",
            file.display(),
            registry.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::process::Signals;
    use std::env;

    fn secret(config: &str, registry: &str) -> Result<String> {
        let file = env::temp_dir().join(format!("canary-pull-{}", std::process::id()));
        fs::write(&file, config).unwrap();
        let signals = Signals::install().unwrap();
        let secret = load(
            &file.to_string_lossy(),
            &Registry::parse(registry).unwrap(),
            &CommandRunner::new(&signals, None),
        );
        fs::remove_file(file).unwrap();
        secret
    }

    #[test]
    fn file_yields_the_entry_of_one_registry_under_its_own_key() {
        let config = r#"{"auths": {"ghcr.io": {"auth": "dTpw", "email": "e"},
            "https://index.docker.io/v1/": {"username": "u", "password": "p"}, "h.example": {}},
            "HttpHeaders": {}}"#;
        assert_eq!(
            secret(config, "ghcr.io/owner").unwrap(),
            r#"{"auths":{"ghcr.io":{"auth":"dTpw","email":"e"}}}"#
        );
        assert_eq!(
            secret(config, "docker.io/user").unwrap(),
            r#"{"auths":{"https://index.docker.io/v1/":{"password":"p","username":"u"}}}"#
        );
        for (config, registry, part) in [
            (config, "quay.io/x", "contains no entry for quay.io/x"),
            (config, "h.example/x", "`--pull-secret login` queries"),
            ("no", "ghcr.io/x", "contains no entry for ghcr.io/x"),
        ] {
            let error = secret(config, registry).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn login_yields_the_credentials_of_pushes() {
        let signals = Signals::install().unwrap();
        let registry =
            Registry::parse("eu-docker.pkg.dev/p/r").unwrap().with_login("oauth2accesstoken", "t");
        assert_eq!(
            load(LOGIN, &registry, &CommandRunner::new(&signals, None)).unwrap(),
            r#"{"auths":{"eu-docker.pkg.dev":{"password":"t","username":"oauth2accesstoken"}}}"#
        );
    }
}
