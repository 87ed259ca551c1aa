//! What a store needs before it can serve: a key for secrets, a catalogue, and somebody who may
//! operate it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};

use crate::clock::{Clock, id_at};
use crate::config::client::OPERATOR_CREDENTIAL_FILE;
use crate::config::server::{ServeSettings, StoreSettings};
use crate::model::{Actor, Context, Credential, Page, Role, SettingsCredential};
use crate::policy::catalog_file;
use crate::policy::id::CredentialId;
use crate::policy::time::Timestamp;
use crate::replication::Wait;
use crate::secret::{KeyRing, Prefix, Secret, SecretKind};
use crate::service::credentials::random;
use crate::shutdown;
use crate::store::{Store, StoreError};
use crate::writes::Writes;

fn context(actor: Actor, now: Timestamp) -> Context {
    Context::new(actor, now, None)
}

/// Makes a store ready to serve. Changes nothing where it is. Whether a credential was revoked, which
/// replicas are to be waited for.
pub(super) async fn store(
    settings: &ServeSettings,
    store: &dyn Store,
    clock: &Clock,
) -> anyhow::Result<bool> {
    let ctx = context(Actor::System, clock.now());
    store.add_secret_key(&ctx, &*random()?, true).await?;
    if store.catalog().await?.is_none() {
        let names: Vec<_> = catalog_file::parse(&settings.catalog)
            .map_err(|errors| {
                let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
                anyhow!("the catalogue is invalid:\n  {}", errors.join("\n  "))
            })?
            .into_iter()
            .map(|def| def.name)
            .collect();
        match store.apply_catalog(&ctx, None, &settings.catalog, &names).await {
            // Another replica that starts for the first time was faster.
            Err(StoreError::StaleCatalog) => {}
            applied => {
                let applied = applied?;
                applied
                    .map_err(|_| anyhow!("tokens list scopes although there was no catalogue"))?;
            }
        }
    }
    if settings.development {
        return Ok(false);
    }
    let mut changed = false;
    if let Some(digest) = &settings.operator_credential {
        let credential = operator("from the settings", ctx.now, true);
        let set = store.set_settings_credential(&ctx, Some((&credential, digest)));
        let set = set.await?;
        changed = settings_credential_changed(set)?;
    } else if let StoreSettings::Embedded(data_dir) = &settings.store {
        leave_credential(store, &settings.prefix, data_dir).await?;
    } else if no_credentials(store).await? {
        tracing::warn!(
            "nobody may call yet: set PORTCULLIS_OPERATOR_CREDENTIAL, or stop the server and run \
             `portcullis credential create --role operator`"
        );
    }
    Ok(changed)
}

async fn no_credentials(store: &dyn Store) -> anyhow::Result<bool> {
    Ok(store.credentials(None, Page { after: None, limit: 1 }).await?.is_empty())
}

/// Whether `set` revoked another operator credential of the settings.
///
/// # Errors
/// The credential was refused. Rule 8.6 of docs/policy.md.
pub(super) fn settings_credential_changed(set: SettingsCredential) -> anyhow::Result<bool> {
    match set {
        SettingsCredential::Changed => Ok(true),
        SettingsCredential::Unchanged => Ok(false),
        SettingsCredential::Ended => {
            bail!(
                "PORTCULLIS_OPERATOR_CREDENTIAL: this one was revoked, or has expired; choose another"
            )
        }
        SettingsCredential::InUse => {
            bail!(
                "PORTCULLIS_OPERATOR_CREDENTIAL: this is the secret of a token, or of a credential with another \
                 role; choose another"
            )
        }
    }
}

/// Waits in a task until every replica refuses the former operator credential of the settings.
pub(super) fn await_replacement(writes: Arc<Writes>) {
    shutdown::spawn("operator-replacement", async move {
        if writes.propagation(Wait::UntilComplete).await.is_none() {
            warn_of_former_operator();
        }
    });
}

pub(super) fn warn_of_former_operator() {
    tracing::warn!(
        "the operator credential was replaced, and a replica that is out of reach may accept the former \
         one until its lease has run out"
    );
}

pub(super) fn operator(name: &str, now: Timestamp, from_settings: bool) -> Credential {
    Credential {
        id: CredentialId(id_at(now)),
        role: Role::Operator,
        name: name.to_owned(),
        created: now,
        revoked: None,
        expires: None,
        last_use: None,
        from_settings,
        client_source: None,
        client_certificates: Vec::new(),
    }
}

async fn make_secret(
    store: &dyn Store,
    prefix: &Prefix,
    id: CredentialId,
) -> anyhow::Result<Secret> {
    let keys = KeyRing::new(&store.secret_keys().await?).context("the store has no key")?;
    Ok(keys.make(SecretKind::Credential, prefix, id.0, &*random()?))
}

/// Makes the very first credential of a store; `None` where there are any.
pub(super) async fn first_credential(
    store: &dyn Store,
    name: &str,
) -> anyhow::Result<Option<(Credential, Secret)>> {
    let ctx = context(Actor::CommandLine, store.now().await?);
    store.add_secret_key(&ctx, &*random()?, true).await?;
    let credential = operator(name, ctx.now, false);
    let secret = make_secret(store, &"pcl".parse()?, credential.id).await?;
    let digest = secret.digest();
    let created = store.create_first_credential(&ctx, &credential, &digest).await?;
    Ok(created.then_some((credential, secret)))
}

/// Makes an operator credential for an embedded store that has none, and leaves it in a file that
/// only its owner reads. The file is there before the credential is, so that a crash in between
/// locks nobody out.
async fn leave_credential(
    store: &dyn Store,
    prefix: &Prefix,
    data_dir: &Path,
) -> anyhow::Result<()> {
    if !no_credentials(store).await? {
        return Ok(());
    }
    let ctx = context(Actor::System, store.now().await?);
    let credential = operator("made at the first start", ctx.now, false);
    let secret = make_secret(store, prefix, credential.id).await?;
    let path = data_dir.join(OPERATOR_CREDENTIAL_FILE);
    write_private(&path, secret.expose().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    if store.create_first_credential(&ctx, &credential, &secret.digest()).await? {
        println!("The operator's credential is in {}", path.display());
    }
    Ok(())
}

fn write_private(path: &Path, secret: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(secret)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}
