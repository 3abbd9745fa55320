//! A command line as data: program, arguments, environment, input, and whether its output may be
//! logged. Tests read it, `--dry-run` prints it, and the runner executes it.

use anyhow::{Context, Result};
use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CommandLine {
    words: Vec<String>,
    env: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
    pub(super) input: Input,
    pub(super) sensitivity: Sensitivity,
}

/// Where the standard output of a program may be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Sensitivity {
    /// In the log and in errors.
    #[default]
    Public,
    /// Nowhere: it contains credentials.
    Secret,
    /// In errors alone: a program that fails prints the reason there instead of credentials.
    SecretUnlessFailed,
}

/// The standard input of a program.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Input {
    #[default]
    Null,
    File(PathBuf),
    /// Never shown: this is how credentials are passed.
    Text(String),
}

impl CommandLine {
    /// Creates a command line from words that are separated by white space.
    pub(crate) fn new(words: &str) -> Self {
        Self { words: words.split_whitespace().map(Into::into).collect(), ..Self::default() }
    }

    /// Appends arguments as they are.
    pub(crate) fn args<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Appends a flag and its value.
    pub(crate) fn flag(self, name: &str, value: impl Into<String>) -> Self {
        self.args([name.to_owned(), value.into()])
    }

    /// Appends a flag if it has a value.
    pub(crate) fn opt_flag(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.flag(name, value),
            None => self,
        }
    }

    /// Appends a flag whose value is a path.
    pub(crate) fn path(self, name: &str, path: &Path) -> Self {
        self.flag(name, path.to_string_lossy())
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets an environment variable whose value is never shown.
    pub(crate) fn secret(mut self, name: &str, value: impl Into<String>) -> Self {
        self.secrets.push((name.into(), value.into()));
        self
    }

    /// Sets the kubeconfig that kubectl, kind and others use.
    pub(crate) fn kubeconfig(self, path: &Path) -> Self {
        self.env("KUBECONFIG", path.to_string_lossy())
    }

    /// Connects standard input to a file.
    pub(crate) fn stdin_file(mut self, file: &Path) -> Self {
        self.input = Input::File(file.to_owned());
        self
    }

    /// Passes a text on standard input; it is never shown.
    pub(crate) fn stdin_text(mut self, text: String) -> Self {
        self.input = Input::Text(text);
        self
    }

    /// Keeps standard output out of logs and errors.
    pub(crate) fn sensitive_output(mut self) -> Self {
        self.sensitivity = Sensitivity::Secret;
        self
    }

    /// Keeps standard output out of logs, and out of errors unless it is the reason of a failure.
    pub(crate) fn sensitive_output_except_errors(mut self) -> Self {
        self.sensitivity = Sensitivity::SecretUnlessFailed;
        self
    }

    /// Returns the program's name.
    pub(crate) fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Converts it into a command that is ready to be spawned.
    pub(crate) fn to_command(&self) -> Result<Command> {
        let mut command = Command::new(self.program());
        command.args(self.words.iter().skip(1));
        // Their output is read, and minikube translates it.
        command.env("LC_ALL", "C.UTF-8");
        command.envs(self.env.iter().chain(&self.secrets).map(|(name, value)| (name, value)));
        command.stdin(match &self.input {
            Input::Null => Stdio::null(),
            Input::Text(_) => Stdio::piped(),
            Input::File(file) => File::open(file)
                .with_context(|| format!("failed to read {}", file.display()))?
                .into(),
        });
        Ok(command)
    }
}

/// Formats the line in shell syntax, without secrets.
impl fmt::Display for CommandLine {
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

/// Quotes a word for a shell, if necessary.
pub(crate) fn quoted(word: &str) -> String {
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
    fn command_line_is_printed_in_shell_syntax_without_secrets() {
        let line = CommandLine::new("docker  run --detach")
            .flag("--filter", "name=it's a $HOME")
            .opt_flag("--image", None::<String>)
            .args([""])
            .secret("TOKEN", "abc")
            .kubeconfig(Path::new("/k"))
            .stdin_file(Path::new("/a b"));
        assert_eq!(
            line.to_string(),
            r"KUBECONFIG=/k TOKEN=… docker run --detach --filter 'name=it'\''s a $HOME' '' <'/a b'"
        );
        assert!(
            !CommandLine::new("curl")
                .stdin_text("password".into())
                .to_string()
                .contains("password")
        );
    }
}
