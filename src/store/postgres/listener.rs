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
use crate::shutdown;
use crate::store::ChangeRecord;

/// What the trigger on the record tells.
const CHANNEL: &str = "portcullis_change";
/// One that was told nothing for so long asks whether its connection lives.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_millis(500);

/// What was told since somebody last asked.
#[derive(Debug, Default, Clone, Copy)]
enum Told {
    #[default]
    Nothing,
    One(ChangeRecord),
    /// Several changes, or who knows what.
    More,
}

#[derive(Debug, Default)]
struct Ear {
    told: Mutex<Told>,
    news: Notify,
}

impl Ear {
    fn hear(&self, change: Option<ChangeRecord>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = match (*told, change) {
            (Told::Nothing, Some(change)) => Told::One(change),
            _ => Told::More,
        };
        self.news.notify_one();
    }

    fn take(&self) -> Told {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens until it is dropped. See the module.
pub(super) struct Listener {
    ear: Arc<Ear>,
    _listening: DropGuard,
}

impl Listener {
    pub(super) fn start(options: PgConnectOptions) -> Self {
        let (ear, stop) = (Arc::new(Ear::default()), CancellationToken::new());
        shutdown::spawn("listener", {
            let (ear, stop) = (ear.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(listen(options, &ear)).await;
            }
        });
        Self { ear, _listening: stop.drop_guard() }
    }

    /// Waits until there is something to follow: one change, or `None` for whatever it may be.
    pub(super) async fn told(&self) -> Option<ChangeRecord> {
        loop {
            self.ear.news.notified().await;
            match self.ear.take() {
                // Somebody who was told of more took it already.
                Told::Nothing => {}
                Told::One(change) => return Some(change),
                Told::More => return None,
            }
        }
    }
}

/// A change as the trigger on the record tells of it; `None` for what cannot be read.
fn read(payload: &str) -> Option<ChangeRecord> {
    let mut words = payload.split(' ');
    let (position, touched) = (words.next()?.parse().ok()?, words.next()?);
    let key = words.next().map(Uuid::parse_str).transpose().ok()?;
    ChangeRecord::read(position, touched, key).ok().filter(|_| words.next().is_none())
}

async fn listen(options: PgConnectOptions, ear: &Ear) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(LATE)
        .test_before_acquire(false)
        .connect_lazy_with(options);
    loop {
        if let Err(error) = listen_once(&pool, ear).await {
            tracing::debug!(%error, "changes of other replicas are noticed late");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(pool: &PgPool, ear: &Ear) -> sqlx::Result<()> {
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
            Ok(Ok(Some(notification))) => ear.hear(read(notification.payload())),
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
    use crate::policy::id::TokenId;
    use crate::store::Touched;

    #[test]
    fn what_is_told_is_read_or_is_whatever_it_may_be() {
        let id = "00000000-0000-0000-0000-000000000007";
        let token = Touched::Token(TokenId(Uuid::from_u128(7)));
        assert_eq!(
            read(&format!("5 token {id}")),
            Some(ChangeRecord { position: 5, touched: token })
        );
        let catalog = ChangeRecord { position: 6, touched: Touched::Catalog };
        assert_eq!(read("6 catalog"), Some(catalog));
        let unread = [
            "",
            "5",
            "x catalog",
            "6 token",
            "6 catalog more",
            "6 wall",
            "5 token 7",
            &format!("5 token {id} more"),
            &format!("5 catalog {id}"),
            "99999999999999999999 catalog",
        ];
        for payload in unread {
            assert_eq!(read(payload), None, "{payload}");
        }
    }

    #[test]
    fn several_changes_are_not_one() {
        let one = |position| Some(ChangeRecord { position, touched: Touched::Nothing });
        let ear = Ear::default();
        assert!(matches!(ear.take(), Told::Nothing));
        ear.hear(one(1));
        assert!(matches!(ear.take(), Told::One(ChangeRecord { position: 1, .. })));
        for (first, second) in [(one(2), one(3)), (one(2), None), (None, one(3)), (None, None)] {
            ear.hear(first);
            ear.hear(second);
            assert!(matches!(ear.take(), Told::More), "{first:?} {second:?}");
        }
        assert!(matches!(ear.take(), Told::Nothing));
    }
}
