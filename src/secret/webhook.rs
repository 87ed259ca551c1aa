//! The secrets that webhooks' messages are signed with: derived from the keys of this installation, and never kept.
//!
//! Must stay true: no such secret is printed except by [`Secret::expose`], at its creation. Rules 14.4 and 14.5 of
//! docs/policy.md.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{KeyRing, Secret, mac};
use crate::policy::id::WebhookId;

/// What a secret is derived with. No prefix of a secret has a colon, so that this is never what a tag is made of.
const PURPOSE: &[u8] = b"webhook:";

/// What a webhook's messages are signed with: 32 bytes. Wiped on drop; `Debug` shows nothing of it.
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

impl WebhookSecret {
    /// As it is handed to the receiver: `whsec_` and base64 (Standard Webhooks 1.0, "Signature scheme").
    pub fn text(&self) -> Secret {
        let encoded = Zeroizing::new(STANDARD.encode(&*self.0));
        Secret(format!("whsec_{}", &*encoded).into())
    }

    /// The signature of a message: `v1,` and base64 of HMAC-SHA-256 over id, time in seconds since 1970 and body, with
    /// dots between (Standard Webhooks 1.0, "Signature scheme"). `id` has no dot.
    pub fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length");
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl KeyRing {
    /// The number of the key that new secrets are made under.
    pub fn newest(&self) -> u16 {
        self.newest
    }

    /// The secret of a webhook in its version `version`, from 1 up, under the key number `key`; `None` where that key is
    /// not known here. Nobody without the key can compute it.
    pub fn webhook_secret(&self, key: u16, id: WebhookId, version: u32) -> Option<WebhookSecret> {
        let key = self.keys.get(&key)?;
        let mut text = PURPOSE.to_vec();
        text.extend_from_slice(id.0.as_bytes());
        text.extend_from_slice(&version.to_be_bytes());
        Some(WebhookSecret(Zeroizing::new(mac(key, &text).to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::secret::SecretKey;

    /// Rule 14.4: the sample of the specification and its reference libraries.
    #[test]
    fn the_published_sample_is_signed_as_published() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = WebhookSecret(Zeroizing::new(key)).sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Rule 14.5.
    #[test]
    fn secrets_differ_by_webhook_version_and_key_and_stay_the_same() {
        let keys = |numbers: &[u16]| {
            let keys: Vec<_> =
                numbers.iter().map(|&n| SecretKey::new(n, [n as u8 ^ 0x5a; 32])).collect();
            KeyRing::new(&keys).unwrap()
        };
        let (one, two) = (WebhookId(Uuid::from_u128(1)), WebhookId(Uuid::from_u128(2)));
        let text = |keys: &KeyRing, key, id, version| {
            keys.webhook_secret(key, id, version).map(|secret| secret.text().expose().to_owned())
        };
        let ring = keys(&[0, 1]);
        let secret = text(&ring, 0, one, 1).unwrap();
        assert_eq!(secret.len(), "whsec_".len() + 44);
        assert_eq!(Some(&secret), text(&keys(&[0]), 0, one, 1).as_ref());
        for other in [text(&ring, 1, one, 1), text(&ring, 0, two, 1), text(&ring, 0, one, 2)] {
            assert_ne!(other.unwrap(), secret);
        }
        assert_eq!(text(&ring, 2, one, 1), None);
        let shown = format!("{:?}", ring.webhook_secret(0, one, 1));
        assert!(!shown.contains(&secret[6..12]) && shown.contains("redacted"), "{shown}");
    }
}
