//! `labs keygen` and `labs verify`: for the teacher to whom run files are handed in.

use crate::signature;
use anyhow::Context as _;
use serde_json::Value;
use std::path::Path;

/// Creates a key and returns the text to print.
pub(super) fn keygen(path: &Path) -> anyhow::Result<String> {
    let (public_path, public) = signature::generate(path)?;
    Ok(format!(
        "hand out {}: cargo xtask lab phase4 --run-file run.json --key {}\n\
         verify with the public key {public}: labs verify run.json --key {}\n",
        path.display(),
        path.display(),
        public_path.display(),
    ))
}

/// Verifies a run file and returns the text to print.
///
/// # Errors
/// If a file cannot be read, or the signature is not good.
pub(super) fn verify(path: &Path, key: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the run file {}", path.display()))?;
    let key_file = Path::new(key);
    let public = if key_file.is_file() {
        std::fs::read_to_string(key_file)
            .with_context(|| format!("failed to read the key {}", key_file.display()))?
    } else {
        key.to_owned()
    };
    let run = signature::verify(&text, &public).with_context(|| path.display().to_string())?;
    Ok(describe(&run))
}

/// Describes a run in lines: what was run, and each verdict. Control characters of texts are escaped.
fn describe(run: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mut lines = format!(
        "good signature: {}, run {} of {} on {}, exit code {}\n",
        text(&run["name"]),
        text(&run["id"]),
        text(&run["started"]),
        text(&run["provider"]),
        text(&run["exitCode"]),
    );
    for claim in run["claims"].as_array().into_iter().flatten() {
        let [lab, id] = [&claim["lab"], &claim["id"]].map(text);
        let [outcome, evidence] = [&claim["outcome"], &claim["evidence"]].map(text);
        lines += &format!("  {outcome:<7}  {lab}/{id}: {evidence}\n");
    }
    lines
}
