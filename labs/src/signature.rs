//! Signatures of run files: ed25519. A teacher creates a key and hands it out; what participants hand in shows
//! that it was made with that key, and has not been edited since. A participant who has the key can sign anything: it
//! keeps honest people from mixing things up, and is no exam supervision.

use anyhow::{Context as _, bail, ensure};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Signs runs.
pub(crate) struct SigningKey(Ed25519KeyPair);

/// The second line of a run file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signature {
    algorithm: String,
    public_key: String,
    signature: String,
}

const ALGORITHM: &str = "ed25519";

impl SigningKey {
    /// Reads a key that [`generate`] wrote.
    ///
    /// # Errors
    /// If the file cannot be read or is no such key.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read the key {}", path.display()))?;
        let key = from_hex(text.trim()).and_then(|der| Ed25519KeyPair::from_pkcs8(&der).ok());
        key.map(Self).with_context(|| {
            format!("{} is no key to sign with, as `labs keygen` writes it", path.display())
        })
    }

    /// Returns the line that signs these bytes.
    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        let signature = Signature {
            algorithm: ALGORITHM.to_owned(),
            public_key: hex(self.0.public_key().as_ref()),
            signature: hex(self.0.sign(bytes).as_ref()),
        };
        // Strings can be represented in JSON.
        serde_json::to_string(&signature).unwrap_or_default()
    }
}

/// Creates a key: writes the secret part to `path`, which must not exist, and the public part next to it, with
/// `.pub` appended. Returns the path and content of the latter.
///
/// # Errors
/// If a file exists or cannot be written.
pub(crate) fn generate(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let der = der.ok().context("failed to create a key: no random numbers")?;
    let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).ok().context("failed to create a key")?;
    let public = hex(pair.public_key().as_ref());
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    let write = |path: &Path, mode: u32, text: &str| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(mode).open(path);
        if file.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            bail!(
                "{} exists already, and a key is never replaced; name another file",
                path.display()
            );
        }
        let written = file.and_then(|mut file| writeln!(file, "{text}"));
        written.with_context(|| format!("failed to create the key {}", path.display()))
    };
    write(path, 0o600, &hex(der.as_ref()))?;
    write(&public_path, 0o644, &public)?;
    Ok((public_path, public))
}

/// Returns the run of a file if it was signed with the key of this public part, 64 hexadecimal digits.
///
/// # Errors
/// If it was not, or has been changed since.
pub(crate) fn verify(file: &str, public: &str) -> anyhow::Result<Value> {
    let key = from_hex(public.trim()).filter(|key| key.len() == 32);
    let key = key.context("a public key is 64 hexadecimal digits, as `labs keygen` prints them")?;
    let mut lines = file.lines();
    let run = lines.next().context("the run file is empty")?;
    let line = lines.next().context("the run is not signed: it needs `--key` when it is run")?;
    ensure!(lines.next().is_none(), "a run file has two lines, and this one has more");
    let signature: Signature =
        serde_json::from_str(line).context("the second line is no signature")?;
    let Signature { algorithm, public_key, signature } = signature;
    ensure!(algorithm == ALGORITHM, "the algorithm `{algorithm}` is not supported");
    let bytes = from_hex(&signature).context("the signature is not hexadecimal")?;
    if UnparsedPublicKey::new(&ED25519, &key).verify(run.as_bytes(), &bytes).is_err() {
        if from_hex(&public_key).is_some_and(|of_file| of_file != key) {
            bail!("the run was signed with another key, {public_key}");
        }
        bail!("the run was changed after it was signed");
    }
    serde_json::from_str(run).context("the first line is no JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new key in its two parts.
    pub(crate) fn key_pair() -> (SigningKey, String) {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let public = hex(pair.public_key().as_ref());
        (SigningKey(pair), public)
    }

    #[test]
    fn generated_key_signs_and_is_never_overwritten() {
        let folder =
            std::env::temp_dir().join(format!("canary-labs-key-{:x}", rand::random::<u64>()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("teacher.key");
        let (public_path, public) = generate(&path).unwrap();
        assert_eq!(std::fs::read_to_string(public_path).unwrap().trim(), public);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let line = SigningKey::read(&path).unwrap().sign(b"{}");
        assert!(verify(&format!("{{}}\n{line}\n"), &public).is_ok());
        assert!(generate(&path).is_err(), "a key that exists stays");
        std::fs::write(&path, "00ff").unwrap();
        assert!(SigningKey::read(&path).err().unwrap().to_string().contains("labs keygen"));
        _ = std::fs::remove_dir_all(folder);
    }

    #[test]
    fn hexadecimal_is_read_as_it_is_written() {
        assert_eq!(from_hex(&hex(&[0, 1, 0xab, 0xff])), Some(vec![0, 1, 0xab, 0xff]));
        assert_eq!((from_hex("abc"), from_hex("zz"), from_hex("é")), (None, None, None));
    }
}
