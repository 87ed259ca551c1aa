//! The only wiring: settings -> store -> memory -> services -> servers and tasks, and their end.

mod bootstrap;
mod certificates;
mod decision_log;
mod demo;
mod doctor;
mod leaks;
mod process;
mod reload;
mod store_wait;
mod traces;
mod webhooks;

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::{Clock, Stopwatch};
use crate::config;
use crate::config::client::Format;
use crate::config::server::{
    FirstCredentialArgs, InstallationArgs, ListenSetting, MailSettings, MigrateArgs, RelaySettings,
    ServeArgs, ServeSettings, StoreSettings,
};
use crate::decision_log::OpenedLog;
use crate::gateway::Interfaces;
use crate::gateway::request::OverrideHeaders;
use crate::grpc::connections::ConnectionLimits;
use crate::grpc::envoy::EnvoySettings;
use crate::grpc::{health, proto, server};
use crate::lifecycle::{CLAIM, LifecycleStatus, Outbox, REFRESH, Retries, Sweeper, Transport};
use crate::mail::{Limits, Mailbox, PublicUrl, Relay, ReplaceableRelay};
use crate::model::StoreMode;
use crate::net::{Listener, ListenerAddress, UnixSocket};
use crate::policy::duration;
use crate::policy::lifecycle::Mode;
use crate::replication::{RegisteredReplica, Wait};
use crate::service::{Dependencies, Services, SessionLengths};
use crate::shutdown::{Hangup, IgnoredSignals, Signals, outlive_file_size_limit};
use crate::store::postgres::{self, PostgresOptions, PostgresStore};
use crate::store::replication::ReplicaInfo;
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{OpenError, Store, StoreError, Trouble};
use crate::telemetry::{self, LogFormat, LogLevel, Logs, Metrics};
use crate::usage::{CredentialUses, Usage};
use crate::writes::Writes;
use crate::{gateway, http, net, shutdown};
use process::Descriptors;
use reload::{LogLevelFile, MailRelay, OperatorCredential, Reloadable, ServerTls, TlsReload};
use store_wait::{Stopped, StoreWait};

/// How often the store is asked for its time.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// Between two tries to read everything again.
const RELOAD_PAUSE: Duration = Duration::from_millis(200);
/// To be raised where earlier programs would announce, mail or remove what this one would not. The sweeper and the outbox
/// of such a program need no lease, but do nothing beside replicas with other lifecycle settings, which it finds in what
/// replicas say of themselves. 2: expiries, replacements, and accounts that are suspended or closed. Rule 11.4 of
/// docs/policy.md.
const LIFECYCLE_RULES: u32 = 2;

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// An error with its causes, each said once: many libraries repeat the cause in their own text.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Runs a server until it receives a signal to stop.
///
/// # Errors
/// An error of the settings, or whatever stopped it early.
pub fn serve(args: ServeArgs) -> anyhow::Result<()> {
    process::keep_memory_private();
    let mut settings = args.resolve()?;
    let on_terminal = std::io::stderr().is_terminal();
    let format =
        settings.log_format.unwrap_or(if on_terminal { LogFormat::Text } else { LogFormat::Json });
    let colours = on_terminal && config::wants_colours();
    let pipeline = traces::pipeline(&mut settings);
    let logs = telemetry::init_logs(format, colours, settings.log_level, pipeline.as_ref());
    let runtime = runtime()?;
    let result = runtime.block_on(traces::export(pipeline, run(settings, &logs)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Brings the store to this version.
///
/// # Errors
/// An error of the settings or the store.
pub fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    let settings = args.resolve()?;
    let (applied, earlier) = runtime()?.block_on(async {
        outlive_file_size_limit()?;
        anyhow::Ok(match &settings {
            StoreSettings::Embedded(data_dir) => (sqlite::migrate(data_dir).await?, Vec::new()),
            StoreSettings::Postgres { url, .. } => {
                let url = url.expose_secret();
                let wait = StoreWait::new(&settings, CancellationToken::new(), |cause, left| {
                    let text = format!("waiting {} s for the database: {cause}", left.as_secs());
                    // Where standard error is gone, the exit code still reports a failure.
                    let _ = writeln!(std::io::stderr(), "{text}");
                });
                let applied = wait.retry(async || Ok(postgres::migrate(url).await?)).await?;
                let earlier = async || Ok(postgres::earlier_replicas(url).await?);
                (applied, wait.retry(earlier).await?)
            }
        })
    })?;
    for replica in earlier {
        eprintln!(
            "warning: {replica} runs an earlier version, or did until recently: it decides nothing once its lease \
             is over. Stop it, and start this version in its place."
        );
    }
    let Some(first) = applied.first().cloned() else {
        println!("The store is up to date.");
        return Ok(());
    };
    let mut lines: Vec<_> =
        applied.into_iter().map(|name| (format!("applied {name}"), name)).collect();
    if let StoreSettings::Embedded(_) = settings {
        // The numbers are common to both databases: without these lines one would seem to be missing.
        let left_out = postgres::migrations_of_its_own().filter(|name| *name > first);
        lines.extend(left_out.map(|name| (format!("left out {name}: Postgres only"), name)));
    }
    lines.sort_by(|(_, one), (_, other)| one.cmp(other));
    lines.iter().for_each(|(line, _)| println!("{line}"));
    Ok(())
}

/// Checks whether a server could start with these settings and serve well, and prints what it finds.
///
/// # Errors
/// The runtime can't be started, or nothing can be printed.
pub fn doctor(args: InstallationArgs, format: Format) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let code = runtime.block_on(doctor::run(args, format));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Opens the store and makes its first credential, of role operator.
///
/// # Errors
/// When the store has a credential, is in use, or is out of reach.
pub async fn create_first_credential(
    args: FirstCredentialArgs,
) -> anyhow::Result<proto::CreateCredentialResponse> {
    let settings = args.resolve()?;
    // Its settings have no wait.
    let wait = StoreWait::new(&settings, CancellationToken::new(), |_, _| {});
    let store = open(&settings, "portcullis credential create", &wait).await?;
    let created = bootstrap::first_credential(&*store, &args.name).await;
    store.close().await;
    let Some((credential, secret)) = created? else {
        bail!(
            "the store has credentials already: name one of them in PORTCULLIS_CREDENTIAL or \
             PORTCULLIS_CREDENTIAL_FILE, and ask the server"
        );
    };
    // No server decides on it yet, so nobody has to wait for a revision.
    Ok(crate::grpc::created_credential(credential, &secret, 0))
}

/// The same, naming the file of an embedded store that turned out to be damaged only when it was read.
fn name_file(error: anyhow::Error, store: &StoreSettings) -> anyhow::Error {
    let failed = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    match (store, failed.and_then(StoreError::trouble)) {
        (StoreSettings::Embedded(data_dir), Some(Trouble::Damaged)) => {
            let path = data_dir.join(sqlite::FILE);
            OpenError::Damaged { path, cause: explain(&error) }.into()
        }
        _ => error,
    }
}

async fn open(
    settings: &StoreSettings,
    holder: &str,
    wait: &StoreWait,
) -> anyhow::Result<Arc<dyn Store>> {
    outlive_file_size_limit()?;
    Ok(match settings {
        StoreSettings::Embedded(data_dir) => Arc::new(SqliteStore::open(data_dir, holder).await?),
        StoreSettings::Postgres { url, connections, .. } => {
            let options = PostgresOptions { max_connections: *connections, ..Default::default() };
            let url = url.expose_secret();
            let connect = async || Ok(PostgresStore::connect(url, options).await?);
            Arc::new(wait.retry(connect).await?)
        }
    })
}

/// Rule 8.7 of docs/policy.md.
fn check_mark(mark: Option<StoreMode>, development: bool) -> anyhow::Result<()> {
    match (mark, development) {
        (Some(StoreMode::Development), false) => bail!(
            "this store was made by `serve --dev`, which asks for no credentials: name another \
             --data-dir, or remove this one"
        ),
        (Some(StoreMode::Production), true) => bail!(
            "this store is in use without --dev, and --dev asks for no credentials: name another \
             --data-dir, such as portcullis-dev"
        ),
        _ => Ok(()),
    }
}

async fn run(settings: ServeSettings, logs: &Logs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let ignored = IgnoredSignals::catch().context("cannot ignore signals")?;
    let hangup = Hangup::catch().context("cannot wait for signals")?;
    let mut signals = Signals::catch().context("cannot wait for signals")?;
    shutdown::spawn_essential("signals", stop.clone(), {
        let stop = stop.clone();
        async move {
            if let Some(name) = stop.run_until_cancelled(signals.next()).await {
                tracing::info!(signal = name, "stopping");
            }
            stop.cancel();
        }
    });
    shutdown::spawn_essential("ignored-signals", stop.clone(), {
        let stop = stop.clone();
        async move {
            stop.run_until_cancelled(ignored.log()).await;
        }
    });
    #[cfg(feature = "failpoints")]
    {
        tracing::error!("built with failpoints, to try the tests: not for production");
        if let Some(name) = config::failpoint() {
            crate::failpoint::activate(&name).map_err(anyhow::Error::msg)?;
        }
    }
    // Each connection takes a descriptor, and many systems begin with a thousand.
    let descriptors = Descriptors::raise();
    // Listeners come first, so that a port in use is reported before anything is written.
    let grpc_listeners = bind("listen", &settings.listen).await?;
    let http_listener = net::bind("http-listen", &settings.http_listen).await?;
    let gateway_listeners = bind("gateway-listen", &settings.gateway.listen).await?;
    let addresses = Addresses {
        grpc: grpc_listeners.iter().map(Listener::address).collect::<Result<_, _>>()?,
        http: http_listener.local_addr()?,
        gateway: gateway_listeners.iter().map(Listener::address).collect::<Result<_, _>>()?,
    };
    let tls = settings.tls.as_ref().map(ServerTls::read).transpose()?;

    let opened_log = settings.decision_log.as_ref().map(decision_log::open).transpose()?;
    let wait = StoreWait::new(&settings.store, stop.clone(), |cause, left| {
        tracing::warn!(cause, left = left.as_secs(), "waiting for the database");
    });
    let opened = open(&settings.store, "portcullis serve", &wait);
    // A migration that is interrupted is undone.
    let store = match stop.run_until_cancelled(opened).await {
        None => return stopped(),
        Some(Err(error)) if error.is::<Stopped>() => return stopped(),
        Some(store) => store?,
    };
    let mailbox = (settings.development && settings.mail.relay.is_none()).then(Arc::default);
    let process = Process {
        settings: &settings,
        addresses: &addresses,
        mailbox,
        opened_log,
        tls: tls.clone(),
        logs,
        hangup,
        wait,
    };
    let served = serve_store(process, store.clone(), stop.clone(), async |services, gate| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = ConnectionLimits {
            total: descriptors.grpc,
            per_address: settings
                .connections_per_address
                .unwrap_or_else(|| descriptors.grpc.div_ceil(2)),
            idle: settings.connection_idle,
            age: settings.connection_age,
            grace: settings.connection_grace,
        };
        let grpc = server::serve(
            grpc_listeners,
            gate,
            services.clone(),
            tls.as_ref().map(|tls| tls.grpc.clone()),
            threads,
            limits,
            stop.clone(),
        );
        // Where a proxy speaks TLS for this server, its address says so.
        let proxied = settings.mail.public_url.as_ref().is_some_and(PublicUrl::is_https);
        let secure = settings.tls.is_some() || proxied;
        let proxies = settings.page.trusted_proxies.clone();
        let alerts = leaks::receiver(&settings, &services).await?;
        let routes = http::routes(services.clone(), secure, proxies, alerts);
        let http_tls = tls.as_ref().map(|tls| tls.http.clone());
        let web = http::serve(http_listener, routes, http_tls, descriptors.http, stop.clone());
        let gateways = async {
            if !gateway_listeners.is_empty() {
                let interfaces = interfaces(&settings, services, addresses.first_of_gateways());
                let connections = descriptors.gateway;
                let tls = tls.as_ref().map(|tls| tls.gateways.clone());
                let age = settings.connection_age;
                gateway::serve(gateway_listeners, tls, connections, interfaces, age, stop.clone())
                    .await;
            }
        };
        announce(&settings, &addresses)?;
        let (grpc, (), ()) = tokio::join!(grpc, web, gateways);
        grpc.context("cannot serve gRPC")
    });
    let served = served.await.map_err(|error| name_file(error, &settings.store));
    store.close().await;
    match served {
        Err(error) if !error.is::<Stopped>() => Err(error),
        _ => stopped(),
    }
}

fn stopped() -> anyhow::Result<()> {
    tracing::info!("stopped");
    Ok(())
}

/// Where this process is served: not the addresses of the settings, whose ports may be 0.
struct Addresses {
    /// Of gRPC. Never empty.
    grpc: Vec<ListenerAddress>,
    http: SocketAddr,
    /// Of gateways; empty for nowhere.
    gateway: Vec<ListenerAddress>,
}

impl Addresses {
    /// Those of gRPC as `PORTCULLIS_LISTEN` takes them.
    fn grpc_text(&self) -> String {
        joined(&self.grpc)
    }

    /// Where gateways are served that come over the network, if they are.
    fn first_of_gateways(&self) -> Option<SocketAddr> {
        self.gateway.iter().find_map(|listener| match listener {
            ListenerAddress::Tcp(address) => Some(*address),
            ListenerAddress::Unix(_) => None,
        })
    }
}

fn joined(listeners: &[ListenerAddress]) -> String {
    listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Listens where `settings`, the values of `flag`, say.
async fn bind(flag: &str, settings: &[ListenSetting]) -> std::io::Result<Vec<Listener>> {
    let mut listeners = Vec::with_capacity(settings.len());
    for listener in settings {
        listeners.push(match listener {
            ListenSetting::Tcp(addresses) => Listener::Tcp(net::bind(flag, addresses).await?),
            ListenSetting::Unix { path, mode } => {
                Listener::Unix(UnixSocket::bind(flag, path, *mode).await?)
            }
        });
    }
    Ok(listeners)
}

/// What gateways are answered with at `address`, or at sockets of this host alone.
fn interfaces(
    settings: &ServeSettings,
    services: Arc<Services>,
    address: Option<SocketAddr>,
) -> Arc<Interfaces> {
    let own_url = match (address, &settings.tls) {
        (Some(address), Some(_)) => format!("https://{address}"),
        (Some(address), None) => format!("http://{address}"),
        (None, _) => "http://localhost".to_owned(),
    };
    let own = gateway::Settings {
        development: settings.development,
        overrides: OverrideHeaders::new(&settings.gateway.override_headers),
        public_url: settings.gateway.url.clone().unwrap_or(own_url),
        check_timeout: settings.gateway.check_timeout,
    };
    Arc::new(Interfaces::new(services, own))
}

/// What a server is started with.
struct Process<'a> {
    settings: &'a ServeSettings,
    addresses: &'a Addresses,
    /// Where mails go instead of to a mail server.
    mailbox: Option<Arc<Mailbox>>,
    /// The decision log, where there is one.
    opened_log: Option<OpenedLog>,
    tls: Option<ServerTls>,
    logs: &'a Logs,
    hangup: Hangup,
    wait: StoreWait,
}

/// Makes the store ready, everything over it, and runs `serve` until a signal comes.
async fn serve_store(
    process: Process<'_>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    serve: impl AsyncFnOnce(Arc<Services>, server::Gate) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Process { settings, addresses, mailbox, opened_log, tls, logs, hangup, wait } = process;
    let mark = if settings.development { StoreMode::Development } else { StoreMode::Production };
    let attempts = Cell::new(0);
    let prepared = wait.retry(async || {
        attempts.set(attempts.get() + 1);
        check_mark(store.mark().await?, settings.development)?;
        store.set_mark(mark).await?;
        let clock = Arc::new(Clock::starting_at(store.now().await?));
        let revoked = bootstrap::store(settings, &*store, &clock).await?;
        Ok((clock, revoked))
    });
    let (clock, revoked) = prepared.await?;
    // An attempt whose answer was lost may have revoked the former operator credential.
    let revoked = revoked || attempts.get() > 1;

    let metrics = Arc::new(Metrics::with_traces(logs.traces()));
    // Before the first fact is read: from here on, changes wait for this process.
    let info = replica_info(settings, &addresses.grpc_text());
    let register = async || {
        let (info, metrics) = (info.clone(), metrics.clone());
        let registered =
            RegisteredReplica::register(&*store, settings.lease, info, metrics, stop.clone());
        Ok(registered.await?)
    };
    let joined = wait.retry(register).await?;
    let load = async || {
        let (store, metrics) = (store.clone(), metrics.clone());
        Ok(Cache::load(store, settings.cache_capacity, metrics, Handle::current()).await?)
    };
    let cache = Arc::new(wait.retry(load).await?);
    let left = CancellationToken::new();
    let replicas = Arc::new(joined.serve(cache.clone(), &left));
    // Its tasks end with `left` in order; where one ends early, this process decides nothing any more.
    shutdown::spawn("replica-end", {
        let (left, stop) = (left.clone(), stop.clone());
        async move {
            left.cancelled().await;
            stop.cancel();
        }
    });
    let writes =
        Arc::new(Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics.clone()));
    if revoked && writes.propagation(Wait::UntilComplete).await.is_none() {
        bootstrap::warn_of_former_operator();
    }
    let usage = Arc::new(Usage::new(
        store.clone(),
        cache.clone(),
        writes.clone(),
        clock.clone(),
        metrics.clone(),
        settings.lifecycle.rules.window(),
        Handle::current(),
    ));
    let status = Arc::new(LifecycleStatus::new(store.clone(), clock.clone(), metrics.clone()));
    let decision_log = opened_log
        .map(|opened| decision_log::start(opened, clock.clone(), metrics.clone(), &stop))
        .transpose()?;
    let parts = Dependencies {
        store: store.clone(),
        cache,
        replicas: replicas.clone(),
        writes,
        usage: usage.clone(),
        decision_log: decision_log.clone(),
        traces: logs.traces().cloned(),
        status,
        clock: clock.clone(),
        metrics,
        prefix: settings.prefix.clone(),
        limits: settings.limits,
        token_max_lifetime: settings.lifecycle.token_max_lifetime,
        allow_admin_import: settings.allow_admin_import,
        lifecycle: settings.lifecycle.rules,
        mails: settings.mail.relay.is_some() || mailbox.is_some(),
        sessions: SessionLengths {
            idle: settings.page.session_idle,
            lifetime: settings.page.session_lifetime,
            development: settings.development,
        },
        mailbox: mailbox.clone(),
        outbox_wakeup: Arc::new(Notify::new()),
        sweep_wakeup: Arc::new(Notify::new()),
        webhook_sender: webhooks::sender(settings),
    };
    let services = Arc::new(Services::new(parts.clone()));
    if settings.development {
        let gateway = addresses.first_of_gateways();
        demo::print(&services, settings, &addresses.grpc, addresses.http, gateway).await?;
    }
    let (reporter, health) = health::service();
    let envoy = EnvoySettings {
        check_timeout: settings.gateway.check_timeout,
        overrides: Arc::new(OverrideHeaders::new(&settings.gateway.override_headers)),
    };
    let gate = server::gate(
        &services,
        Handle::current(),
        health,
        envoy,
        settings.development,
        stop.clone(),
    )?;

    if let Some(tls) = &tls {
        tls.certificates.watch(clock.clone(), parts.metrics.clone(), &stop);
    }
    shutdown::spawn_essential("clock", stop.clone(), {
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            while stop.run_until_cancelled(tokio::time::sleep(CLOCK_INTERVAL)).await.is_some() {
                let asked = Stopwatch::start();
                match store.now().await {
                    Ok(now) => clock.learn(now, asked),
                    Err(error) => tracing::warn!(%error, "cannot read the store's time"),
                }
            }
        }
    });
    shutdown::spawn_essential(
        "health",
        stop.clone(),
        health::report(reporter, services.clone(), stop.clone()),
    );
    let public_url = settings.mail.public_url.clone();
    let public_url =
        public_url.or_else(|| mailbox.as_ref().and(demo::page(settings, addresses.http)));
    let relay = relay(&settings.mail);
    reload::spawn(
        reloadable(settings, &parts, tls, relay.clone(), logs.level()),
        hangup,
        parts.metrics.clone(),
        &stop,
    );
    let transport: Option<Arc<dyn Transport>> = match (relay, mailbox) {
        (Some(relay), _) => Some(relay),
        (None, Some(mailbox)) => Some(mailbox),
        (None, None) => None,
    };
    follow_lifecycle_status(settings, parts.status.clone(), &stop);
    drive_lifecycle(settings, &parts, transport, public_url, &stop);
    let webhooks = webhooks::deliver(settings, &parts, &stop);
    let credential_uses = Arc::new(CredentialUses {
        store: parts.store.clone(),
        cache: parts.cache.clone(),
        clock: parts.clock.clone(),
        metrics: parts.metrics.clone(),
    });
    shutdown::spawn_essential("credential-uses", stop.clone(), {
        let (uses, stop) = (credential_uses.clone(), stop.clone());
        async move { uses.run(stop).await }
    });
    let served = serve(services, gate).await;
    stop.cancel();
    // Its claims end, before the store is closed.
    let _ = webhooks.await;
    usage.finish().await;
    credential_uses.finish().await;
    // What was under way has ended: nothing is decided any more.
    if let Some(log) = &decision_log {
        log.finish().await;
    }
    left.cancel();
    replicas.leave().await;
    served
}

/// What other replicas read of this one.
fn replica_info(settings: &ServeSettings, grpc: &str) -> ReplicaInfo {
    let host = rustix::system::uname();
    let lifecycle = &settings.lifecycle;
    let rules = lifecycle.rules;
    ReplicaInfo {
        name: format!(
            "{} {grpc}, process {}",
            host.nodename().to_string_lossy(),
            std::process::id()
        ),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lifecycle: format!(
            "{}, window {}, notice {}, retention {}{}{}, rules {LIFECYCLE_RULES}",
            match rules.mode {
                Mode::Enforce => "enforce",
                Mode::Observe => "observe",
            },
            duration::print(rules.window()),
            duration::print(rules.notice()),
            duration::print(lifecycle.deleted_retention),
            // Replicas that bound nothing are like those of before that setting.
            lifecycle.token_max_lifetime.map_or_else(String::new, |lifetime| format!(
                ", token lifetime {}",
                duration::print(lifetime)
            )),
            lifecycle.audit_retention.map_or_else(String::new, |retention| format!(
                ", audit retention {}",
                duration::print(retention)
            ))
        ),
    }
}

/// Starts what reads the status of the lifecycle, for health and metrics.
fn follow_lifecycle_status(
    settings: &ServeSettings,
    status: Arc<LifecycleStatus>,
    stop: &CancellationToken,
) {
    // Sooner where a whole lifecycle is tried in seconds.
    let interval = REFRESH.min(settings.lifecycle.sweep_interval).max(RELOAD_PAUSE);
    let stop = stop.clone();
    shutdown::spawn_essential("lifecycle-status", stop.clone(), async move {
        status.run(interval, stop).await;
    });
}

/// The mail server, where the settings name one.
fn relay(mail: &MailSettings) -> Option<Arc<ReplaceableRelay>> {
    let RelaySettings { endpoint, trust, sender } = mail.relay.clone()?;
    let relay = Relay::new(endpoint, trust, sender, Limits::each(mail.timeout));
    Some(Arc::new(ReplaceableRelay::new(relay)))
}

/// Everything that is read again where its files change, and on SIGHUP.
fn reloadable(
    settings: &ServeSettings,
    parts: &Dependencies,
    tls: Option<ServerTls>,
    relay: Option<Arc<ReplaceableRelay>>,
    log_level: LogLevel,
) -> Vec<Box<dyn Reloadable>> {
    let Dependencies { store, writes, clock, metrics, .. } = parts;
    let mut reloadable: Vec<Box<dyn Reloadable>> = Vec::new();
    if let Some(tls) = tls {
        let (clock, metrics) = (clock.clone(), metrics.clone());
        reloadable.push(Box::new(TlsReload { tls, clock, metrics }));
    }
    if let Some(file) = settings.operator_file.clone().filter(|_| !settings.development) {
        reloadable.push(Box::new(OperatorCredential {
            file,
            digest: settings.operator_credential,
            store: store.clone(),
            writes: writes.clone(),
            clock: clock.clone(),
        }));
    }
    if let (Some(files), Some(relay)) = (settings.mail.relay_files.clone(), relay) {
        let limits = Limits::each(settings.mail.timeout);
        reloadable.push(Box::new(MailRelay { files, relay, limits }));
    }
    if let Some(file) = settings.log_level_file.clone() {
        reloadable.push(Box::new(LogLevelFile { file, level: log_level }));
    }
    reloadable
}

/// Starts the tasks of the lifecycle of unused tokens.
fn drive_lifecycle(
    settings: &ServeSettings,
    parts: &Dependencies,
    transport: Option<Arc<dyn Transport>>,
    public_url: Option<PublicUrl>,
    stop: &CancellationToken,
) {
    let Dependencies {
        store,
        cache,
        replicas,
        writes,
        usage,
        clock,
        metrics,
        lifecycle,
        outbox_wakeup,
        sweep_wakeup,
        ..
    } = parts;
    shutdown::spawn_essential("usage", stop.clone(), {
        let (usage, stop) = (usage.clone(), stop.clone());
        let interval = settings.lifecycle.usage_flush_interval;
        async move { usage.run(interval, stop).await }
    });
    let sweeper = Sweeper {
        store: store.clone(),
        cache: cache.clone(),
        writes: writes.clone(),
        replicas: replicas.clone(),
        usage: usage.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        settings: *lifecycle,
        retention: settings.lifecycle.deleted_retention,
        audit_retention: settings.lifecycle.audit_retention,
        outbox_wakeup: outbox_wakeup.clone(),
        sweep_wakeup: sweep_wakeup.clone(),
    };
    shutdown::spawn_essential("sweeper", stop.clone(), {
        let (interval, stop) = (settings.lifecycle.sweep_interval, stop.clone());
        async move { sweeper.run(interval, stop).await }
    });
    let Some(relay) = transport else {
        if lifecycle.mode == Mode::Enforce {
            tracing::warn!(
                "no mail server is configured: pending actions are listed, and none is carried out until \
                 PORTCULLIS_SMTP_URL and --mail-from are set"
            );
        }
        return;
    };
    let outbox = Outbox {
        store: store.clone(),
        writes: writes.clone(),
        replicas: replicas.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        settings: *lifecycle,
        token_max_lifetime: settings.lifecycle.token_max_lifetime,
        relay,
        retries: Retries {
            initial: settings.mail.retry_initial,
            max: settings.mail.retry_max,
            refused: settings.mail.refused_retry,
        },
        claim: CLAIM,
        outbox_wakeup: outbox_wakeup.clone(),
        public_url,
    };
    shutdown::spawn_essential("outbox", stop.clone(), {
        let (rate, stop) = (settings.mail.rate.get(), stop.clone());
        async move { outbox.run(rate, stop).await }
    });
}

/// Says on standard output that clients may come, and where.
fn announce(settings: &ServeSettings, addresses: &Addresses) -> anyhow::Result<()> {
    let (grpc, http, gateway) = (addresses.grpc_text(), addresses.http, joined(&addresses.gateway));
    let (store, location) = match &settings.store {
        StoreSettings::Embedded(data_dir) => ("sqlite", data_dir.display().to_string()),
        StoreSettings::Postgres { .. } => ("postgres", String::new()),
    };
    tracing::info!(%grpc, %http, store, location, version = env!("CARGO_PKG_VERSION"), "serving");
    let mut out = std::io::stdout().lock();
    write!(out, "portcullis ready grpc={grpc} http={http}")?;
    if !gateway.is_empty() {
        write!(out, " gateway={gateway}")?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
