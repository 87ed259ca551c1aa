//! Whose alerts about leaked secrets are received: where the publisher's keys are, and how its requests are signed.

use std::path::PathBuf;

use http::HeaderName;
use url::Url;

use super::errors::ConfigErrors;
use crate::config::client;
use crate::pem::TrustStore;
use crate::policy::text::in_quotes;

/// Whose alerts are received, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Leaked secrets")]
pub struct LeakArgs {
    /// File or https URL with the public keys of a publisher of alerts about leaked secrets, such as
    /// `https://api.github.com/meta/public_keys/secret_scanning`. With it, the HTTP listener receives its alerts at
    /// /secret-scanning/alerts [default: none]
    #[arg(long, env = "PORTCULLIS_LEAK_KEYS", hide_env_values = true, value_name = "FILE_OR_URL")]
    leak_keys: Option<String>,
    /// PEM file with authorities that the certificate of that URL may be from, besides the public ones
    #[arg(long, env = "PORTCULLIS_LEAK_KEYS_CA", hide_env_values = true, value_name = "FILE")]
    leak_keys_ca: Option<PathBuf>,
    /// Header of an alert with the identifier of the key that it is signed with
    #[arg(
        long,
        env = "PORTCULLIS_LEAK_KEY_ID_HEADER",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "Github-Public-Key-Identifier"
    )]
    leak_key_id_header: String,
    /// Header of an alert with its signature
    #[arg(
        long,
        env = "PORTCULLIS_LEAK_SIGNATURE_HEADER",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "Github-Public-Key-Signature"
    )]
    leak_signature_header: String,
}

/// Whose alerts are received.
#[derive(Debug, Clone)]
pub struct LeakSettings {
    /// Where the publisher's keys are.
    pub keys: LeakKeys,
    /// The header with the identifier of the key.
    pub key_id_header: HeaderName,
    /// The header with the signature.
    pub signature_header: HeaderName,
}

/// Where the keys of a publisher of alerts are.
#[derive(Debug, Clone)]
pub enum LeakKeys {
    /// In a file.
    File(PathBuf),
    /// At a URL of `https`, or of `http` on this host, and the authorities that its certificate may be from.
    Url(Url, TrustStore),
}

impl LeakArgs {
    /// `Some(None)` where no alerts are received.
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<Option<LeakSettings>> {
        let header = |flag: &str, text: &str, errors: &mut ConfigErrors| {
            errors.parse::<HeaderName>(flag, text, "the name of a header")
        };
        let key_id_header = header("leak-key-id-header", &self.leak_key_id_header, errors);
        let signature_header = header("leak-signature-header", &self.leak_signature_header, errors);
        if key_id_header.is_some() && key_id_header == signature_header {
            errors.add(
                "--leak-signature-header: is the same as --leak-key-id-header: name two headers",
            );
        }
        let keys = match self.leak_keys.as_deref() {
            None => {
                if self.leak_keys_ca.is_some() {
                    errors.add("--leak-keys-ca: goes with a URL in --leak-keys");
                }
                return Some(None);
            }
            Some(text) if text.contains("://") => self.url(text, errors),
            Some(path) => {
                if self.leak_keys_ca.is_some() {
                    errors
                        .add("--leak-keys-ca: goes with a URL in --leak-keys, which names a file");
                }
                Some(LeakKeys::File(path.into()))
            }
        };
        Some(Some(LeakSettings {
            keys: keys?,
            key_id_header: key_id_header?,
            signature_header: signature_header?,
        }))
    }

    fn url(&self, text: &str, errors: &mut ConfigErrors) -> Option<LeakKeys> {
        let url = Url::parse(text.trim()).ok().filter(|url| {
            // Without TLS, an attacker on the network could answer with a key of their own.
            let local = url.host_str().is_some_and(client::is_loopback);
            let plain =
                url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
            plain && (url.scheme() == "https" || (url.scheme() == "http" && local))
        });
        let Some(url) = url else {
            errors.add(
                "--leak-keys: is no URL of keys: write https:// and a host without a user name, such as \
                 https://api.github.com/meta/public_keys/secret_scanning; http:// only for this host",
            );
            return None;
        };
        let pem = match &self.leak_keys_ca {
            None => None,
            Some(path) => Some(errors.file("leak-keys-ca", path)?),
        };
        match TrustStore::public_and(pem.as_deref()) {
            Ok(trust) => Some(LeakKeys::Url(url, trust)),
            Err(error) => {
                let path = self.leak_keys_ca.as_ref().map(|path| path.display().to_string());
                let path = path.unwrap_or_default();
                errors.add(format!("--leak-keys-ca: {} {error}", in_quotes(&path)));
                None
            }
        }
    }
}
