//! A command line as data: what is run, with what input, and who may know the answer.

use anyhow::{Context, Result};
use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    words: Vec<String>,
    env: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
    pub(super) input: Input,
    pub(super) answers: Answers,
}

/// Who may know what a program answers on its standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Answers {
    #[default]
    All,
    /// This user alone: neither the log nor a failure has a copy.
    Private,
    /// The same, but where it fails it answers with the reason.
    PrivateOrWhyNot,
}

/// What a program reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Input {
    #[default]
    Nothing,
    File(PathBuf),
    /// Never shown: this is how credentials are handed over.
    Text(String),
}

impl Line {
    /// A line from its words, which are separated by white space.
    pub(crate) fn new(words: &str) -> Self {
        Self { words: words.split_whitespace().map(Into::into).collect(), ..Self::default() }
    }

    /// More words, each as it is.
    pub(crate) fn args<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// A flag and its value.
    pub(crate) fn flag(self, name: &str, value: impl Into<String>) -> Self {
        self.args([name.to_owned(), value.into()])
    }

    /// The same, if there is a value.
    pub(crate) fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.flag(name, value),
            None => self,
        }
    }

    /// A path as a flag's value.
    pub(crate) fn path(self, name: &str, path: &Path) -> Self {
        self.flag(name, path.to_string_lossy())
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same, not to be shown.
    pub(crate) fn secret(mut self, name: &str, value: impl Into<String>) -> Self {
        self.secrets.push((name.into(), value.into()));
        self
    }

    /// kubectl, kind and the like on a kubeconfig of ours.
    pub(crate) fn kubeconfig(self, path: &Path) -> Self {
        self.env("KUBECONFIG", path.to_string_lossy())
    }

    /// Reads this file.
    pub(crate) fn reading(mut self, file: &Path) -> Self {
        self.input = Input::File(file.to_owned());
        self
    }

    /// Reads this text, which is not shown.
    pub(crate) fn told(mut self, text: String) -> Self {
        self.input = Input::Text(text);
        self
    }

    /// Answers with what only this user may know.
    pub(crate) fn answering_in_private(mut self) -> Self {
        self.answers = Answers::Private;
        self
    }

    /// The same for a program that says on its standard output why it cannot.
    pub(crate) fn answering_in_private_or_why_not(mut self) -> Self {
        self.answers = Answers::PrivateOrWhyNot;
        self
    }

    /// The program's name.
    pub(crate) fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.program());
        command.args(self.words.iter().skip(1));
        command.envs(self.env.iter().chain(&self.secrets).map(|(name, value)| (name, value)));
        command.stdin(match &self.input {
            Input::Nothing => Stdio::null(),
            Input::Text(_) => Stdio::piped(),
            Input::File(file) => {
                File::open(file).with_context(|| format!("cannot read {}", file.display()))?.into()
            }
        });
        Ok(command)
    }
}

/// As a shell would take it.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        for (name, _) in &self.secrets {
            write!(f, "{name}=… ")?;
        }
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        f.write_str(&words.join(" "))?;
        match &self.input {
            Input::File(file) => write!(f, " <{}", quoted(&file.to_string_lossy())),
            _ => Ok(()),
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_as_a_shell_takes_it_without_its_secrets() {
        let line = Line::new("docker  run --detach")
            .flag("--filter", "name=it's a $HOME")
            .maybe("--image", None::<String>)
            .args([""])
            .secret("TOKEN", "abc")
            .kubeconfig(Path::new("/k"))
            .reading(Path::new("/a b"));
        assert_eq!(
            line.to_string(),
            r"KUBECONFIG=/k TOKEN=… docker run --detach --filter 'name=it'\''s a $HOME' '' <'/a b'"
        );
        assert!(!Line::new("curl").told("password".into()).to_string().contains("password"));
    }
}
