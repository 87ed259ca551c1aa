//! The sweeper: announces what falls idle, carries out what was announced, and forgets what is past
//! its retention.
//!
//! Must stay true: everything it finds is only a candidate; each step is decided again in the store's
//! transaction, so several sweepers side by side, a stalled one and one that is killed half-way do no
//! harm. A round does a bounded amount of work, and what is not due costs nothing. Where replicas have
//! other settings nothing is taken or announced by any: nobody knows whose dates are meant.
//!
//! Rules: docs/policy.md, section 4.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::model::{Actor, CLOSURE_STEP, CarriedOut, ClosureStep, Context, Invalidation};
use crate::policy::id::TokenId;
use crate::policy::lifecycle::{Mode, Settings};
use crate::policy::scope::Catalog;
use crate::replication::Replicas;
use crate::store::{self, Store, StoreError};
use crate::telemetry::Metrics;
use crate::usage::{DENIALS_KEPT, Usage};
use crate::writes::Writes;

/// Candidates that are looked at in one go, and the most of each step in a round.
const BATCH: u32 = 200;
/// Rows of each kind of activity that are forgotten in a round.
const ACTIVITY_BATCH: u32 = 10_000;

/// Audit events that are sealed, and those that are pruned, in a round.
const AUDIT_BATCH: u32 = 1_000;

/// Between two rounds at least, however often the sweeper is woken.
const WAKEUP_PAUSE: Duration = Duration::from_secs(1);

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Actions announced.
    pub announced: u32,
    /// Actions carried out.
    pub carried_out: u32,
    /// Tokens whose actions were withdrawn.
    pub withdrawn: u32,
    /// Tokens whose expiry notices were queued.
    pub expiring: u32,
    /// Tokens whose expiry was recorded.
    pub expired: u32,
    /// Tokens of closed accounts that were deleted.
    pub closed: u32,
    /// Tokens forgotten.
    pub purged: u32,
    /// Whether there may be more to do at once.
    pub more: bool,
    /// Whether nothing was done, since another replica has other settings.
    pub at_odds: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Sweeper {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// What has the catalogue in force.
    pub cache: Arc<Cache>,
    /// What commits each step.
    pub writes: Arc<Writes>,
    /// Who else sweeps.
    pub replicas: Arc<Replicas>,
    /// What is flushed first.
    pub usage: Arc<Usage>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether and when things are taken.
    pub settings: Settings,
    /// How long deleted tokens keep a reason of their own.
    pub retention: Duration,
    /// How long audit events are kept; `None` for all of them.
    pub audit_retention: Option<Duration>,
    /// Wakes the outbox when mails are queued.
    pub outbox_wakeup: Arc<Notify>,
    /// Notified where a token expires so soon that its admins are to be mailed at once.
    pub sweep_wakeup: Arc<Notify>,
}

impl Sweeper {
    fn ctx(&self) -> Context {
        Context::new(Actor::System, self.clock.now(), None)
    }

    /// One round.
    ///
    /// # Errors
    /// The store's; what was done is done, and the next round goes on.
    pub async fn run_once(&self) -> store::Result<SweepReport> {
        let mut swept = SweepReport::default();
        // What was used a moment ago is known before anything is planned.
        self.usage.flush().await?;
        // Not part of the lifecycle: it goes on where replicas differ in settings. Each change seals its own event once all
        // earlier ones are sealed.
        match self.store.seal_audit_events(AUDIT_BATCH).await {
            Ok(sealed) => swept.more |= sealed == AUDIT_BATCH,
            Err(error) => tracing::warn!(%error, "cannot seal audit events"),
        }
        // Nor is a closure part of it. Its failure holds nothing else up.
        if let Err(error) = self.continue_closures(&mut swept).await {
            tracing::warn!(%error, "cannot go on with the closure of an account");
        }
        // Rule 4.16 of docs/policy.md.
        if self.replicas.has_config_mismatch().await? {
            return Ok(SweepReport { at_odds: true, ..swept });
        }
        // Expiry is no part of the lifecycle's mode. Rule 11.7 of docs/policy.md.
        self.record_expiries(&mut swept).await?;
        self.announce_expiries(&mut swept).await?;
        match self.settings.mode {
            // Rule 4.13 of docs/policy.md.
            Mode::Observe => self.withdraw(&mut swept).await?,
            Mode::Enforce => {
                self.carry_out(&mut swept).await?;
                self.announce(&mut swept).await?;
            }
        }
        self.purge(&mut swept).await?;
        self.metrics.last_sweep.set(self.clock.now().to_seconds_nanos().0);
        Ok(swept)
    }

    async fn carry_out(&self, swept: &mut SweepReport) -> store::Result<()> {
        let due = self.store.due_actions(&self.settings, self.clock.now(), BATCH).await?;
        swept.more |= due.len() == BATCH as usize;
        for (action, token) in due {
            let done = self
                .step("carry_out", token, async |ctx, catalog| {
                    self.store.carry_out(ctx, action, catalog, &self.settings).await
                })
                .await?;
            if done == Some(CarriedOut::Done) {
                self.outbox_wakeup.notify_one();
                swept.carried_out += 1;
                self.metrics.actions_carried_out.inc();
                tracing::info!(%action, %token, "carried out what was announced");
            }
        }
        Ok(())
    }

    async fn announce(&self, swept: &mut SweepReport) -> store::Result<()> {
        let now = self.clock.now();
        let idle = self.store.idle_tokens(self.settings.idle_before(now), BATCH).await?;
        swept.more |= idle.len() == BATCH as usize;
        // Their uses are recorded, but what these overtook is not cancelled yet.
        let (overtaken, idle): (Vec<_>, Vec<_>) =
            idle.iter().partition(|token| token.usage_state.is_overtaken());
        let overtaken: Vec<TokenId> = overtaken.into_iter().map(|token| token.id).collect();
        self.usage.cancel_overtaken(&overtaken).await;
        let (due, deferred): (Vec<_>, Vec<_>) = idle
            .into_iter()
            .partition(|token| token.usage_state.due(&self.settings, now).is_some());
        for token in due {
            let announced = self
                .step("announce", token.id, async |ctx, catalog| {
                    self.store.announce(ctx, catalog, token.id, &self.settings).await
                })
                .await?;
            if let Some(Some(action)) = announced {
                self.outbox_wakeup.notify_one();
                swept.announced += 1;
                self.metrics.actions_announced.inc();
                tracing::info!(action = %action.id, token = %token.id, "announced");
            }
        }
        let deferred: Vec<TokenId> = deferred.into_iter().map(|token| token.id).collect();
        if !deferred.is_empty() {
            self.store.reschedule(&deferred).await?;
        }
        Ok(())
    }

    /// Nothing stays announced where nothing is taken.
    async fn withdraw(&self, swept: &mut SweepReport) -> store::Result<()> {
        let ctx = self.ctx();
        let withdraw = self.store.withdraw_actions(&ctx, BATCH);
        let withdrawn =
            self.writes.commit_tokens("withdraw_actions", &ctx, withdraw, Vec::clone).await?;
        swept.withdrawn = withdrawn.len() as u32;
        swept.more |= withdrawn.len() == BATCH as usize;
        Ok(())
    }

    /// Nothing stays announced for what can't be used any more. Rule 11.5 of docs/policy.md.
    async fn record_expiries(&self, swept: &mut SweepReport) -> store::Result<()> {
        let ctx = self.ctx();
        let record = self.store.record_expiries(&ctx, BATCH);
        let expired =
            self.writes.commit_tokens("record_expiries", &ctx, record, Vec::clone).await?;
        swept.expired = expired.len() as u32;
        swept.more |= expired.len() == BATCH as usize;
        if !expired.is_empty() {
            self.outbox_wakeup.notify_one();
        }
        Ok(())
    }

    /// Rule 11.7 of docs/policy.md.
    async fn announce_expiries(&self, swept: &mut SweepReport) -> store::Result<()> {
        let ctx = self.ctx();
        let until = ctx.now.plus(self.settings.notice());
        let announce = self.store.announce_expiries(&ctx, until, BATCH);
        let announce =
            self.writes.commit("announce_expiries", Invalidation::Nothing, &ctx, announce);
        swept.expiring = announce.await?;
        swept.more |= swept.expiring == BATCH;
        if swept.expiring > 0 {
            self.outbox_wakeup.notify_one();
        }
        Ok(())
    }

    /// One step of what the closure of an account entails. Rule 11.76 of docs/policy.md.
    async fn continue_closures(&self, swept: &mut SweepReport) -> store::Result<()> {
        let ctx = self.ctx();
        let step = self.store.continue_closure(&ctx, None, CLOSURE_STEP);
        let deleted = |step: &Option<ClosureStep>| {
            step.as_ref().map_or_else(Vec::new, |step| step.tokens.clone())
        };
        let step = self.writes.commit_tokens("continue_closure", &ctx, step, deleted).await?;
        let Some(ClosureStep { account_id, tokens, more }) = step else { return Ok(()) };
        swept.closed = tokens.len() as u32;
        swept.more = true;
        if more {
            return Ok(());
        }
        // Also what was seen of tokens that were deleted before the closure.
        let mut after = None;
        loop {
            after = self.store.erase_activity(account_id, after, BATCH).await?;
            if after.is_none() {
                break;
            }
        }
        let ctx = self.ctx();
        let complete = self.store.complete_closure(&ctx, account_id);
        let touched = Invalidation::Nothing;
        if self.writes.commit("complete_closure", touched, &ctx, complete).await? {
            tracing::info!(account = %account_id, "every token of the closed account is deleted");
        }
        Ok(())
    }

    /// Rules 4.10 and 11.6 of docs/policy.md.
    async fn purge(&self, swept: &mut SweepReport) -> store::Result<()> {
        let ctx = self.ctx();
        let before = ctx.now.minus(self.retention);
        let purge = self.store.purge(&ctx, before, BATCH);
        let purged = self.writes.commit_tokens("purge", &ctx, purge, Vec::clone).await?;
        swept.purged = purged.len() as u32;
        swept.more |= purged.len() == BATCH as usize;
        self.purge_activity(swept).await?;
        self.prune_audit(swept).await
    }

    /// Removes old audit events. What then remains of the chain: docs/audit.md.
    async fn prune_audit(&self, swept: &mut SweepReport) -> store::Result<()> {
        let Some(retention) = self.audit_retention else { return Ok(()) };
        let ctx = self.ctx();
        let prune = self.store.prune_audit_events(&ctx, ctx.now.minus(retention), AUDIT_BATCH);
        let pruned =
            self.writes.commit("prune_audit_events", Invalidation::Nothing, &ctx, prune).await?;
        swept.more |= pruned == AUDIT_BATCH;
        Ok(())
    }

    /// Forgets what was seen before the window, and old denials. Rules 12.3 and 12.12 of docs/policy.md.
    async fn purge_activity(&self, swept: &mut SweepReport) -> store::Result<()> {
        let before = self.clock.now().minus(self.settings.window());
        let purged = self.store.purge_activity(before, ACTIVITY_BATCH).await?;
        swept.more |= purged >= u64::from(ACTIVITY_BATCH);
        let before = self.clock.now().minus(DENIALS_KEPT);
        let purged = self.store.purge_denials(before, ACTIVITY_BATCH).await?;
        swept.more |= purged >= u64::from(ACTIVITY_BATCH);
        Ok(())
    }

    /// One change to one token. `None` where it can't be made now, and the next round may: the
    /// catalogue is not known, or was another one; or where the store says that something is wrong
    /// with this token, which must not hold up the others.
    ///
    /// # Errors
    /// Where the store is of no use to others either.
    async fn step<T>(
        &self,
        operation: &'static str,
        token: TokenId,
        change: impl AsyncFnOnce(&Context, &Catalog) -> store::Result<T>,
    ) -> store::Result<Option<T>> {
        let Some(in_force) = self.cache.catalog() else { return Ok(None) };
        let ctx = self.ctx();
        let change = change(&ctx, &in_force.catalog);
        match self.writes.commit(operation, Invalidation::Token(token), &ctx, change).await {
            Ok(done) => Ok(Some(done)),
            Err(StoreError::StaleCatalog) => Ok(None),
            Err(error @ StoreError::Internal(_)) => {
                self.metrics.sweep_failures.inc();
                tracing::error!(%error, %token, "this token is passed over");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sweeps every `interval` until `stop`; at once again where there is more to do.
    pub async fn run(&self, interval: Duration, stop: CancellationToken) {
        let mut failing = false;
        while !stop.is_cancelled() {
            let pause = match self.run_once().await {
                Ok(swept) => {
                    failing = false;
                    // Sealing and pruning alone may need many rounds, and are no news.
                    let news = SweepReport { more: false, ..swept };
                    if !swept.at_odds && news != SweepReport::default() {
                        let SweepReport {
                            announced,
                            carried_out,
                            withdrawn,
                            expiring,
                            expired,
                            closed,
                            purged,
                            ..
                        } = swept;
                        tracing::info!(
                            announced,
                            carried_out,
                            withdrawn,
                            expiring,
                            expired,
                            closed,
                            purged,
                            "swept"
                        );
                    }
                    // Time for others between two rounds of a long queue.
                    if swept.more { interval.min(Duration::from_millis(100)) } else { interval }
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "cannot sweep; actions are late, none is lost");
                    }
                    failing = true;
                    self.metrics.sweep_failures.inc();
                    interval
                }
            };
            let rest = async {
                if tokio::time::timeout(pause, self.sweep_wakeup.notified()).await.is_ok() {
                    // Many tokens that expire soon are no reason to sweep all the time.
                    tokio::time::sleep(pause.min(WAKEUP_PAUSE)).await;
                }
            };
            stop.run_until_cancelled(rest).await;
        }
    }
}
