//! The key that signs the tokens of service accounts (ES256 JSON web tokens).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// What precedes the point of a P-256 key in its `SubjectPublicKeyInfo`.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a coordinate of such a point.
const COORDINATE: usize = 32;

/// No token of this server is as long.
const MAX_TOKEN_LENGTH: usize = 16 << 10;

/// The number of tokens that are remembered.
const MAX_VERIFIED: usize = 1024;

/// The key of a cluster, generated on first use.
#[derive(Default)]
pub(crate) struct Signer {
    key: OnceLock<Option<(EcdsaKeyPair, SystemRandom)>>,
    /// The claims of tokens whose signature was verified, by the digest of the token: who reads the memory finds no
    /// token. Only that they were signed is remembered; whether they are still valid is decided for each request.
    verified: Mutex<HashMap<Vec<u8>, Arc<Value>>>,
}

impl Signer {
    fn key(&self) -> Option<&(EcdsaKeyPair, SystemRandom)> {
        let make = || {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).ok()?;
            Some((key, random))
        };
        self.key.get_or_init(make).as_ref()
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

    /// Returns the claims of a token that this key signed, whether or not it is still valid.
    pub(crate) fn claims(&self, token: &str) -> Option<Arc<Value>> {
        if token.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        let digest = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let known = verified().get(&digest).cloned();
        known.or_else(|| {
            let claims = Arc::new(self.verify(token)?);
            let mut verified = verified();
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
            verified.insert(digest, claims.clone());
            Some(claims)
        })
    }

    fn verify(&self, token: &str) -> Option<Value> {
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
    let info = [SPKI_PREFIX.as_slice(), key.public_key().as_ref()].concat();
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &info))
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
        // The second time from memory.
        for _ in 0..2 {
            assert_eq!(*signer.claims(&token).unwrap(), json!({ "sub": "me" }));
        }
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

    #[test]
    fn signature_is_verified_once_and_only_signed_tokens_are_remembered() {
        let signer = Signer::default();
        let remembered = || signer.verified.lock().unwrap().len();
        let token = signer.sign(&json!({ "sub": "me" })).unwrap();
        let first = signer.claims(&token).unwrap();
        assert!(Arc::ptr_eq(&first, &signer.claims(&token).unwrap()));
        for wrong in ["a.b.c", &format!("{token}A"), &token[1..]] {
            assert_eq!(signer.claims(wrong), None);
        }
        assert_eq!(remembered(), 1);
        for n in 0..MAX_VERIFIED {
            signer.claims(&signer.sign(&json!({ "n": n })).unwrap()).unwrap();
        }
        assert!(remembered() <= MAX_VERIFIED);
    }
}
