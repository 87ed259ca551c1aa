//! What the client side of the command needs to reach a server: its address, TLS files, a timeout
//! and a credential. A secret never has a flag, since `ps` shows flags: it comes from a variable or
//! a file, and stands in a `SecretString` from then on.

mod decisions;
mod output;
mod secret;

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use crate::pem;
use crate::policy::duration;
use crate::policy::text::in_quotes;
pub use decisions::DecisionFileArgs;
pub use output::{Format, OutputArgs};
pub use secret::{Credential, OPERATOR_CREDENTIAL_FILE, TokenArgs, without_line_end};
use secret::{SecretVariables, operator_credential};

/// The variables that the client side reads, for [`super::unknown_variables`].
pub const VARIABLES: [&str; 11] = [
    "PORTCULLIS_SERVER",
    "PORTCULLIS_SERVER_CA",
    "PORTCULLIS_CLIENT_CERT",
    "PORTCULLIS_CLIENT_KEY",
    "PORTCULLIS_TIMEOUT",
    "PORTCULLIS_DATA_DIR",
    "PORTCULLIS_CREDENTIAL",
    "PORTCULLIS_CREDENTIAL_FILE",
    "PORTCULLIS_TOKEN",
    "PORTCULLIS_TOKEN_FILE",
    "PORTCULLIS_OUTPUT",
];

/// How to reach the server, as written on the command line and in variables.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ClientArgs {
    /// URL of the server: `http://` or `https://`, a host and a port; or unix: and the path of its socket
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_SERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub server: String,
    /// PEM file with the authorities of an https server's certificate, instead of the system's
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_SERVER_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub server_ca: Option<PathBuf>,
    /// PEM file with the client certificate, for an https server that asks for one
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_CLIENT_CERT",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub client_cert: Option<PathBuf>,
    /// PEM file with the private key of --client-cert
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_CLIENT_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub client_key: Option<PathBuf>,
    /// Time limit for connecting and for each call, such as 90s or 500ms
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration::parse
    )]
    pub timeout: Duration,
    /// Send secrets over http:// to other hosts
    #[arg(long, global = true)]
    pub plaintext: bool,
    /// File with the credential to call with [env: PORTCULLIS_CREDENTIAL_FILE; the credential itself:
    /// PORTCULLIS_CREDENTIAL]
    #[arg(long, global = true, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// Data directory of a server on this host: without another credential, its `operator-credential` file
    /// is used
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "portcullis-data"
    )]
    pub data_dir: PathBuf,
}

/// How to reach the server, read and checked.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Where the server is.
    pub server: ServerAddress,
    /// Whether the server is on this host.
    pub loopback: bool,
    /// How TLS is spoken. `None` for a plaintext server.
    pub tls: Option<TlsSettings>,
    /// For connecting, and for each call. Longer than zero.
    pub timeout: Duration,
    /// What to call with. `None` sends no header.
    pub credential: Option<Credential>,
    /// Whether plaintext to other hosts was allowed in so many words.
    pub plaintext: bool,
    /// Where a server on this host keeps its data.
    pub data_dir: PathBuf,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Scheme, host and port, nothing else.
    Url(Uri),
    /// The absolute path of its Unix socket.
    Unix(String),
}

impl fmt::Display for ServerAddress {
    /// The address as it was most likely written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url.to_string().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// How TLS is spoken; PEM throughout.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Authorities instead of the system's.
    pub server_ca: Option<String>,
    /// Certificate and private key to show.
    pub identity: Option<(String, SecretString)>,
}

/// An error of the client's settings. Names the setting, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientSettingsError {
    /// A setting that can't be used as it stands.
    #[error("{0}")]
    Invalid(String),
    /// A file that can't be read.
    #[error("{what} {} can't be read: {source}", path.display())]
    UnreadableFile {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ClientSettingsError> {
    Err(ClientSettingsError::Invalid(message.into()))
}

impl ClientArgs {
    /// Reads the files and secrets that the arguments and the environment name, and checks them.
    ///
    /// # Errors
    /// The first error, with its cure.
    pub fn resolve(self) -> Result<ClientSettings, ClientSettingsError> {
        let variables =
            SecretVariables::read("PORTCULLIS_CREDENTIAL", "PORTCULLIS_CREDENTIAL_FILE")?;
        self.resolve_with(variables)
    }

    fn resolve_with(
        self,
        variables: SecretVariables,
    ) -> Result<ClientSettings, ClientSettingsError> {
        let (server, https) = match unix_socket(&self.server)? {
            Some(socket) => (socket, false),
            None => {
                let (url, https) = parse_server(&self.server)?;
                (ServerAddress::Url(url), https)
            }
        };
        let loopback = match &server {
            ServerAddress::Url(url) => is_loopback(url.host().unwrap_or_default()),
            ServerAddress::Unix(_) => true,
        };
        if self.timeout.is_zero() {
            return invalid("--timeout must be longer than 0s");
        }
        let credential = match variables.secret("credential", self.credential_file)? {
            None if loopback => operator_credential(&self.data_dir)?,
            given => given,
        };
        if let Some(credential) = &credential
            && !credential.secret.expose_secret().bytes().all(|b| b.is_ascii_graphic())
        {
            return invalid(format!(
                "the credential in {} is not one: it must be visible ASCII characters, on one line",
                credential.source
            ));
        }
        let settings = ClientSettings {
            tls: tls(https, self.server_ca, self.client_cert, self.client_key)?,
            server,
            loopback,
            timeout: self.timeout,
            credential,
            plaintext: self.plaintext,
            data_dir: self.data_dir,
        };
        if settings.credential.is_some() {
            settings.guard_secret("the credential")?;
        }
        Ok(settings)
    }
}

impl ClientSettings {
    /// Refuses to send `what`, a secret, where others can read it on the way.
    ///
    /// # Errors
    /// When the server is another host, spoken to in plaintext, and nobody allowed that.
    pub fn guard_secret(&self, what: &str) -> Result<(), ClientSettingsError> {
        if self.tls.is_some() || self.loopback || self.plaintext {
            return Ok(());
        }
        invalid(format!(
            "{what} would travel to {} unencrypted, where others may read it: use https://, or say \
             --plaintext if the way there is protected otherwise",
            match &self.server {
                ServerAddress::Url(url) => url.authority().map_or("", |a| a.as_str()),
                ServerAddress::Unix(path) => path,
            }
        ))
    }
}

fn read(what: &'static str, path: &Path) -> Result<String, ClientSettingsError> {
    fs::read_to_string(path).map_err(|source| ClientSettingsError::UnreadableFile {
        what,
        path: path.to_owned(),
        source,
    })
}

/// The socket that `text` names; `None` where it begins otherwise.
fn unix_socket(text: &str) -> Result<Option<ServerAddress>, ClientSettingsError> {
    let Some(path) = text.strip_prefix("unix:") else { return Ok(None) };
    // Written as a URL with an empty host.
    let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
    if !path.starts_with('/') || path.contains('?') {
        return invalid(format!(
            "--server {} must be unix: and an absolute path, such as unix:/run/portcullis/grpc.sock, with \
             nothing after it",
            in_quotes(text)
        ));
    }
    Ok(Some(ServerAddress::Unix(path.to_owned())))
}

/// The server's address, and whether TLS is spoken to it.
fn parse_server(text: &str) -> Result<(Uri, bool), ClientSettingsError> {
    let shown = in_quotes(text);
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => return invalid(format!("--server {shown} is not a URL: {error}")),
    };
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => {
            return invalid(format!(
                "--server {shown} must begin with http:// or https://, such as http://127.0.0.1:50051"
            ));
        }
    };
    let authority = uri.authority().map_or("", |a| a.as_str());
    if authority.contains('@') {
        return invalid(
            "--server must not hold a user or password; credentials go in PORTCULLIS_CREDENTIAL",
        );
    }
    if uri.host().unwrap_or_default().is_empty() {
        return invalid(format!("--server {shown} names no host"));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return invalid(format!("--server {shown} must end after the port; gRPC has no path"));
    }
    Ok((uri, https))
}

/// Whether `host`, a name or an address as in a URL, is this host.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn tls(
    https: bool,
    server_ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
) -> Result<Option<TlsSettings>, ClientSettingsError> {
    if !https {
        return if server_ca.is_some() || client_cert.is_some() || client_key.is_some() {
            invalid("--server-ca, --client-cert and --client-key are for an https:// server")
        } else {
            Ok(None)
        };
    }
    let identity = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some(identity(&cert, &key)?),
        (None, None) => None,
        _ => return invalid("--client-cert and --client-key go together"),
    };
    let server_ca = server_ca.map(|path| {
        let pem = read("--server-ca: the file", &path)?;
        checked("--server-ca", &path, pem::authorities(pem.as_bytes()))?;
        Ok::<_, ClientSettingsError>(pem)
    });
    let server_ca = server_ca.transpose()?;
    Ok(Some(TlsSettings { server_ca, identity }))
}

/// A certificate and its key, in PEM.
fn identity(cert: &Path, key: &Path) -> Result<(String, SecretString), ClientSettingsError> {
    let cert_pem = read("--client-cert: the file", cert)?;
    let key_pem = SecretString::from(read("--client-key: the file", key)?);
    let chain = checked("--client-cert", cert, pem::certificates(cert_pem.as_bytes()))?;
    let secret = key_pem.expose_secret().as_bytes();
    let private = checked("--client-key", key, pem::private_key(secret))?;
    if !pem::belongs(&chain, &private) {
        return invalid(format!(
            "--client-key: {} is not the key of the first certificate in {}, the file of --client-cert",
            key.display(),
            cert.display()
        ));
    }
    Ok((cert_pem, key_pem))
}

/// What was read from the file that `flag` names, or what is wrong with that file.
fn checked<T>(flag: &str, path: &Path, read: Result<T, String>) -> Result<T, ClientSettingsError> {
    read.or_else(|why| invalid(format!("{flag}: {} {why}", path.display())))
}

#[cfg(test)]
mod tests;
