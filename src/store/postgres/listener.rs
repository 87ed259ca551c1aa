//! Hears that there are changes, over a connection of its own.
//!
//! What must stay true: what is heard is a hint, which whoever follows it compares with the record; so what
//! it does not hear costs time only, and after a lost connection it tells of more than one change, since
//! nobody knows what was.

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

/// What the trigger on the record tells.
const CHANNEL: &str = "portcullis_change";
/// One that was told nothing for so long asks whether its connection lives.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_millis(500);

/// What was told since somebody last asked.
#[derive(Debug, Default, Clone, Copy)]
enum PendingNotice {
    #[default]
    Nothing,
    One(ChangeNotification),
    /// Several changes, or who knows what.
    More,
}

#[derive(Debug, Default)]
struct Mailbox {
    heard: Mutex<PendingNotice>,
    news: Notify,
    /// Whether to listen again.
    again: Notify,
}

impl Mailbox {
    fn hear(&self, notification: Option<ChangeNotification>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = match (*heard, notification) {
            (PendingNotice::Nothing, Some(notification)) => PendingNotice::One(notification),
            _ => PendingNotice::More,
        };
        self.news.notify_one();
    }

    fn take(&self) -> PendingNotice {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens until it is dropped. See the module.
pub(super) struct Listener {
    ear: Arc<Mailbox>,
    _listening: DropGuard,
}

impl Listener {
    pub(super) fn start(options: PgConnectOptions) -> Self {
        let (ear, stop) = (Arc::new(Mailbox::default()), CancellationToken::new());
        shutdown::spawn("listener", {
            let (ear, stop) = (ear.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(listen(options, &ear)).await;
            }
        });
        Self { ear, _listening: stop.drop_guard() }
    }

    /// Listens over a new connection from now on.
    pub(super) fn again(&self) {
        self.ear.again.notify_one();
    }

    /// Waits until there is something to follow: one change, or `None` for whatever it may be.
    pub(super) async fn next_notification(&self) -> Option<ChangeNotification> {
        loop {
            self.ear.news.notified().await;
            match self.ear.take() {
                // Somebody who was told of more took it already.
                PendingNotice::Nothing => {}
                PendingNotice::One(notification) => return Some(notification),
                PendingNotice::More => return None,
            }
        }
    }
}

/// A change as the trigger on the record tells of it; `None` for what cannot be read.
fn read(writer: i32, payload: &str) -> Option<ChangeNotification> {
    let mut words = payload.split(' ');
    let (position, nonce) = (words.next()?.parse().ok()?, words.next()?);
    let (touched, key) = (words.next()?, words.next().map(Uuid::parse_str));
    let change = ChangeRecord::read(position, touched, key.transpose().ok()?)?;
    let nonce = Uuid::parse_str(nonce).ok()?;
    words.next().is_none().then_some(ChangeNotification { change, writer, nonce })
}

async fn listen(options: PgConnectOptions, ear: &Mailbox) {
    loop {
        // A pool of its own each time: one that was used before may lead to where nobody writes any more.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(LATE)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        tokio::select! {
            () = ear.again.notified() => {}
            Err(error) = listen_once(&pool, ear) => {
                tracing::debug!(%error, "changes of other replicas are noticed late");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn listen_once(pool: &PgPool, ear: &Mailbox) -> sqlx::Result<std::convert::Infallible> {
    let begin = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener =
        tokio::time::timeout(LATE, begin).await.unwrap_or_else(|_| Err(timed_out()))?;
    ear.hear(None);
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                ear.hear(read(notification.process_id().cast_signed(), notification.payload()));
            }
            Ok(Ok(None)) => {
                return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
            }
            Ok(Err(error)) => return Err(error),
            // A server that is gone without a word tells of nothing more.
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
    fn what_is_told_is_read_or_is_whatever_it_may_be() {
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
            // As an earlier schema tells of it.
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
        let ear = Mailbox::default();
        assert!(matches!(ear.take(), PendingNotice::Nothing));
        ear.hear(one(1));
        assert!(
            matches!(ear.take(), PendingNotice::One(notification) if Some(notification) == one(1))
        );
        for (first, second) in [(one(2), one(3)), (one(2), None), (None, one(3)), (None, None)] {
            ear.hear(first);
            ear.hear(second);
            assert!(matches!(ear.take(), PendingNotice::More), "{first:?} {second:?}");
        }
        assert!(matches!(ear.take(), PendingNotice::Nothing));
    }
}
