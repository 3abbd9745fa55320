//! The key that signs the tokens of service accounts (ES256 JSON web tokens).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// No token of this server is as long.
const MAX_TOKEN_LENGTH: usize = 16 << 10;

/// The key of a cluster, generated on first use.
#[derive(Default)]
pub(crate) struct Signer(OnceLock<Option<(EcdsaKeyPair, SystemRandom)>>);

impl Signer {
    fn key(&self) -> Option<&(EcdsaKeyPair, SystemRandom)> {
        let make = || {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).ok()?;
            Some((key, random))
        };
        self.0.get_or_init(make).as_ref()
    }

    /// Signs claims; `None` if there is no randomness to make a key of.
    pub(crate) fn sign(&self, claims: &Value) -> Option<String> {
        let (key, random) = self.key()?;
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(claims));
        let signature = key.sign(random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Returns the claims of a token that this key signed.
    pub(crate) fn claims(&self, token: &str) -> Option<Value> {
        if token.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        let (text, signature) = token.rsplit_once('.')?;
        let (_, claims) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let (key, _) = self.key()?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
        // The algorithm of the header is not trusted: only ES256 is accepted.
        public.verify(text.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_foreign_signature_are_rejected() {
        let (signer, other) = (Signer::default(), Signer::default());
        let token = signer.sign(&json!({ "sub": "me" })).unwrap();
        assert_eq!(signer.claims(&token), Some(json!({ "sub": "me" })));
        assert_eq!(other.claims(&token), None);
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"you"}"#);
        parts[1] = &forged;
        assert_eq!(signer.claims(&parts.join(".")), None);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for wrong in [
            "",
            ".",
            "..",
            "a.b.c",
            &format!("{none}.{forged}."),
            &"x".repeat(MAX_TOKEN_LENGTH + 1),
        ] {
            assert_eq!(signer.claims(wrong), None, "{wrong:.40}");
        }
    }
}
