//! Receives notifications of changes, over a connection of its own.
//!
//! # Invariants
//! - A notification is a hint, which its receiver compares with the record: one that is missed costs time only.
//! - After a lost connection it reports more than one change, since nobody knows what was missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::replicas::LATE;
use super::timed_out;
use crate::model::ChangeRecord;
use crate::shutdown;
use crate::store::replication::ChangeNotification;

/// The channel that a trigger on the record notifies with each change: `portcullis_tell_of_change` in
/// `migrations/postgres/0005_told.sql`. No statement of this program does.
const CHANNEL: &str = "portcullis_change";
/// After so long without a notification the connection is checked.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_millis(500);

/// The notifications that were received since the last call of `take`.
#[derive(Debug, Default, Clone, Copy)]
enum PendingNotification {
    #[default]
    Nothing,
    One(ChangeNotification),
    /// Several changes, or an unknown number of them.
    More,
}

#[derive(Debug, Default)]
struct Inbox {
    pending: Mutex<PendingNotification>,
    arrived: Notify,
    /// Whether to listen again.
    reconnect: Notify,
}

impl Inbox {
    fn push(&self, notification: Option<ChangeNotification>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = match (*pending, notification) {
            (PendingNotification::Nothing, Some(notification)) => {
                PendingNotification::One(notification)
            }
            _ => PendingNotification::More,
        };
        self.arrived.notify_one();
    }

    fn take(&self) -> PendingNotification {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens until it is dropped. See the module.
pub(super) struct Listener {
    inbox: Arc<Inbox>,
    _listening: DropGuard,
}

impl Listener {
    pub(super) fn start(options: PgConnectOptions) -> Self {
        let (inbox, stop) = (Arc::new(Inbox::default()), CancellationToken::new());
        shutdown::spawn("listener", {
            let (inbox, stop) = (inbox.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(listen(options, &inbox)).await;
            }
        });
        Self { inbox, _listening: stop.drop_guard() }
    }

    /// Listens over a new connection from now on.
    pub(super) fn reconnect(&self) {
        self.inbox.reconnect.notify_one();
    }

    /// Waits for a notification: of one change, or `None` for any number of them.
    pub(super) async fn next_notification(&self) -> Option<ChangeNotification> {
        loop {
            self.inbox.arrived.notified().await;
            match self.inbox.take() {
                // It was taken together with an earlier one.
                PendingNotification::Nothing => {}
                PendingNotification::One(notification) => return Some(notification),
                PendingNotification::More => return None,
            }
        }
    }
}

/// Parses a notification of the trigger on the record; `None` where it is malformed.
fn read(writer: i32, payload: &str) -> Option<ChangeNotification> {
    let mut words = payload.split(' ');
    let (position, nonce) = (words.next()?.parse().ok()?, words.next()?);
    let (touched, key) = (words.next()?, words.next().map(Uuid::parse_str));
    let change = ChangeRecord::read(position, touched, key.transpose().ok()?)?;
    let nonce = Uuid::parse_str(nonce).ok()?;
    words.next().is_none().then_some(ChangeNotification { change, writer, nonce })
}

async fn listen(options: PgConnectOptions, inbox: &Inbox) {
    loop {
        // A pool of its own each time: one that was used before may lead to where nobody writes any more.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(LATE)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        tokio::select! {
            () = inbox.reconnect.notified() => {}
            Err(error) = listen_once(&pool, inbox) => {
                tracing::debug!(%error, "changes of other replicas are noticed late");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn listen_once(pool: &PgPool, inbox: &Inbox) -> sqlx::Result<std::convert::Infallible> {
    let begin = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener =
        tokio::time::timeout(LATE, begin).await.unwrap_or_else(|_| Err(timed_out()))?;
    inbox.push(None);
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                inbox.push(read(notification.process_id().cast_signed(), notification.payload()));
            }
            Ok(Ok(None)) => {
                return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
            }
            Ok(Err(error)) => return Err(error),
            // A server that is gone without a word notifies of nothing more.
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                tokio::time::timeout(LATE, asked).await.map_err(|_| timed_out())??;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Invalidation;
    use crate::policy::id::TokenId;

    #[test]
    fn malformed_notifications_are_no_changes() {
        let (id, nonce) = (Uuid::from_u128(7), Uuid::from_u128(9));
        let notification = |position, touched| ChangeNotification {
            change: ChangeRecord { position, touched },
            writer: 3,
            nonce,
        };
        let token = notification(5, Invalidation::Token(TokenId(id)));
        assert_eq!(read(3, &format!("5 {nonce} token {id}")), Some(token));
        assert_eq!(
            read(3, &format!("6 {nonce} catalog")),
            Some(notification(6, Invalidation::Catalog))
        );
        let unread = [
            String::new(),
            "5".to_owned(),
            // As an earlier schema notifies of it.
            format!("5 token {id}"),
            format!("x {nonce} catalog"),
            format!("6 {nonce}"),
            "6 x catalog".to_owned(),
            format!("6 {nonce} token"),
            format!("6 {nonce} catalog more"),
            format!("6 {nonce} wall"),
            format!("5 {nonce} token 7"),
            format!("5 {nonce} token {id} more"),
            format!("5 {nonce} catalog {id}"),
            format!("99999999999999999999 {nonce} catalog"),
        ];
        for payload in unread {
            assert_eq!(read(3, &payload), None, "{payload}");
        }
    }

    #[test]
    fn several_changes_are_not_one() {
        let one = |position| {
            let change = ChangeRecord { position, touched: Invalidation::Nothing };
            Some(ChangeNotification { change, writer: 3, nonce: Uuid::nil() })
        };
        let inbox = Inbox::default();
        assert!(matches!(inbox.take(), PendingNotification::Nothing));
        inbox.push(one(1));
        assert!(
            matches!(inbox.take(), PendingNotification::One(notification) if Some(notification) == one(1))
        );
        for (first, second) in [(one(2), one(3)), (one(2), None), (None, one(3)), (None, None)] {
            inbox.push(first);
            inbox.push(second);
            assert!(matches!(inbox.take(), PendingNotification::More), "{first:?} {second:?}");
        }
        assert!(matches!(inbox.take(), PendingNotification::Nothing));
    }
}
