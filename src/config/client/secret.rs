//! Secrets of the client side: from a file or a variable, never from a flag.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::{ClientSettingsError, invalid, read};

/// The file in the data directory in which the first start of an embedded store leaves the
/// operator's credential.
pub const OPERATOR_CREDENTIAL_FILE: &str = "operator-credential";

/// A credential and where it came from.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The credential: visible ASCII, not empty.
    pub secret: SecretString,
    /// Where it came from, for messages: a variable's name or a path.
    pub source: String,
}

/// Where a token's secret is read from for `portcullis check`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TokenArgs {
    /// File with the token's secret, "-" for standard input, which is the default [env:
    /// PORTCULLIS_TOKEN_FILE; the secret itself: PORTCULLIS_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token's secret, from the file or a variable; `None` says to read standard input. What it
    /// looks like is not checked: the server decides.
    ///
    /// # Errors
    /// A file that can't be read; two variables that contradict each other.
    pub fn resolve(self) -> Result<Option<SecretString>, ClientSettingsError> {
        let variables = SecretVariables::read("PORTCULLIS_TOKEN", "PORTCULLIS_TOKEN_FILE")?;
        self.resolve_with(variables)
    }

    pub(super) fn resolve_with(
        self,
        variables: SecretVariables,
    ) -> Result<Option<SecretString>, ClientSettingsError> {
        match self.token_file.or(variables.file) {
            Some(path) if path == Path::new("-") => Ok(None),
            Some(path) => read_secret("token file", &path).map(Some),
            None => Ok(variables.value),
        }
    }
}

/// A secret's two variables, as the environment has them. At most one is set.
#[derive(Debug, Default)]
pub(super) struct SecretVariables {
    pub(super) name: &'static str,
    pub(super) file_name: &'static str,
    pub(super) value: Option<SecretString>,
    pub(super) file: Option<PathBuf>,
}

impl SecretVariables {
    pub(super) fn read(
        name: &'static str,
        file_name: &'static str,
    ) -> Result<Self, ClientSettingsError> {
        let value = match env::var(name) {
            Ok(value) => Some(SecretString::from(value)),
            Err(env::VarError::NotPresent) => None,
            Err(env::VarError::NotUnicode(_)) => return invalid(format!("{name} is not UTF-8")),
        };
        let file = env::var_os(file_name).map(PathBuf::from);
        if value.is_some() && file.is_some() {
            return invalid(format!("{name} and {file_name} are both set; unset one of them"));
        }
        Ok(Self { name, file_name, value, file })
    }

    /// The secret from `flag` or else from the variables; an empty one is refused, so that a
    /// variable that was filled from nothing is not taken for "none".
    pub(super) fn secret(
        self,
        what: &str,
        flag: Option<PathBuf>,
    ) -> Result<Option<Credential>, ClientSettingsError> {
        let (secret, source) = match (flag, self.file, self.value) {
            (Some(path), _, _) => {
                (read_secret("credential file", &path)?, path.display().to_string())
            }
            (None, Some(path), _) => (
                read_secret("credential file", &path)?,
                format!("{} (named by {})", path.display(), self.file_name),
            ),
            (None, None, Some(value)) => (value, self.name.to_owned()),
            (None, None, None) => return Ok(None),
        };
        if secret.expose_secret().is_empty() {
            return invalid(format!("the {what} in {source} is empty"));
        }
        Ok(Some(Credential { secret, source }))
    }
}

/// The credential that the server of this data directory left there, if any.
pub(super) fn operator_credential(
    data_dir: &Path,
) -> Result<Option<Credential>, ClientSettingsError> {
    let path = data_dir.join(OPERATOR_CREDENTIAL_FILE);
    match read_secret("operator's credential", &path) {
        Ok(secret) => Ok(Some(Credential { secret, source: path.display().to_string() })),
        Err(ClientSettingsError::UnreadableFile { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(ClientSettingsError::UnreadableFile { source, .. }) => invalid(format!(
            "the operator's credential in {} can't be read: {source}; run as the server's user, or \
             give a credential in PORTCULLIS_CREDENTIAL_FILE",
            path.display()
        )),
        Err(error) => Err(error),
    }
}

/// A file's text less one line end, which editors and `echo` leave.
fn read_secret(what: &'static str, path: &Path) -> Result<SecretString, ClientSettingsError> {
    read(what, path).map(|text| SecretString::from(without_line_end(&text)))
}

/// `text` less one line end.
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
