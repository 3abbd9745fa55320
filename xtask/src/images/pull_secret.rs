//! What a cluster's nodes need to pull from a registry that lets not everybody in: of all credentials
//! that this machine has, those of that one registry, as Docker and Kubernetes write them.

use super::{
    credentials::{self, Login, Who},
    push::Registry,
};
use crate::{failure::Failure, tool::Tools};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// Said instead of a file: what pushes use.
pub(crate) const LOGIN: &str = "login";

/// The document for the cluster; `source` is [`LOGIN`] or a file of such documents.
pub(crate) fn of(source: &str, registry: &Registry, tools: &Tools) -> Result<String> {
    let host = registry.place().0;
    let (key, entry) = match source {
        LOGIN => entry(registry.login(tools)?.with_context(|| {
            format!(
                "nobody has logged in to {host} here: `docker login {host}` does, and \
                 `--pull-secret <file>` takes credentials from a file"
            )
        })?),
        file => chosen(Path::new(file), registry)?,
    };
    Ok(json!({ "auths": { key: entry } }).to_string())
}

fn entry(login: Login) -> (String, Value) {
    let entry = match login.who {
        Who::User(user, password) => json!({ "username": user, "password": password }),
        Who::Basic(auth) => json!({ "auth": auth }),
    };
    (login.key, entry)
}

/// The one entry of a file that is for the registry: the others are not the cluster's business.
fn chosen(file: &Path, registry: &Registry) -> Result<(String, Value)> {
    let text = fs::read(file).map_err(|error| {
        let message = format!(
            "`--pull-secret {0}`: {error}; it is `{LOGIN}` for what `docker login` has stored, or \
             a file that `docker login` wrote",
            file.display()
        );
        anyhow::Error::from(Failure::Usage(message))
    })?;
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    let none = Map::new();
    let auths = config.get("auths").and_then(Value::as_object).unwrap_or(&none);
    let found = credentials::nearest(auths.keys(), registry.place())
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
            "{} names {} and holds no password for it: a credential helper keeps that, which \
             `--pull-secret {LOGIN}` asks",
            file.display(),
            registry.name
        ))),
        None => bail!(Failure::Usage(format!(
            "{} holds nothing for {} below `auths`",
            file.display(),
            registry.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Signals;
    use std::env;

    fn said(config: &str, registry: &str) -> Result<String> {
        let file = env::temp_dir().join(format!("canary-pull-{}", std::process::id()));
        fs::write(&file, config).unwrap();
        let signals = Signals::block().unwrap();
        let said = of(
            &file.to_string_lossy(),
            &Registry::of(registry).unwrap(),
            &Tools::new(&signals, None),
        );
        fs::remove_file(file).unwrap();
        said
    }

    #[test]
    fn a_file_hands_over_one_registrys_credentials_under_their_own_key() {
        let config = r#"{"auths": {"ghcr.io": {"auth": "dTpw", "email": "e"},
            "https://index.docker.io/v1/": {"username": "u", "password": "p"}, "h.example": {}},
            "HttpHeaders": {}}"#;
        assert_eq!(
            said(config, "ghcr.io/owner").unwrap(),
            r#"{"auths":{"ghcr.io":{"auth":"dTpw","email":"e"}}}"#
        );
        assert_eq!(
            said(config, "docker.io/user").unwrap(),
            r#"{"auths":{"https://index.docker.io/v1/":{"password":"p","username":"u"}}}"#
        );
        for (config, registry, part) in [
            (config, "quay.io/x", "holds nothing for quay.io/x"),
            (config, "h.example/x", "`--pull-secret login` asks"),
            ("no", "ghcr.io/x", "holds nothing for ghcr.io/x"),
        ] {
            let error = said(config, registry).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn what_pushes_use_is_handed_over() {
        let signals = Signals::block().unwrap();
        let registry =
            Registry::of("eu-docker.pkg.dev/p/r").unwrap().with("oauth2accesstoken", "t");
        assert_eq!(
            of(LOGIN, &registry, &Tools::new(&signals, None)).unwrap(),
            r#"{"auths":{"eu-docker.pkg.dev":{"password":"t","username":"oauth2accesstoken"}}}"#
        );
    }
}
