//! The groups of files that are read again.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;

use super::Reloadable;
use crate::app::bootstrap;
use crate::app::certificates::{Certificates, Served};
use crate::clock::Clock;
use crate::config::server::{LevelFile, OperatorFile, RelayFiles, RelaySettings, TlsFiles};
use crate::mail::{Limits, Relay, ReplaceableRelay};
use crate::model::{Actor, Context, Invalidation};
use crate::net::tls::{self, ClientAuth, NamedFile, TlsConfig, TlsError, TlsListener};
use crate::policy::time::Timestamp;
use crate::secret::Digest;
use crate::store::Store;
use crate::telemetry::{LogLevel, Metrics};
use crate::writes::Writes;

/// The TLS of each kind of listener, from the same files.
#[derive(Debug, Clone)]
pub(in crate::app) struct ServerTls {
    files: TlsFiles,
    pub(in crate::app) grpc: Arc<TlsListener>,
    pub(in crate::app) http: Arc<TlsListener>,
    pub(in crate::app) gateways: Arc<TlsListener>,
    pub(in crate::app) certificates: Arc<Certificates>,
}

/// What one reading of the files gave.
struct ReadTls {
    grpc: TlsConfig,
    http: TlsConfig,
    gateways: TlsConfig,
    certificates: Vec<Served>,
}

impl ReadTls {
    fn read(paths: &TlsFiles) -> Result<Self, TlsError> {
        let files = tls::TlsFiles {
            cert: NamedFile::read("tls-cert", &paths.cert)?,
            key: NamedFile::read("tls-key", &paths.key)?,
            client_ca: match &paths.client_ca {
                None => None,
                Some(path) => Some(NamedFile::read("tls-client-ca", path)?),
            },
        };
        Ok(Self {
            grpc: TlsConfig::new(&files, ClientAuth::Required, &[b"h2"])?,
            http: TlsConfig::new(&files, ClientAuth::None, &[b"http/1.1"])?,
            // A gateway may present its credential in a header instead (Rule 9.20 of docs/policy.md).
            gateways: TlsConfig::new(&files, ClientAuth::Optional, &[b"h2", b"http/1.1"])?,
            certificates: Served::of(&files)?,
        })
    }
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One can't be read, or does not hold what it should.
    pub(in crate::app) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = ReadTls::read(files)?;
        Ok(Self {
            files: files.clone(),
            grpc: TlsListener::new(read.grpc),
            http: TlsListener::new(read.http),
            gateways: TlsListener::new(read.gateways),
            certificates: Arc::new(Certificates::new(read.certificates)),
        })
    }

    /// Reads the files again, and secures new connections by what they hold.
    fn replace(&self, now: Timestamp, metrics: &Metrics) -> anyhow::Result<()> {
        let read = ReadTls::read(&self.files)?;
        // At the start such a certificate is served, with a warning: there is nothing better. Here there is.
        if let Some(own) = read.certificates.first() {
            own.check(now).map_err(anyhow::Error::msg)?;
        }
        let drained = self.grpc.replace(read.grpc) + self.gateways.replace(read.gateways);
        self.http.replace(read.http);
        if drained > 0 {
            tracing::info!(
                connections = drained,
                "connections end whose client's authority was removed"
            );
        }
        self.certificates.replace(read.certificates, now, metrics);
        Ok(())
    }
}

/// TLS as it is read again.
pub(in crate::app) struct TlsReload {
    pub(in crate::app) tls: ServerTls,
    pub(in crate::app) clock: Arc<Clock>,
    pub(in crate::app) metrics: Arc<Metrics>,
}

#[async_trait]
impl Reloadable for TlsReload {
    fn name(&self) -> &'static str {
        "tls"
    }

    fn files(&self) -> Vec<PathBuf> {
        let TlsFiles { cert, key, client_ca } = &self.tls.files;
        [cert, key].into_iter().chain(client_ca).cloned().collect()
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let (tls, metrics, now) = (self.tls.clone(), self.metrics.clone(), self.clock.now());
        let replaced = tokio::task::spawn_blocking(move || tls.replace(now, &metrics));
        replaced.await.context("cannot read files")?
    }
}

/// The operator credential of the settings.
pub(in crate::app) struct OperatorCredential {
    pub(in crate::app) file: OperatorFile,
    /// The one that was read last: the files of two replicas may change at different times, and none may bring the
    /// former one back.
    pub(in crate::app) digest: Option<Digest>,
    pub(in crate::app) store: Arc<dyn Store>,
    pub(in crate::app) writes: Arc<Writes>,
    pub(in crate::app) clock: Arc<Clock>,
}

#[async_trait]
impl Reloadable for OperatorCredential {
    fn name(&self) -> &'static str {
        "operator_credential"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.path().to_owned()]
    }

    /// Rule 8.6 of docs/policy.md.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let digest = self.file.read()?;
        if self.digest == Some(digest) {
            return Ok(());
        }
        let ctx = Context::new(Actor::System, self.clock.now(), None);
        let credential = bootstrap::operator("from the settings", ctx.now, true);
        let set = self.store.set_settings_credential(&ctx, Some((&credential, &digest)));
        let changed = Invalidation::Credential(credential.id);
        let set = self.writes.commit("set_settings_credential", changed, &ctx, set).await?;
        if bootstrap::settings_credential_changed(set)? {
            bootstrap::await_replacement(self.writes.clone());
        }
        self.digest = Some(digest);
        Ok(())
    }
}

/// The relay that mails go through.
pub(in crate::app) struct MailRelay {
    pub(in crate::app) files: RelayFiles,
    pub(in crate::app) relay: Arc<ReplaceableRelay>,
    pub(in crate::app) limits: Limits,
}

#[async_trait]
impl Reloadable for MailRelay {
    fn name(&self) -> &'static str {
        "mail_relay"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.paths()
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let RelaySettings { endpoint, trust, sender } = self.files.read()?;
        self.relay.replace(Relay::new(endpoint, trust, sender, self.limits)).await;
        Ok(())
    }
}

/// How much is logged.
pub(in crate::app) struct LogLevelFile {
    pub(in crate::app) file: LevelFile,
    pub(in crate::app) level: LogLevel,
}

#[async_trait]
impl Reloadable for LogLevelFile {
    fn name(&self) -> &'static str {
        "log_level"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.path().to_owned()]
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        self.level.set(self.file.read()?);
        Ok(())
    }
}
