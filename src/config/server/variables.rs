//! The names of the variables that the server reads. A `PORTCULLIS_*` variable beside them is an error.

use std::env;
use std::path::PathBuf;

use clap::Args as _;

use super::ServeArgs;
use super::errors::{ConfigErrors, secret_path};
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

impl ServeArgs {
    /// The files that secrets are read from, each behind the variable that names it or could.
    pub(super) fn secret_files(&self) -> Vec<(&'static str, PathBuf)> {
        let database = (DATABASE_URL, DATABASE_URL_FILE, &self.store.configured_url_file);
        let operator = (OPERATOR, OPERATOR_FILE, &self.operator_credential_file);
        let relay = (SMTP_URL, SMTP_URL_FILE, &self.mail.smtp_url_file);
        let paths = [database, operator, relay].into_iter().map(|(name, file, configured)| {
            Some((file, secret_path(name, file, configured.as_deref())?))
        });
        paths.flatten().collect()
    }
}

/// Every variable that is read, on either side: those of the flags, and those of what has no flag.
pub(super) fn all() -> Vec<String> {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let flags = command.get_arguments().filter_map(clap::Arg::get_env);
    let flags = flags.map(|name| name.to_string_lossy().into_owned());
    let secrets = SECRETS.iter().flat_map(|secret| [secret.name, secret.file]);
    let own = secrets.chain([DATABASE_URL, DATABASE_URL_FILE]).chain(client::VARIABLES);
    flags.chain(own.map(str::to_owned)).collect()
}

pub(super) fn known_variables(errors: &mut ConfigErrors) {
    let known = all();
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    errors.extend(unknown_variables(&known, names));
}
