//! The server's settings. Each is a flag over a `PORTCULLIS_*` variable of the same name; every fault
//! is told at once, with its cure. Secrets have no flag: a variable, or a file that it names.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};

use super::{client, unknown_variables};
use crate::policy::network::Limits;
use crate::secret::Prefix;
use crate::telemetry::LogFormat;

const DATABASE_URL: &str = "PORTCULLIS_DATABASE_URL";
const DATABASE_URL_FILE: &str = "PORTCULLIS_DATABASE_URL_FILE";
const OPERATOR: &str = "PORTCULLIS_OPERATOR_CREDENTIAL";
const OPERATOR_FILE: &str = "PORTCULLIS_OPERATOR_CREDENTIAL_FILE";

/// The variables that the server reads, besides those of the client side.
const VARIABLES: [&str; 20] = [
    "PORTCULLIS_LISTEN",
    "PORTCULLIS_HTTP_LISTEN",
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
    "PORTCULLIS_CACHE_CAPACITY",
    "PORTCULLIS_DATABASE_CONNECTIONS",
    "PORTCULLIS_WHITELIST_MAX_ENTRIES",
    "PORTCULLIS_WHITELIST_WIDEST_IPV4",
    "PORTCULLIS_WHITELIST_WIDEST_IPV6",
    "PORTCULLIS_LOG_FORMAT",
    "PORTCULLIS_LOG_LEVEL",
];

/// Where the store is, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Directory of the embedded SQLite store, which serves where no database is named
    #[arg(
        long,
        env = "PORTCULLIS_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "portcullis-data"
    )]
    data_dir: PathBuf,
    /// The production store: postgres://user@host/database. With a password in it, set
    /// PORTCULLIS_DATABASE_URL, or name a file in PORTCULLIS_DATABASE_URL_FILE: `ps` shows flags
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Connections to the database at most
    #[arg(
        long,
        env = "PORTCULLIS_DATABASE_CONNECTIONS",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "10"
    )]
    database_connections: String,
}

/// What `serve` takes, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listeners")]
pub struct ServeArgs {
    /// Where gRPC is served
    #[arg(
        long,
        env = "PORTCULLIS_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    listen: String,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(
        long,
        env = "PORTCULLIS_HTTP_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    http_listen: String,
    /// PEM file of the server's certificate chain; both listeners speak TLS then
    #[arg(long, env = "PORTCULLIS_TLS_CERT", hide_env_values = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, env = "PORTCULLIS_TLS_KEY", hide_env_values = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// PEM file of the authorities that must vouch for gRPC clients (mutual TLS)
    #[arg(long, env = "PORTCULLIS_TLS_CLIENT_CA", hide_env_values = true, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Listen without TLS on addresses that other hosts reach
    #[arg(long, env = "PORTCULLIS_PLAINTEXT", hide_env_values = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    plaintext: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// Try things out: this host only, embedded store only, no credentials; a demo account with fresh
    /// tokens is printed at each start
    #[arg(long, env = "PORTCULLIS_DEV", hide_env_values = true, help_heading = "Policy",
          value_parser = clap::builder::FalseyValueParser::new())]
    dev: bool,
    /// Catalogue file, applied where the store has none yet [default: the built-in example]
    #[arg(
        long,
        env = "PORTCULLIS_CATALOG",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Policy"
    )]
    catalog: Option<PathBuf>,
    /// What new secrets begin with; those with an earlier prefix stay valid
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_PREFIX",
        hide_env_values = true,
        value_name = "PREFIX",
        default_value = "pcl",
        help_heading = "Policy"
    )]
    token_prefix: String,
    /// Entries that a whitelist has at most
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_MAX_ENTRIES",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "100",
        help_heading = "Policy"
    )]
    whitelist_max_entries: String,
    /// The widest IPv4 range that a whitelist takes, as a prefix length
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_WIDEST_IPV4",
        hide_env_values = true,
        value_name = "LENGTH",
        default_value = "8",
        help_heading = "Policy"
    )]
    whitelist_widest_ipv4: String,
    /// The widest IPv6 range that a whitelist takes, as a prefix length
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_WIDEST_IPV6",
        hide_env_values = true,
        value_name = "LENGTH",
        default_value = "32",
        help_heading = "Policy"
    )]
    whitelist_widest_ipv6: String,
    /// Tokens kept in memory at most
    #[arg(
        long,
        env = "PORTCULLIS_CACHE_CAPACITY",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "1000000",
        help_heading = "Operation"
    )]
    cache_capacity: String,
    /// How log lines on standard error are written: text or json [default: text on a terminal,
    /// else json]
    #[arg(
        long,
        env = "PORTCULLIS_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        help_heading = "Operation"
    )]
    log_format: Option<String>,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(
        long,
        env = "PORTCULLIS_LOG_LEVEL",
        hide_env_values = true,
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Operation"
    )]
    log_level: String,
}

/// What `migrate` takes, as written.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// What the first credential of a store needs. The database's URL comes from the environment.
#[derive(Debug)]
pub struct FirstCredentialArgs {
    /// Where the embedded store lives.
    pub data_dir: PathBuf,
    /// The credential's label; may be empty.
    pub name: String,
}

/// Where the store is.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// SQLite in this directory.
    Embedded(PathBuf),
    /// Postgres.
    Postgres {
        /// `postgres://...`, which may hold a password.
        url: SecretString,
        /// Connections at most.
        connections: u32,
    },
}

/// Files of the server's TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities that must vouch for clients.
    pub client_ca: Option<PathBuf>,
}

/// The server's settings, checked.
#[derive(Debug)]
pub struct ServeSettings {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where HTTP is served.
    pub http_listen: SocketAddr,
    /// TLS, for both.
    pub tls: Option<TlsFiles>,
    /// Where the store is.
    pub store: StoreSettings,
    /// Whether `--dev` was given.
    pub development: bool,
    /// The catalogue to apply where there is none: its text.
    pub catalog: String,
    /// The first operator credential.
    pub operator_credential: Option<SecretString>,
    /// What new secrets begin with.
    pub prefix: Prefix,
    /// How large whitelists may be.
    pub limits: Limits,
    /// Tokens kept in memory at most.
    pub cache_capacity: u64,
    /// How log lines are written; `None` to decide by the terminal.
    pub log_format: Option<LogFormat>,
    /// How much is logged.
    pub log_level: tracing::Level,
}

/// Every fault of the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.told())]
pub struct InvalidSettings(Vec<String>);

impl InvalidSettings {
    fn told(&self) -> String {
        match self.0.as_slice() {
            [fault] => fault.clone(),
            faults => format!("{} settings are at fault:\n  {}", faults.len(), faults.join("\n  ")),
        }
    }
}

/// The catalogue that a store without one gets.
pub const BUILT_IN_CATALOG: &str = include_str!("../../catalogs/mercury.toml");
/// The fewest characters of an operator credential.
const MIN_CREDENTIAL: usize = 32;
/// The most.
const MAX_CREDENTIAL: usize = 1_024;

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    fn parse<T: FromStr>(&mut self, flag: &str, text: &str, what: &str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.add(format!("--{flag}: {text:?} is not {what}"));
        }
        parsed
    }

    fn number(&mut self, flag: &str, text: &str, least: u64, most: u64) -> u64 {
        let what = format!("a whole number from {least} to {most}");
        match self.parse::<u64>(flag, text, &what) {
            Some(number) if (least..=most).contains(&number) => number,
            Some(_) => {
                self.add(format!("--{flag}: {text} is not {what}"));
                least
            }
            None => least,
        }
    }

    fn settle<T>(self, value: impl FnOnce() -> Option<T>) -> Result<T, InvalidSettings> {
        if self.0.is_empty()
            && let Some(value) = value()
        {
            return Ok(value);
        }
        Err(InvalidSettings(self.0))
    }

    /// A secret from its variable or the file that its other variable names.
    fn secret(&mut self, name: &str, file_name: &str) -> Option<SecretString> {
        let value = match env::var(name) {
            Ok(value) => Some(value),
            Err(env::VarError::NotPresent) => None,
            Err(env::VarError::NotUnicode(_)) => {
                self.add(format!("{name} is not UTF-8"));
                None
            }
        };
        let file = env::var_os(file_name).map(PathBuf::from);
        match (value, file) {
            (Some(_), Some(_)) => {
                self.add(format!("{name} and {file_name} are both set: unset one"));
                None
            }
            (Some(value), None) => Some(value.into()),
            (None, Some(path)) => match fs::read_to_string(&path) {
                Ok(text) => Some(client::without_line_end(&text).to_owned().into()),
                Err(error) => {
                    self.add(format!("{file_name}: cannot read {}: {error}", path.display()));
                    None
                }
            },
            (None, None) => None,
        }
    }
}

impl StoreArgs {
    fn resolve(&self, faults: &mut Faults) -> Option<StoreSettings> {
        let connections =
            faults.number("database-connections", &self.database_connections, 2, 1_000);
        let variable = faults.secret(DATABASE_URL, DATABASE_URL_FILE);
        let url = match (&self.database_url, variable) {
            (Some(flag), _) => {
                if has_password(flag) {
                    faults.add(format!(
                        "--database-url: has a password, and `ps` shows flags: set {DATABASE_URL} \
                         instead, or name a file in {DATABASE_URL_FILE}"
                    ));
                }
                Some(SecretString::from(flag.clone()))
            }
            (None, variable) => variable,
        };
        let Some(url) = url else {
            return Some(StoreSettings::Embedded(self.data_dir.clone()));
        };
        let text = url.expose_secret();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            faults.add(format!(
                "{DATABASE_URL}: must be postgres://user:password@host/database; leave it out for \
                 the embedded store"
            ));
            return None;
        }
        Some(StoreSettings::Postgres { url, connections: connections as u32 })
    }
}

/// Whether a URL has a password before its host, or as a parameter.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
        || rest.to_ascii_lowercase().contains("password=")
}

fn known_variables(faults: &mut Faults) {
    let known: Vec<_> = VARIABLES.iter().chain(&client::VARIABLES).copied().collect();
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    faults.0.extend(unknown_variables(&known, names));
}

impl ServeArgs {
    /// Checks the settings, secrets from the environment included.
    ///
    /// # Errors
    /// All faults at once.
    pub fn resolve(self) -> Result<ServeSettings, InvalidSettings> {
        let mut faults = Faults::default();
        known_variables(&mut faults);
        let address = "an address and a port such as 127.0.0.1:50051";
        let listen = faults.parse::<SocketAddr>("listen", &self.listen, address);
        let http_listen = faults.parse::<SocketAddr>("http-listen", &self.http_listen, address);
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key, client_ca: self.tls_client_ca }),
            (None, None) => {
                if self.tls_client_ca.is_some() {
                    faults.add("--tls-client-ca: goes with --tls-cert and --tls-key");
                }
                None
            }
            _ => {
                faults.add("--tls-cert and --tls-key: go together, one is missing");
                None
            }
        };
        for (flag, address) in [("listen", listen), ("http-listen", http_listen)] {
            let Some(ip) = address.map(|address| address.ip().to_canonical()) else {
                continue;
            };
            open_listener(flag, ip, self.dev, tls.is_some(), self.plaintext, &mut faults);
        }
        let store = self.store.resolve(&mut faults);
        if self.dev && matches!(store, Some(StoreSettings::Postgres { .. })) {
            faults.add("--dev: serves the embedded store only; name no database");
        }
        let catalog = match &self.catalog {
            None => BUILT_IN_CATALOG.to_owned(),
            Some(path) => fs::read_to_string(path).unwrap_or_else(|error| {
                faults.add(format!("--catalog: cannot read {}: {error}", path.display()));
                String::new()
            }),
        };
        let operator_credential = faults.secret(OPERATOR, OPERATOR_FILE);
        if let Some(secret) = &operator_credential {
            let secret = secret.expose_secret();
            if !(MIN_CREDENTIAL..=MAX_CREDENTIAL).contains(&secret.len())
                || !secret.bytes().all(|byte| byte.is_ascii_graphic())
            {
                faults.add(format!(
                    "{OPERATOR}: must be {MIN_CREDENTIAL} to {MAX_CREDENTIAL} printable ASCII \
                     characters without spaces"
                ));
            }
        }
        let what = "2 to 16 lower-case letters and digits that begin with a letter";
        let prefix = faults.parse::<Prefix>("token-prefix", &self.token_prefix, what);
        let number = Faults::number;
        let limits = Limits {
            max_entries: number(
                &mut faults,
                "whitelist-max-entries",
                &self.whitelist_max_entries,
                1,
                10_000,
            ) as usize,
            widest_v4: number(
                &mut faults,
                "whitelist-widest-ipv4",
                &self.whitelist_widest_ipv4,
                1,
                32,
            ) as u8,
            widest_v6: number(
                &mut faults,
                "whitelist-widest-ipv6",
                &self.whitelist_widest_ipv6,
                1,
                128,
            ) as u8,
        };
        let cache_capacity =
            faults.number("cache-capacity", &self.cache_capacity, 1, 1_000_000_000);
        let log_format = match self.log_format.as_deref() {
            None => None,
            Some("text") => Some(LogFormat::Text),
            Some("json") => Some(LogFormat::Json),
            Some(other) => {
                faults.add(format!("--log-format: {other:?} is not text or json"));
                None
            }
        };
        let log_level =
            faults.parse("log-level", &self.log_level, "error, warn, info, debug or trace");
        faults.settle(|| {
            Some(ServeSettings {
                listen: listen?,
                http_listen: http_listen?,
                tls,
                store: store?,
                development: self.dev,
                catalog,
                operator_credential,
                prefix: prefix?,
                limits,
                cache_capacity,
                log_format,
                log_level: log_level?,
            })
        })
    }
}

fn open_listener(
    flag: &str,
    ip: IpAddr,
    development: bool,
    tls: bool,
    plaintext: bool,
    faults: &mut Faults,
) {
    if ip.is_loopback() {
        return;
    }
    if development {
        faults.add(format!("--{flag}: --dev asks for no credentials, so it serves loopback only"));
    } else if !tls && !plaintext {
        faults.add(format!(
            "--{flag}: other hosts reach {ip}, and secrets would cross the network in plain text: \
             set --tls-cert and --tls-key, or --plaintext if something else encrypts"
        ));
    }
}

impl MigrateArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// All faults at once.
    pub fn resolve(self) -> Result<StoreSettings, InvalidSettings> {
        let mut faults = Faults::default();
        known_variables(&mut faults);
        let store = self.store.resolve(&mut faults);
        faults.settle(|| store)
    }
}

impl FirstCredentialArgs {
    /// Where the store is.
    ///
    /// # Errors
    /// All faults at once.
    pub fn resolve(&self) -> Result<StoreSettings, InvalidSettings> {
        let mut faults = Faults::default();
        let store = StoreArgs {
            data_dir: self.data_dir.clone(),
            database_url: None,
            database_connections: "2".to_owned(),
        };
        let store = store.resolve(&mut faults);
        faults.settle(|| store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn resolve(flags: &[&str]) -> Result<ServeSettings, String> {
        let args = std::iter::once(&"serve").chain(flags);
        let command = Command::try_parse_from(args).map_err(|error| error.to_string())?;
        command.serve.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_needs_to_be_configured() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
        assert!(matches!(settings.store, StoreSettings::Embedded(_)));
        assert_eq!(settings.limits, Limits::default());
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let error = resolve(&[
            "--listen",
            "0.0.0.0:1",
            "--http-listen",
            "here",
            "--tls-key",
            "k",
            "--token-prefix",
            "NO",
            "--cache-capacity",
            "0",
            "--log-level",
            "loud",
            "--catalog",
            "/nonexistent",
            "--database-url",
            "postgres://u:pw@h/d",
        ])
        .unwrap_err();
        for part in [
            "8 settings are at fault",
            "--listen: other hosts reach 0.0.0.0",
            "--http-listen:",
            "--tls-cert and --tls-key",
            "--token-prefix:",
            "--cache-capacity:",
            "--log-level:",
            "--catalog:",
            "--database-url: has a password",
        ] {
            assert!(error.contains(part), "{part} is missing in:\n{error}");
        }
        assert!(!error.contains("pw@"), "{error}");
    }

    #[test]
    fn passwords_are_seen_wherever_a_url_can_have_one() {
        for url in ["postgres://u:p@h/d", "postgres://h/d?password=p", "postgres://u:p@:x@h"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["postgres://u@h:5432/d", "postgres://h/d", "postgres://h/a:b@c"] {
            assert!(!has_password(url), "{url}");
        }
    }

    #[test]
    fn dev_stays_on_this_host() {
        let error = resolve(&["--dev", "--listen", "0.0.0.0:1", "--plaintext"]).unwrap_err();
        assert!(error.contains("loopback only"), "{error}");
        assert!(resolve(&["--dev", "--database-url", "postgres://h/d"]).is_err());
    }
}
