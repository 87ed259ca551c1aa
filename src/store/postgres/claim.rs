//! The claim of one serving process on a database: until replicas tell each other of changes, a
//! second one would go on deciding on what the first has changed.
//!
//! What must stay true: the claim is a session's advisory lock, so it ends with the process that
//! holds it, however that ends. A process that can't confirm its claim says so after
//! [`CLAIM_LEASE`]; one that took it anew says that everything may have changed meanwhile; one that
//! finds it another's says that it is lost.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Stopwatch;
use crate::shutdown;
use crate::store::{CLAIM_LEASE, Claim, OpenError, Result, StoreError};

/// Any number that other programs on the same database are unlikely to lock: "portcull" in ASCII.
const KEY: i64 = i64::from_be_bytes(*b"portcull");
/// How long a former holder may take to be gone: the database notices a killed one at once, a
/// vanished host later.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);
/// How often the session is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long an answer may take.
const LATE: Duration = Duration::from_secs(3);

const TAKE: &str = "SELECT pg_try_advisory_lock($1)";

/// Who holds it: for the message only.
const HOLDER: &str = "\
    SELECT 'database session ' || a.pid || ', from ' || \
           coalesce(host(a.client_addr), 'its own host') || \
           ', since ' || to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SSOF') \
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'advisory' AND l.granted \
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
      AND l.classid = ($1 >> 32)::bigint::int8::oid AND l.objid = ($1 & 4294967295)::oid \
    LIMIT 1";

/// Holds the claim until it is dropped.
pub(super) struct Holder {
    _released: DropGuard,
}

impl Holder {
    /// Takes the claim on the database that `options` name.
    pub(super) async fn take(
        options: PgConnectOptions,
    ) -> Result<(Self, watch::Receiver<Claim>), OpenError> {
        let mut connection = connect(&options).await?;
        let mut waited = Duration::ZERO;
        while !try_take(&mut connection).await? {
            if waited >= PATIENCE {
                let holder = sqlx::query_scalar(HOLDER).bind(KEY).fetch_optional(&mut connection);
                let holder: Option<String> = holder.await.unwrap_or_default();
                return Err(OpenError::Claimed(
                    holder.unwrap_or_else(|| "another process".to_owned()),
                ));
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        let (say, states) = watch::channel(Claim::Held(0));
        let released = CancellationToken::new();
        shutdown::spawn("claim", {
            let released = released.clone();
            async move {
                released.run_until_cancelled(hold(options, connection, say)).await;
            }
        });
        Ok((Self { _released: released.drop_guard() }, states))
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(LATE, options.connect()).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(late()),
    }
}

async fn try_take(connection: &mut PgConnection) -> Result<bool> {
    let taken = sqlx::query_scalar(TAKE).bind(KEY).fetch_one(connection);
    match tokio::time::timeout(LATE, taken).await {
        Ok(taken) => Ok(taken?),
        Err(_) => Err(late()),
    }
}

fn late() -> StoreError {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()
}

/// Keeps the session alive, and takes the claim again after the session was lost.
async fn hold(options: PgConnectOptions, connection: PgConnection, say: watch::Sender<Claim>) {
    let mut held = Some(connection);
    let mut times = 0;
    let mut confirmed = Stopwatch::start();
    loop {
        // So often that the lease can't run out unnoticed between two looks.
        let pause = if held.is_some() { INTERVAL } else { PAUSE };
        tokio::time::sleep(pause).await;
        if let Some(connection) = &mut held {
            let asked = Stopwatch::start();
            if let Ok(Ok(())) = tokio::time::timeout(LATE, connection.ping()).await {
                confirmed = asked;
                continue;
            }
            tracing::warn!("the session that holds the claim on the database is lost");
            held = None;
        }
        if confirmed.elapsed() + LATE > CLAIM_LEASE
            && say.send_if_modified(|state| {
                std::mem::replace(state, Claim::Doubtful) != Claim::Doubtful
            })
        {
            tracing::error!(
                "the claim on the database can't be confirmed: nothing is decided until it is"
            );
        }
        let again = async {
            let mut connection = connect(&options).await?;
            Ok::<_, StoreError>((try_take(&mut connection).await?, connection))
        };
        let asked = Stopwatch::start();
        let again = tokio::time::timeout(LATE, again).await;
        match again.unwrap_or_else(|_| Err(late())) {
            Ok((true, connection)) => {
                tracing::info!("the claim on the database is held again");
                held = Some(connection);
                confirmed = asked;
                times += 1;
                say.send_replace(Claim::Held(times));
            }
            Ok((false, _)) => {
                tracing::error!("another process has the claim on the database");
                say.send_replace(Claim::Lost);
                return;
            }
            Err(error) => tracing::debug!(%error, "cannot take the claim again yet"),
        }
    }
}
