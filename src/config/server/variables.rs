//! The names of the variables that the server reads. A `PORTCULLIS_*` variable beside them is an error.

use std::env;

use super::errors::ConfigErrors;
use super::mail::{SMTP_URL, SMTP_URL_FILE};
use crate::config::{client, unknown_variables};

pub(super) const DATABASE_URL: &str = "PORTCULLIS_DATABASE_URL";
pub(super) const DATABASE_URL_FILE: &str = "PORTCULLIS_DATABASE_URL_FILE";
pub(super) const OPERATOR: &str = "PORTCULLIS_OPERATOR_CREDENTIAL";
pub(super) const OPERATOR_FILE: &str = "PORTCULLIS_OPERATOR_CREDENTIAL_FILE";

/// A secret that has no flag, since `ps` shows flags.
#[derive(Debug)]
pub struct SecretVariable {
    /// The variable that holds it.
    pub name: &'static str,
    /// The variable that names a file with it.
    pub file: &'static str,
    /// What it is, written as the help of a flag.
    pub help: &'static str,
}

/// The secrets that have no flag.
pub const SECRETS: [SecretVariable; 2] = [
    SecretVariable {
        name: OPERATOR,
        file: OPERATOR_FILE,
        help: "Credential of role operator: 32 to 1024 printable ASCII characters without spaces. The start \
               makes it valid and revokes the former one",
    },
    SecretVariable {
        name: SMTP_URL,
        file: SMTP_URL_FILE,
        help: "URL of the mail relay: smtp+starttls://user:password@host, smtps:// or smtp://; needed with \
               --mail-from. Without it nobody is mailed, and nothing is removed from unused tokens",
    },
];

/// The variables that the server reads, besides those of the client side.
const VARIABLES: [&str; 45] = [
    "PORTCULLIS_LISTEN",
    "PORTCULLIS_HTTP_LISTEN",
    "PORTCULLIS_GATEWAY_LISTEN",
    "PORTCULLIS_GATEWAY_URL",
    "PORTCULLIS_OVERRIDE_HEADER",
    "PORTCULLIS_CHECK_TIMEOUT",
    DATABASE_URL,
    DATABASE_URL_FILE,
    "PORTCULLIS_DEV",
    "PORTCULLIS_CATALOG",
    OPERATOR,
    OPERATOR_FILE,
    "PORTCULLIS_TOKEN_PREFIX",
    "PORTCULLIS_TLS_CERT",
    "PORTCULLIS_TLS_KEY",
    "PORTCULLIS_TLS_CLIENT_CA",
    "PORTCULLIS_PLAINTEXT",
    "PORTCULLIS_GRPC_CONNECTIONS_PER_ADDRESS",
    "PORTCULLIS_GRPC_IDLE",
    "PORTCULLIS_CACHE_CAPACITY",
    "PORTCULLIS_DATABASE_CONNECTIONS",
    "PORTCULLIS_WHITELIST_MAX_ENTRIES",
    "PORTCULLIS_WHITELIST_WIDEST_IPV4",
    "PORTCULLIS_WHITELIST_WIDEST_IPV6",
    "PORTCULLIS_LIFECYCLE_MODE",
    "PORTCULLIS_LIFECYCLE_WINDOW",
    "PORTCULLIS_LIFECYCLE_NOTICE",
    "PORTCULLIS_LIFECYCLE_SWEEP_INTERVAL",
    "PORTCULLIS_DELETED_RETENTION",
    "PORTCULLIS_USAGE_FLUSH_INTERVAL",
    SMTP_URL,
    SMTP_URL_FILE,
    "PORTCULLIS_SMTP_CA",
    "PORTCULLIS_MAIL_FROM",
    "PORTCULLIS_MAIL_TIMEOUT",
    "PORTCULLIS_MAIL_RETRY_INITIAL",
    "PORTCULLIS_MAIL_RETRY_MAX",
    "PORTCULLIS_MAIL_REFUSED_RETRY",
    "PORTCULLIS_MAIL_RATE",
    "PORTCULLIS_PUBLIC_URL",
    "PORTCULLIS_SESSION_IDLE",
    "PORTCULLIS_TRUSTED_PROXY",
    "PORTCULLIS_SESSION_LIFETIME",
    "PORTCULLIS_LOG_FORMAT",
    "PORTCULLIS_LOG_LEVEL",
];

/// Every variable that is read, on either side.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().chain(&client::VARIABLES).copied()
}

pub(super) fn known_variables(errors: &mut ConfigErrors) {
    let known: Vec<_> = all().collect();
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    errors.extend(unknown_variables(&known, names));
}
