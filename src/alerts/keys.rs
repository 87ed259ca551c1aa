//! The public keys of a publisher of alerts, as GitHub publishes them, and what they verify: ECDSA on P-256 with
//! SHA-256.

use std::collections::HashMap;

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The most keys that are read.
const MAX_KEYS: usize = 100;
/// The longest identifier of a key, in bytes.
pub(super) const MAX_ID: usize = 256;

/// The keys that a publisher signs with now, by their identifiers.
#[derive(Debug, Default)]
pub(super) struct PublisherKeys(HashMap<String, PublicKey>);

/// A key on P-256: its point, uncompressed.
#[derive(Debug, Clone)]
pub(super) struct PublicKey(Vec<u8>);

/// Why a document contains no usable keys. Displays as the rest of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// It is no JSON object with a list of keys.
    #[error("is not a JSON object with the list \"public_keys\"")]
    NoList,
    /// It has more keys than are read.
    #[error("has more than {MAX_KEYS} keys")]
    TooMany,
    /// It has no key that is current and of the right kind.
    #[error(
        "has no current key on P-256: each has a \"key_identifier\" and a \"key\" in PEM (BEGIN PUBLIC KEY)"
    )]
    NoKey,
}

impl PublisherKeys {
    /// Reads `{"public_keys": [{"key_identifier", "key", "is_current"}]}`. Keys that are not current, or of another
    /// kind, are left out: a publisher may have such keys for others. Rule 11.57 of docs/policy.md.
    ///
    /// # Errors
    /// There is no usable key.
    pub(super) fn read(json: &[u8]) -> Result<Self, InvalidKeys> {
        let document: Value = serde_json::from_slice(json).map_err(|_| InvalidKeys::NoList)?;
        let list = document.get("public_keys").and_then(Value::as_array);
        let list = list.ok_or(InvalidKeys::NoList)?;
        if list.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany);
        }
        let current = |item: &&Value| item.get("is_current") != Some(&Value::Bool(false));
        let key = |item: &Value| {
            let id = item.get("key_identifier")?.as_str()?;
            let key = PublicKey::read(item.get("key")?.as_str()?)?;
            (1..=MAX_ID).contains(&id.len()).then(|| (id.to_owned(), key))
        };
        let keys: HashMap<_, _> = list.iter().filter(current).filter_map(key).collect();
        if keys.is_empty() { Err(InvalidKeys::NoKey) } else { Ok(Self(keys)) }
    }

    pub(super) fn get(&self, id: &str) -> Option<PublicKey> {
        self.0.get(id).cloned()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl PublicKey {
    /// Reads a key in PEM (RFC 7468, section 13); `None` for another kind of key.
    fn read(pem: &str) -> Option<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (rest, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        let is_p256 =
            info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256;
        (rest.is_empty() && is_p256).then(|| Self(info.subject_public_key.data.to_vec()))
    }

    /// Whether `signature`, in DER (RFC 3279, section 2.2.3), is this key's over exactly these bytes. Rule 11.56 of
    /// docs/policy.md.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    /// The sample of the partner programme's documentation, "Implement signature verification in your secret alert
    /// service", and the key that GitHub published under that identifier then.
    const ID: &str = "bcb53661c06b4728e59d897fb6165d5c9cda0fd9cdf9d09ead458168deb7518c";
    const BODY: &str = r#"[{"source":"commit","token":"some_token","type":"some_type","url":"https://example.com/base-repo-url/"}]"#;
    const SIGNATURE: &str = "MEQCIQDaMKqrGnE27S0kgMrEK0eYBmyG0LeZismAEz/BgZyt7AIfXt9fErtRS4XaeSt/AO1RtBY66YcAdjxji410VQV4xg==";
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYAGMWO8XgCamYKMJS6jc/qgvSlAd\n\
        AjPuDPRcXU22YxgBrz+zoN19MzuRyW87qEt9/AmtoNP5GrobzUvQSyJFVw==\n\
        -----END PUBLIC KEY-----\n";

    fn published(keys: &Value) -> Result<PublisherKeys, InvalidKeys> {
        PublisherKeys::read(json!({ "public_keys": keys }).to_string().as_bytes())
    }

    /// Rule 11.56.
    #[test]
    fn the_documented_sample_is_verified_and_no_flipped_bit_is() {
        let keys =
            published(&json!([{ "key_identifier": ID, "key": KEY, "is_current": true }])).unwrap();
        let key = keys.get(ID).unwrap();
        let signature = STANDARD.decode(SIGNATURE).unwrap();
        assert!(key.verifies(BODY.as_bytes(), &signature));
        let flipped = |bytes: &[u8], bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        for bit in 0..BODY.len() * 8 {
            assert!(!key.verifies(&flipped(BODY.as_bytes(), bit), &signature), "bit {bit}");
        }
        for bit in 0..signature.len() * 8 {
            assert!(!key.verifies(BODY.as_bytes(), &flipped(&signature, bit)), "bit {bit}");
        }
        for bit in 0..key.0.len() * 8 {
            let other = PublicKey(flipped(&key.0, bit));
            assert!(!other.verifies(BODY.as_bytes(), &signature), "bit {bit}");
        }
        assert!(!key.verifies(BODY.as_bytes(), b""));
        assert!(!key.verifies(&[BODY.as_bytes(), b"\n"].concat(), &signature));
    }

    /// The same documentation's earlier sample, whose key its text has.
    #[test]
    fn the_earlier_sample_is_verified() {
        let key = PublicKey::read(
            "-----BEGIN PUBLIC KEY-----\n\
             MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4RpJqUq\n\
             kCmRCBnYERxZanmcpzQSXs1X/AljlKkbJ8qpVIW4clayyef9gWhFbNHWAA==\n\
             -----END PUBLIC KEY-----",
        );
        let signature = "MEUCIQDKZokqnCjrRtw0tni+2Ltvl/uiMJ1EGumEsp1BsNr32AIgQY1YXD2nlj+XNfGK4rBfkMJ1JDOQcYXxa2sY8FNkrKc=";
        let body = br#"[{"token":"some_token","type":"some_type","url":"some_url"}]"#;
        assert!(key.unwrap().verifies(body, &STANDARD.decode(signature).unwrap()));
    }

    /// Rule 11.57.
    #[test]
    fn only_current_keys_on_p256_are_read() {
        // `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1`, and Ed25519; their public halves.
        let others = [
            include_str!("../../tests/data/leaks/secp256k1.pem"),
            include_str!("../../tests/data/leaks/ed25519.pem"),
        ];
        let keys = published(&json!([
            { "key_identifier": "good", "key": KEY },
            { "key_identifier": "old", "key": KEY, "is_current": false },
            { "key_identifier": "k1", "key": others[0], "is_current": true },
            { "key_identifier": "ed", "key": others[1], "is_current": true },
            { "key_identifier": "", "key": KEY, "is_current": true },
            { "key_identifier": "x".repeat(257), "key": KEY, "is_current": true },
            { "key_identifier": "none", "key": "", "is_current": true },
            { "key": KEY },
            7,
        ]));
        let keys = keys.unwrap();
        assert_eq!(keys.count(), 1);
        assert!(keys.get("good").is_some() && keys.get("old").is_none());
        let old = json!([{ "key_identifier": "old", "key": KEY, "is_current": false }]);
        assert_eq!(published(&old).unwrap_err(), InvalidKeys::NoKey);
        assert_eq!(published(&json!([])).unwrap_err(), InvalidKeys::NoKey);
        assert_eq!(published(&json!({})).unwrap_err(), InvalidKeys::NoList);
        assert_eq!(PublisherKeys::read(b"[]").unwrap_err(), InvalidKeys::NoList);
        assert_eq!(PublisherKeys::read(b"<html>").unwrap_err(), InvalidKeys::NoList);
        let many = json!(vec![json!({ "key_identifier": "a", "key": KEY }); 101]);
        assert_eq!(published(&many).unwrap_err(), InvalidKeys::TooMany);
    }
}
