//! What the stories are told with: a world whose mails go over a real socket, days that pass, and a
//! token's state in a line.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use portcullis::mail::{Endpoint, Limits, Relay, ReplaceableRelay};
use portcullis::model::NoticeState;
use portcullis::pem::TrustStore;
use portcullis::policy::decide::Reason;
use portcullis::policy::id::AccountId;
use portcullis::policy::lifecycle::{ActionEffect, Calendar, Settings};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{PendingActionType, TokenKind, TokenState};
use portcullis::service::Error;

use crate::lifecycle::world::{DAY, HERE, Held, Place, START, World};
use crate::support::smtp::Sink;

pub(crate) const READ: &str = "transactions.read";
pub(crate) const BALANCE: &str = "accounts.read";
pub(crate) const SEND: &str = "send.request";
pub(crate) const REVEAL: &str = "cards.reveal";

const CATALOG: &str = r#"
[[scope]]
name = "transactions.read"
access = "read"
[[scope]]
name = "accounts.read"
access = "read"
[[scope]]
name = "send.request"
access = "write"
requires_whitelist = false
[[scope]]
name = "cards.reveal"
access = "write"
requires_whitelist = true
"#;

pub(crate) const ANN: &str = "ann@acme.example";
pub(crate) const BOB: &str = "bob@acme.example";

/// Runs each story on a fresh world over each store.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::lifecycle::story::Story::new($crate::lifecycle::world::Place::sqlite()).await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::lifecycle::story::Story::new($crate::lifecycle::world::Place::postgres()).await)
                    .await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A token with its name.
pub(crate) struct Token {
    pub(crate) held: Held,
    name: &'static str,
}

/// See the module. An account of Ann and Bob is there from the beginning.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) sink: Sink,
    pub(crate) account: AccountId,
    /// What to write instead of ids, which differ each time.
    names: Vec<(String, String)>,
    told: usize,
    mails: String,
}

impl Story {
    pub(crate) async fn new(place: Place) -> Self {
        let sink = Sink::start();
        let relay = Relay::new(
            Endpoint::parse(&sink.url().into()).unwrap(),
            TrustStore::public_and(None).unwrap(),
            "Portcullis <portcullis@example.com>".parse().unwrap(),
            Limits::each(Duration::from_secs(30)),
        );
        let relay = Arc::new(ReplaceableRelay::new(relay));
        let world = World::new(place, CATALOG, Settings::default(), relay).await;
        let account = world.account("Acme Ltd", &[ANN.to_owned(), BOB.to_owned()]).await;
        let names = vec![(account.to_string(), "acc_ACME".to_owned())];
        Self { world, sink, account, names, told: 0, mails: String::new() }
    }

    /// A new token of the account.
    pub(crate) async fn token(
        &mut self,
        name: &'static str,
        kind: TokenKind,
        scopes: &[&str],
    ) -> Token {
        let scopes: Vec<_> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let held = self.world.token(self.account, name, kind, &scopes).await;
        self.names.push((held.id.to_string(), format!("tok_{}", name.to_uppercase())));
        Token { held, name }
    }

    /// A new `READ_ONLY` token of the account that expires on that day.
    pub(crate) async fn expiring(&mut self, name: &'static str, day: u32) -> Token {
        let expires = Some(START.plus(DAY * day));
        let kind = TokenKind::ReadOnly;
        let held = self.world.token_until(self.account, name, kind, &[], expires).await;
        self.names.push((held.id.to_string(), format!("tok_{}", name.to_uppercase())));
        Token { held, name }
    }

    pub(crate) async fn admins(&self, admins: &[&str]) {
        let admins: Vec<_> = admins.iter().map(|&admin| admin.to_owned()).collect();
        self.world.set_admins(self.account, &admins).await.unwrap();
    }

    /// Moves the clock on to that day's first instant; nothing happens meanwhile.
    pub(crate) fn sleep_until(&self, day: u64) {
        let until = START.plus(DAY * day as u32);
        let by = u64::try_from(until.0 - self.world.now().0).expect("time passes forward");
        self.world.clock.advance(Duration::from_micros(by));
    }

    /// One round of everything: sweeps, and sends what is due.
    pub(crate) async fn round(&mut self) {
        self.world.sweep().await;
        self.deliver().await;
    }

    /// Sends what is due.
    pub(crate) async fn deliver(&mut self) {
        self.world.deliver().await;
        let all = self.sink.messages();
        let mut new: Vec<_> = all[self.told..]
            .iter()
            .map(|mail| {
                let mut told = format!(
                    "=== {} to {}: {}\n\n{}\n",
                    self.today(),
                    mail.to.join(" "),
                    mail.header("Subject").unwrap(),
                    mail.text().trim_end(),
                );
                for (id, name) in &self.names {
                    told = told.replace(id, name);
                }
                told
            })
            .collect();
        self.told = all.len();
        // What was queued at one instant goes in no order.
        new.sort();
        for mail in new {
            let _ = writeln!(self.mails, "{mail}");
        }
    }

    /// Lives through the days until that one: one round at each day's first
    /// instant.
    pub(crate) async fn live_until(&mut self, day: u64) {
        loop {
            let today = (self.world.now().0 - START.0) as u64 / DAY.as_micros() as u64;
            if today >= day {
                return;
            }
            self.sleep_until(today + 1);
            self.round().await;
        }
    }

    /// The same with a use on each day before it.
    pub(crate) async fn live_using(&mut self, token: &Token, scope: &str, day: u64) {
        loop {
            self.uses(token, scope).await;
            let today = (self.world.now().0 - START.0) as u64 / DAY.as_micros() as u64;
            if today + 1 >= day {
                return self.live_until(day).await;
            }
            self.live_until(today + 1).await;
        }
    }

    fn today(&self) -> String {
        day(self.world.now())
    }

    /// All mails since the last call, for a snapshot.
    pub(crate) fn mails(&mut self) -> String {
        std::mem::take(&mut self.mails)
    }

    /// Uses the token, which must be allowed.
    pub(crate) async fn uses(&self, token: &Token, scope: &str) {
        assert_eq!(self.try_use(token, scope).await.unwrap(), Reason::Allowed, "{scope}");
    }

    pub(crate) async fn try_use(&self, token: &Token, scope: &str) -> Result<Reason, Error> {
        Ok(self.world.ask(&token.held, scope, HERE, false).await?.0)
    }

    /// What would be decided.
    pub(crate) async fn would(&self, token: &Token, scope: &str) -> Reason {
        self.world.ask(&token.held, scope, HERE, true).await.unwrap().0
    }

    /// What a decision says will happen first.
    pub(crate) async fn warning(&self, token: &Token) -> String {
        let (_, upcoming) = self.world.ask(&token.held, READ, HERE, true).await.unwrap();
        upcoming.map_or("none".to_owned(), |upcoming| {
            let what = match upcoming.action {
                PendingActionType::Deletion => "deletion",
                PendingActionType::Downgrade => "downgrade",
            };
            format!("{what} on {}", day(upcoming.effective))
        })
    }

    /// The token in a line, as its owner reads it.
    pub(crate) async fn state(&self, token: &Token) -> String {
        let Some(read) = self.world.store.token(token.held.id, None).await.unwrap() else {
            return "unknown".to_owned();
        };
        assert_eq!(read.name, token.name);
        let in_force = self.world.services.parts.cache.catalog().unwrap();
        let names = |ids: &[portcullis::policy::scope::ScopeId]| {
            let names: Vec<_> =
                ids.iter().map(|&id| in_force.name_of(id).unwrap().to_string()).collect();
            names.join(" ")
        };
        let mut text = match read.state {
            TokenState::Deleted { .. } => return "deleted".to_owned(),
            TokenState::DeletedUnused { at } => return format!("deleted unused on {}", day(at)),
            TokenState::RevokedLeaked { .. } => return "leaked".to_owned(),
            TokenState::Active => match read.kind {
                TokenKind::ReadOnly => "READ_ONLY".to_owned(),
                TokenKind::ReadWrite => "READ_WRITE".to_owned(),
                TokenKind::Custom => format!("CUSTOM {}", names(&read.scopes)),
            },
        };
        if let Some(at) = read.downgraded {
            let _ = write!(text, " since {}", day(at));
        }
        let calendar = Calendar { now: self.world.now(), ..self.world.services.calendar() };
        for action in read.pending {
            let what = match &action.takes {
                ActionEffect::Token => "deletion".to_owned(),
                ActionEffect::Writes | ActionEffect::Scopes(_) => {
                    format!("loses {}", names(&action.taken))
                }
            };
            let _ = write!(text, "; {what}");
            match action.accepted {
                Some(_) => {
                    let _ = write!(text, " on {}", day(action.live().effective(&calendar)));
                }
                None => text += ", held",
            }
            for notice in action.notices {
                match notice.state {
                    NoticeState::Accepted(_) => {}
                    NoticeState::Queued => {
                        let _ = write!(text, ", {} not told", notice.email);
                    }
                    NoticeState::Failing(why) => {
                        let _ = write!(text, ", {} refused: {why}", notice.email);
                    }
                }
            }
        }
        text
    }
}

/// Which day of the story that is, and how far it is.
fn day(at: Timestamp) -> String {
    let since = at.0 - START.0;
    let length = DAY.as_micros() as i64;
    match since % length {
        0 => format!("day {}", since / length),
        part => format!("day {}+{:?}", since / length, Duration::from_micros(part as u64)),
    }
}
