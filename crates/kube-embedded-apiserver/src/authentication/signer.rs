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
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// What precedes the point of a P-256 key in its `SubjectPublicKeyInfo`.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a coordinate of such a point.
const COORDINATE: usize = 32;

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
        let text =
            format!("{}.{}", part(&json!({ "alg": "ES256", "kid": key_id(key) })), part(claims));
        let signature = key.sign(random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Returns the public key as a JSON web key set (RFC 7517), with which others verify tokens.
    pub(crate) fn key_set(&self) -> Option<Value> {
        let (key, _) = self.key()?;
        // The first byte says that the point is not compressed.
        let (x, y) = key.public_key().as_ref().get(1..)?.split_at_checked(COORDINATE)?;
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": key_id(key), "crv": "P-256", "alg": "ES256",
            "x": part(x), "y": part(y),
        }] }))
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

/// Returns the id of a key as kube-apiserver derives it: the hash of its `SubjectPublicKeyInfo`.
fn key_id(key: &EcdsaKeyPair) -> String {
    let hash = Sha256::new().chain_update(SPKI_PREFIX).chain_update(key.public_key().as_ref());
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_verified_with_the_published_key() {
        let signer = Signer::default();
        let token = signer.sign(&json!({ "sub": "me" })).unwrap();
        let set = signer.key_set().unwrap();
        let key = &set["keys"][0];
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let coordinate = |name: &str| decode(key[name].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let header: Value =
            serde_json::from_slice(&decode(text.split_once('.').unwrap().0)).unwrap();
        assert_eq!((&header["kid"], &header["alg"]), (&key["kid"], &key["alg"]));
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(text.as_bytes(), &decode(signature)).unwrap();
    }

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
