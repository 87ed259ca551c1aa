//! Many histories side by side in one world, since clock, sweeper, mail and crashes are everybody's.
//! After each step all that can be seen must be as the model says, and as the witness demands.
//!
//! What must stay true: a seed alone makes the same histories again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis::model::{AuditFilter, Page, Token, TokenFilter};
use portcullis::policy::id::TokenId;
use portcullis::policy::lifecycle::{Mode, Settings};
use portcullis::policy::scope::ScopeId;
use portcullis::policy::token::TokenKind;

use crate::lifecycle::history::{History, Planted};
use crate::lifecycle::imports::STRANGER;
use crate::lifecycle::model::SCOPES;
use crate::lifecycle::post::{Attempt, Post, Script};
use crate::lifecycle::record::{self, Totals};
use crate::lifecycle::rng::Rng;
use crate::lifecycle::world::{DAY, Item, Place, World};

/// What happened to everybody.
pub(crate) enum Did {
    Flush,
    Sweep,
    Deliver { whole: bool, attempts: Vec<Attempt> },
    Crash,
}

impl Did {
    pub(crate) fn attempts(&self) -> &[Attempt] {
        match self {
            Self::Deliver { attempts, .. } => attempts,
            Self::Flush | Self::Sweep | Self::Crash => &[],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Sweep => "sweep",
            Self::Deliver { whole: true, .. } => "deliver",
            Self::Deliver { whole: false, .. } => "deliver in part",
            Self::Crash => "crash",
        }
    }
}

/// See the module.
pub(crate) struct Batch {
    seed: u64,
    world: World,
    post: Arc<Post>,
    rng: Rng,
    histories: Vec<History>,
    observe: bool,
    /// Scopes' numbers in the store, by their places in the model.
    ids: Vec<ScopeId>,
}

/// Runs the `count` histories of a seed, of so many steps, and to their ends.
pub(crate) async fn run(
    place: Place,
    seed: u64,
    count: usize,
    steps: usize,
    planted: Option<Planted>,
) -> Totals {
    let mut batch = Batch::new(place, seed, count, planted).await;
    // Nothing falls due in the first weeks.
    batch.world.clock.advance(DAY * batch.rng.below(36) as u32);
    for _ in 0..steps {
        batch.step().await;
    }
    batch.settle().await;
    let totals = batch.totals().await;
    batch.world.store.close().await;
    totals
}

fn settings(observe: bool) -> Settings {
    let default = Settings::default();
    let mode = if observe { Mode::Observe } else { Mode::Enforce };
    Settings::new(mode, default.window(), default.notice()).unwrap()
}

impl Batch {
    async fn new(place: Place, seed: u64, count: usize, planted: Option<Planted>) -> Self {
        let post = Arc::new(Post::default());
        let scope = |(name, write): &(&str, bool)| {
            let access = if *write { "write" } else { "read" };
            format!("[[scope]]\nname = \"{name}\"\naccess = \"{access}\"\n")
        };
        let catalog: String = SCOPES.iter().map(scope).collect();
        let world = World::new(place, &catalog, settings(false), post.clone()).await;
        let others = world.account("Others", &["x@others.test".to_owned()]).await;
        let stranger = Item {
            secret: STRANGER.to_owned(),
            name: "stranger".to_owned(),
            kind: TokenKind::ReadOnly,
            scopes: Vec::new(),
            whitelist: Vec::new(),
            created: None,
            last_use: None,
            expires: None,
        };
        let imported = world.import(&World::caller(), others, &[stranger]).await.unwrap();
        assert!(imported[0].is_ok());
        let in_force = world.services.parts.cache.catalog().unwrap();
        let ids = SCOPES.iter().map(|(name, _)| in_force.catalog.by_name(name).unwrap().id);
        let ids = ids.collect();
        let mut histories = Vec::new();
        for number in 0..count {
            histories.push(History::begin(&world, seed, number, planted).await);
        }
        Self { seed, world, post, rng: Rng(seed), histories, observe: false, ids }
    }

    async fn step(&mut self) {
        self.pass_time();
        for history in &mut self.histories {
            history.act(&self.world, &self.post, self.observe).await;
        }
        let did = self.everybody().await;
        self.check(&did).await;
    }

    /// Nobody uses anything any more, and the mail works: everything that is left is taken.
    async fn settle(&mut self) {
        *self.post.script() = Script::default();
        self.observe = false;
        self.world.restart(settings(false)).await;
        let (mut did, mut left) = (vec![Did::Flush, Did::Crash], 0);
        // What waits is mailed; what was not announced is; all of it is taken.
        for days in [2, 45, 7] {
            self.world.clock.advance(DAY * days);
            did.extend([self.sweep().await, self.deliver().await]);
            left = self.check(&std::mem::take(&mut did)).await;
        }
        assert_eq!(left, 0, "seed {:#x}: tokens are not taken", self.seed);
        let mails = self.world.store.mail_state().await.unwrap();
        assert_eq!(mails.waiting, 0, "seed {:#x}: mails are not sent", self.seed);
    }

    /// What the audit record says of all of them.
    async fn totals(&self) -> Totals {
        let (mut events, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, limit: 10_000 };
            let more = self.world.store.audit_events(&AuditFilter::default(), page).await.unwrap();
            let Some(last) = more.last() else { break };
            after = Some(last.position);
            events.extend(more);
        }
        events.reverse();
        record::read(&events).unwrap_or_else(|what| panic!("seed {:#x}: {what}", self.seed))
    }

    /// From an instant to some weeks.
    fn pass_time(&mut self) {
        let rng = &mut self.rng;
        let seconds = match rng.below(20) {
            0 => 0,
            1 => rng.below(90),
            2..4 => 60 * rng.below(600),
            4..9 => 86_400 * (1 + rng.below(8)),
            9..15 => 3_600 * (24 + rng.below(240)),
            _ => 86_400 * (6 + rng.below(34)),
        };
        self.world.clock.advance(Duration::from_secs(seconds as u64));
    }

    async fn everybody(&mut self) -> Vec<Did> {
        if self.observe && self.rng.percent(35) || self.rng.percent(7) {
            self.observe = !self.observe;
            let settings = settings(self.observe);
            if self.rng.percent(50) {
                self.world.crash(settings).await;
                return vec![Did::Crash];
            }
            self.world.restart(settings).await;
            return vec![Did::Flush, Did::Crash];
        }
        let down = self.post.script().down;
        if self.rng.percent(if down { 30 } else { 3 }) {
            self.post.script().down = !down;
        }
        match self.rng.below(20) {
            0..9 => vec![self.sweep().await, self.deliver().await],
            9..11 => vec![self.sweep().await],
            11..13 => vec![self.deliver().await],
            13 => {
                self.world.services.parts.usage.flush().await.unwrap();
                vec![Did::Flush]
            }
            14 => vec![self.crash().await],
            15 => vec![self.crash().await, self.sweep().await],
            16 => vec![self.sweep().await, self.crash().await, self.deliver().await],
            17 => self.crash_while_sending().await,
            _ => vec![],
        }
    }

    async fn sweep(&self) -> Did {
        self.world.sweep().await;
        Did::Sweep
    }

    async fn crash(&mut self) -> Did {
        self.world.crash(settings(self.observe)).await;
        Did::Crash
    }

    async fn deliver(&self) -> Did {
        self.world.deliver().await;
        Did::Deliver { whole: true, attempts: std::mem::take(&mut self.post.script().attempts) }
    }

    /// Dies after the server took a mail over, before that is noted.
    async fn crash_while_sending(&mut self) -> Vec<Did> {
        self.post.script().lose_after = Some(self.rng.below(10));
        let whole = tokio::select! {
            () = self.world.deliver() => true,
            () = self.post.lost.notified() => false,
        };
        self.post.script().lose_after = None;
        let attempts = std::mem::take(&mut self.post.script().attempts);
        vec![Did::Deliver { whole, attempts }, self.crash().await]
    }

    /// Lets the model do the same, and compares. In how many histories there is anything left to take.
    async fn check(&mut self, did: &[Did]) -> usize {
        let now = self.world.now();
        let names: Vec<_> = did.iter().map(Did::name).collect();
        let mode = if self.observe { " (observing)" } else { "" };
        let filter = TokenFilter { account_id: None, deleted: true };
        let all = Page { after: None, limit: 100_000 };
        let tokens = self.world.store.tokens(&filter, all).await.unwrap();
        let tokens: BTreeMap<TokenId, Token> =
            tokens.into_iter().map(|token| (token.id, token)).collect();
        for history in &mut self.histories {
            history.log.push(format!("{now} {}{mode}", names.join(", ")));
            if let Err(what) = history.follow(did, &tokens, now.0, self.observe, &self.ids) {
                panic!("{}{what}", history.story(self.seed));
            }
            if let Err(what) = history.decides(&self.world, now.0, self.observe).await {
                panic!("{}{what}", history.story(self.seed));
            }
        }
        self.histories.iter().filter(|history| !history.over(&tokens, now)).count()
    }
}
