//! The server's settings. Each is a flag over a `PORTCULLIS_*` variable of the same name; every error
//! is named at once, with its cure. Secrets have no flag: a variable, or a file that it names
//! (docs/policy.md, rule 7.9).

mod catalog;
mod decision_log;
mod errors;
mod file;
mod gateway;
mod installation;
mod leaks;
mod level;
mod lifecycle;
mod listen;
mod mail;
mod operator;
mod page;
mod store;
mod traces;
mod variables;
mod webhooks;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::network::Limits;
use crate::policy::text;
use crate::secret::{Digest, Prefix};
use crate::telemetry::LogFormat;
use crate::telemetry::traces::TraceSettings;
pub use catalog::BUILT_IN_CATALOG;
pub use decision_log::{DecisionLogArgs, DecisionLogSettings, DecisionLogTarget};
use errors::ConfigErrors;
pub use errors::InvalidSettings;
pub use file::{ConfigArgs, ConfigFile};
pub use gateway::{GatewayArgs, GatewaySettings, OVERRIDE_HEADERS};
pub use installation::InstallationArgs;
pub use leaks::{LeakArgs, LeakKeys, LeakSettings};
pub use level::LevelFile;
pub use lifecycle::{LifecycleArgs, LifecycleSettings};
pub use listen::ListenSetting;
pub use mail::{MailArgs, MailSettings, RelayFiles, RelaySettings};
pub use operator::OperatorFile;
pub use page::{PageArgs, PageSettings};
pub use store::{StoreArgs, StoreSettings};
pub use traces::{TRACE_VARIABLES, TraceVariable};
use variables::known_variables;
pub use variables::{SECRETS, SecretVariable};
pub use webhooks::{WebhookArgs, WebhookSettings};

/// What `serve` takes, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listeners")]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// File with the operator's credential, as the configuration file names it.
    #[arg(skip)]
    operator_credential_file: Option<PathBuf>,
    /// Address of a gRPC listener: an IP address or a host name, and a port; or unix: and the path of a
    /// socket. Can be given several times. Without TLS, addresses must be loopback, unless --plaintext is
    /// set; only the server's user may connect to a socket, unless ?mode=0660 follows its path
    #[arg(
        long,
        env = "PORTCULLIS_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:50051"
    )]
    listen: Vec<String>,
    /// Address of the HTTP listener, an IP address or a host name, and a port: the management page,
    /// /metrics, /healthz and /readyz, and with --leak-keys alerts about leaked secrets
    #[arg(
        long,
        env = "PORTCULLIS_HTTP_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    http_listen: String,
    /// PEM file with the server's certificate chain; if it is set, both listeners use TLS
    #[arg(long, env = "PORTCULLIS_TLS_CERT", hide_env_values = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of --tls-cert
    #[arg(long, env = "PORTCULLIS_TLS_KEY", hide_env_values = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authorities of client certificates; if it is set, gRPC clients must present one
    /// (mutual TLS), and gateways on --gateway-listen may present one that their credential is bound to
    #[arg(long, env = "PORTCULLIS_TLS_CLIENT_CA", hide_env_values = true, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Listen without TLS on addresses that other hosts can reach
    #[arg(long, env = "PORTCULLIS_PLAINTEXT", hide_env_values = true,
          value_parser = clap::builder::BoolishValueParser::new())]
    plaintext: bool,
    /// gRPC connections with valid credentials of one client address (of IPv6, one /64), from 1 to 16384
    /// [default: half of all: 8192]
    #[arg(
        long,
        env = "PORTCULLIS_GRPC_CONNECTIONS_PER_ADDRESS",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    grpc_connections_per_address: Option<String>,
    /// How long a gRPC connection without any call is kept, at least 1s; clients reconnect by themselves
    #[arg(
        long,
        env = "PORTCULLIS_GRPC_IDLE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "5m"
    )]
    grpc_idle: String,
    /// How long a connection of gRPC or of a gateway is kept, give or take a tenth, at least 1s; it ends in the orderly
    /// way of HTTP, and clients reconnect by themselves, to other replicas too
    #[arg(
        long,
        env = "PORTCULLIS_MAX_CONNECTION_AGE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "30m"
    )]
    max_connection_age: String,
    /// How long gRPC calls may go on over a connection that is to end, at least 1s; then streams end with UNAVAILABLE
    #[arg(
        long,
        env = "PORTCULLIS_MAX_CONNECTION_AGE_GRACE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "60s"
    )]
    max_connection_age_grace: String,
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Development mode: this host and the embedded store only, no credentials, a demo account with new
    /// tokens printed at each start, and mails kept in memory where no mail relay is set
    #[arg(long, env = "PORTCULLIS_DEV", hide_env_values = true, help_heading = "Policy",
          value_parser = clap::builder::BoolishValueParser::new())]
    dev: bool,
    /// Catalogue file, applied only if the store has no catalogue yet [default: the built-in example]
    #[arg(
        long,
        env = "PORTCULLIS_CATALOG",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Policy"
    )]
    catalog: Option<PathBuf>,
    /// Prefix of new secrets: 2 to 16 lower-case letters and digits that begin with a letter. Secrets with
    /// an earlier prefix stay valid
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_PREFIX",
        hide_env_values = true,
        value_name = "PREFIX",
        default_value = "pcl",
        help_heading = "Policy"
    )]
    token_prefix: String,
    /// Let account admins import tokens that were issued elsewhere into their own account; without it,
    /// operators alone do
    #[arg(long, env = "PORTCULLIS_ALLOW_ADMIN_IMPORT", hide_env_values = true, help_heading = "Policy",
          value_parser = clap::builder::BoolishValueParser::new())]
    allow_admin_import: bool,
    /// Entries in one whitelist, from 1 to 10000
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_MAX_ENTRIES",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "100",
        help_heading = "Policy"
    )]
    whitelist_max_entries: String,
    /// Widest IPv4 range in a whitelist, as a prefix length from 1 to 32
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_WIDEST_IPV4",
        hide_env_values = true,
        value_name = "LENGTH",
        default_value = "8",
        help_heading = "Policy"
    )]
    whitelist_widest_ipv4: String,
    /// Widest IPv6 range in a whitelist, as a prefix length from 1 to 128
    #[arg(
        long,
        env = "PORTCULLIS_WHITELIST_WIDEST_IPV6",
        hide_env_values = true,
        value_name = "LENGTH",
        default_value = "24",
        help_heading = "Policy"
    )]
    whitelist_widest_ipv6: String,
    /// Tokens kept in memory, from 1 to 1000000000
    #[arg(
        long,
        env = "PORTCULLIS_CACHE_CAPACITY",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "1000000",
        help_heading = "Operation"
    )]
    cache_capacity: String,
    /// How long a replica decides without its database, from 100ms to 1h; less than --lifecycle-notice
    /// [default: 10s, or half of --lifecycle-notice if that is less]
    #[arg(
        long,
        env = "PORTCULLIS_LEASE",
        hide_env_values = true,
        value_name = "DURATION",
        help_heading = "Operation"
    )]
    lease: Option<String>,
    #[command(flatten)]
    lifecycle: LifecycleArgs,
    #[command(flatten)]
    mail: MailArgs,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    leaks: LeakArgs,
    #[command(flatten)]
    webhooks: WebhookArgs,
    #[command(flatten)]
    decision_log: DecisionLogArgs,
    /// Format of the log lines on standard error: text or json [default: text on a terminal, else json]
    #[arg(
        long,
        env = "PORTCULLIS_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        help_heading = "Operation"
    )]
    log_format: Option<String>,
    /// Lowest level that is logged: error, warn, info, debug or trace
    #[arg(
        long,
        env = "PORTCULLIS_LOG_LEVEL",
        hide_env_values = true,
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Operation"
    )]
    log_level: String,
    /// File with the lowest level that is logged, which counts instead of --log-level: read again when it changes, and
    /// on SIGHUP
    #[arg(
        long,
        env = "PORTCULLIS_LOG_LEVEL_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Operation"
    )]
    log_level_file: Option<PathBuf>,
}

/// What `migrate` takes, as written.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
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

/// Files of the server's TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities of client certificates.
    pub client_ca: Option<PathBuf>,
}

/// The server's settings, checked.
#[derive(Debug)]
pub struct ServeSettings {
    /// Where gRPC is served. Never empty.
    pub listen: Vec<ListenSetting>,
    /// Where HTTP is served: the first of these that the host has. Never empty.
    pub http_listen: Vec<SocketAddr>,
    /// How gateways are served over HTTP.
    pub gateway: GatewaySettings,
    /// TLS, for all listeners.
    pub tls: Option<TlsFiles>,
    /// gRPC connections of one address at most; `None` for half of all.
    pub connections_per_address: Option<usize>,
    /// How long a gRPC connection without any call is kept.
    pub connection_idle: Duration,
    /// How long a connection in use is kept, give or take a tenth.
    pub connection_age: Duration,
    /// How long gRPC calls may go on once their connection is to end.
    pub connection_grace: Duration,
    /// Where the store is.
    pub store: StoreSettings,
    /// Whether `--dev` was given.
    pub development: bool,
    /// The catalogue to apply where there is none: its text.
    pub catalog: String,
    /// The digest of the operator credential: nothing needs the credential itself, so it is wiped.
    pub operator_credential: Option<Digest>,
    /// The file that it was read from, where it was read from one.
    pub operator_file: Option<OperatorFile>,
    /// What new secrets begin with.
    pub prefix: Prefix,
    /// Whether account admins may import tokens.
    pub allow_admin_import: bool,
    /// How large whitelists may be.
    pub limits: Limits,
    /// Tokens kept in memory at most.
    pub cache_capacity: u64,
    /// How long a replica decides without its database.
    pub lease: Duration,
    /// What happens to unused tokens.
    pub lifecycle: LifecycleSettings,
    /// How admins are mailed.
    pub mail: MailSettings,
    /// The management page.
    pub page: PageSettings,
    /// Whose alerts about leaked secrets are received; `None` for nobody's.
    pub leaks: Option<LeakSettings>,
    /// How events are sent to webhooks.
    pub webhooks: WebhookSettings,
    /// Where decisions are logged; `None` for nowhere.
    pub decision_log: Option<DecisionLogSettings>,
    /// How traces are recorded; `None` where none are.
    pub traces: Option<TraceSettings>,
    /// How log lines are written; `None` to decide by the terminal.
    pub log_format: Option<LogFormat>,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// The file that this was read from, where it was read from one.
    pub log_level_file: Option<LevelFile>,
}

/// The most gRPC connections that there can be.
pub const MAX_CONNECTIONS: u64 = 16_384;
/// The shortest time that a connection can be kept, without any call or with calls.
const SHORTEST_CONNECTION: Duration = Duration::from_secs(1);
/// How long a lease is, unless the notice is too short for that.
const LEASE: Duration = Duration::from_secs(10);
/// The shortest and the longest lease.
const LEASES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);
impl ServeArgs {
    /// Checks the settings, secrets from the environment included.
    ///
    /// # Errors
    /// All errors at once.
    pub fn resolve(self) -> Result<ServeSettings, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        known_variables(&mut errors);
        let listen = errors.listeners("listen", &self.listen);
        let http_listen = errors.addresses("http-listen", &self.http_listen);
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key, client_ca: self.tls_client_ca }),
            (None, None) => {
                if self.tls_client_ca.is_some() {
                    errors.add("--tls-client-ca: goes with --tls-cert and --tls-key");
                }
                None
            }
            _ => {
                errors.add("--tls-cert and --tls-key: go together, one is missing");
                None
            }
        };
        let gateway = self.gateway.resolve(self.dev, &mut errors);
        let tcp = |flag, listener: &ListenSetting| Some((flag, listener.addresses()?.to_vec()));
        let grpc = listen.iter().flatten().filter_map(|listener| tcp("listen", listener));
        let http = http_listen.iter().map(|addresses| ("http-listen", addresses.clone()));
        let gateways = gateway.iter().flat_map(|gateway| &gateway.listen);
        let gateways = gateways.filter_map(|listener| tcp("gateway-listen", listener));
        for (flag, addresses) in grpc.chain(http).chain(gateways) {
            let mut ips = addresses.iter().map(|address| address.ip().to_canonical());
            if let Some(ip) = ips.find(|ip| !ip.is_loopback()) {
                open_listener(flag, ip, self.dev, tls.is_some(), self.plaintext, &mut errors);
            }
        }
        let connections_per_address = self.grpc_connections_per_address.map(|text| {
            let flag = "grpc-connections-per-address";
            errors.number(flag, &text, 1, MAX_CONNECTIONS) as usize
        });
        let [connection_idle, connection_age, connection_grace] = [
            ("grpc-idle", &self.grpc_idle),
            ("max-connection-age", &self.max_connection_age),
            ("max-connection-age-grace", &self.max_connection_age_grace),
        ]
        .map(|(flag, text)| {
            let duration = errors.duration(flag, text)?;
            if duration < SHORTEST_CONNECTION {
                errors.add(format!("--{flag}: {text} is less than 1s"));
            }
            Some(duration)
        });
        let store = self.store.resolve(&mut errors);
        if self.dev && matches!(store, Some(StoreSettings::Postgres { .. })) {
            errors.add("--dev: serves the embedded store only; name no database");
        }
        let catalog = catalog::read(self.catalog.as_deref(), &mut errors);
        let operator_file = self.operator_credential_file.as_deref();
        let operator_credential = operator::credential(operator_file, &mut errors);
        let what = "2 to 16 lower-case letters and digits that begin with a letter";
        let prefix = errors.parse::<Prefix>("token-prefix", &self.token_prefix, what);
        let number = ConfigErrors::number;
        let limits = Limits {
            max_entries: number(
                &mut errors,
                "whitelist-max-entries",
                &self.whitelist_max_entries,
                1,
                Limits::MOST_ENTRIES as u64,
            ) as usize,
            widest_v4: number(
                &mut errors,
                "whitelist-widest-ipv4",
                &self.whitelist_widest_ipv4,
                1,
                32,
            ) as u8,
            widest_v6: number(
                &mut errors,
                "whitelist-widest-ipv6",
                &self.whitelist_widest_ipv6,
                1,
                128,
            ) as u8,
        };
        let cache_capacity =
            errors.number("cache-capacity", &self.cache_capacity, 1, 1_000_000_000);
        let lifecycle = self.lifecycle.resolve(&mut errors);
        let notice = lifecycle.as_ref().map(|lifecycle| lifecycle.rules.notice());
        let shared = matches!(store, Some(StoreSettings::Postgres { .. }));
        let lease = lease(self.lease.as_deref(), notice, shared, &mut errors);
        let mail = self.mail.resolve(&mut errors);
        let page = self.page.resolve(&limits, &mut errors);
        let leaks = self.leaks.resolve(&mut errors);
        let webhooks = self.webhooks.resolve(&mut errors);
        let decision_log = self.decision_log.resolve(&mut errors);
        let traces = traces::resolve(&mut errors);
        let log_format = match self.log_format.as_deref() {
            None => None,
            Some("text") => Some(LogFormat::Text),
            Some("json") => Some(LogFormat::Json),
            Some(other) => {
                errors.add(format!("--log-format: {} is not text or json", text::in_quotes(other)));
                None
            }
        };
        let log_level = level::level("log-level", &self.log_level, &mut errors);
        let log_level_file = self.log_level_file.map(LevelFile::new);
        let log_level = match &log_level_file {
            None => log_level,
            Some(file) => file.level(&mut errors),
        };
        errors.into_result(|| {
            Some(ServeSettings {
                listen: listen?,
                http_listen: http_listen?,
                gateway: gateway?,
                tls,
                connections_per_address,
                connection_idle: connection_idle?,
                connection_age: connection_age?,
                connection_grace: connection_grace?,
                store: store?,
                development: self.dev,
                catalog,
                operator_credential,
                operator_file: OperatorFile::named(operator_file),
                prefix: prefix?,
                allow_admin_import: self.allow_admin_import,
                limits,
                cache_capacity,
                lease: lease?,
                lifecycle: lifecycle?,
                mail: mail?,
                page: page?,
                leaks: leaks?,
                webhooks: webhooks?,
                decision_log: decision_log?,
                traces: traces?,
                log_format,
                log_level: log_level?,
                log_level_file,
            })
        })
    }
}

/// `notice` is what the lease has to be shorter than; it matters only where replicas may share the store.
fn lease(
    text: Option<&str>,
    notice: Option<Duration>,
    shared: bool,
    errors: &mut ConfigErrors,
) -> Option<Duration> {
    let Some(text) = text else {
        let lease = LEASE.min(notice? / 2);
        if shared && !LEASES.contains(&lease) {
            errors.add(
                "--lifecycle-notice: is too short for a lease of 100ms, which it must outlast",
            );
        }
        return Some(lease);
    };
    let lease = errors.duration("lease", text)?;
    if !LEASES.contains(&lease) {
        errors.add(format!("--lease: {text} is not from 100ms to 1h"));
    }
    if notice.is_some_and(|notice| lease >= notice) {
        errors.add(format!(
            "--lease: {text} is not less than --lifecycle-notice: a replica that is cut off must \
             learn of a pending action before it is carried out"
        ));
    }
    Some(lease)
}

/// Checks a listener at `ip`, which is not loopback. Rule 8.12 of docs/policy.md.
fn open_listener(
    flag: &str,
    ip: IpAddr,
    development: bool,
    tls: bool,
    plaintext: bool,
    errors: &mut ConfigErrors,
) {
    if development {
        errors.add(format!("--{flag}: --dev asks for no credentials, so it serves loopback only"));
    } else if !tls && !plaintext {
        errors.add(format!(
            "--{flag}: other hosts reach {ip}, and secrets would cross the network in plain text: \
             set --tls-cert and --tls-key, or --plaintext if something else encrypts"
        ));
    }
}

impl MigrateArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// All errors at once.
    pub fn resolve(self) -> Result<StoreSettings, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        known_variables(&mut errors);
        let store = self.store.resolve(&mut errors);
        errors.into_result(|| store)
    }
}

impl FirstCredentialArgs {
    /// Where the store is.
    ///
    /// # Errors
    /// All errors at once.
    pub fn resolve(&self) -> Result<StoreSettings, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        let store = StoreArgs::in_directory(self.data_dir.clone()).resolve(&mut errors);
        errors.into_result(|| store)
    }
}

#[cfg(test)]
mod tests;
