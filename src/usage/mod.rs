//! What tokens are used for, how often and from where: merged in memory, written behind.
//!
//! Must stay true: noting a use waits for nothing and never fails; what is noted is in the store
//! within the flush interval, or stays here until the store takes it; what is recorded only
//! moves forward, so recording it twice changes nothing. A use that an announced action would have to
//! know of first does not come this way: see `service::decisions`.
//!
//! How often (`active`), from where (`addresses`), and what was denied (`denials`) decides nothing: it is written after
//! the uses, and what is lost of it is gone.
//!
//! Rules: docs/policy.md, sections 5 and 12.

mod active;
mod addresses;
mod credentials;
mod denials;
mod spikes;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::active::ActiveTokens;
use self::addresses::{AddressOutcome, Addresses};
pub use self::credentials::CredentialUses;
use self::denials::Denials;
pub use self::denials::DeniedRequest;
use self::spikes::{Spike, Spikes};
use crate::cache::{Cache, CachedToken, CollectedUses};
use crate::clock::Clock;
use crate::model::{
    ActiveCatalog, Actor, AddressUse, Context, Invalidation, NoLongerHeld, Use, UseCount,
};
use crate::policy::id::TokenId;
use crate::policy::network::{Cidr, ClientAddr};
use crate::policy::scope::{Access, Scope, ScopeId};
use crate::policy::time::Timestamp;
use crate::store::{self, Store, StoreError};
use crate::telemetry::{Metrics, request_id};
use crate::writes::Writes;

/// Parts that are locked apart from each other.
const SHARDS: usize = 16;
/// Uses that are recorded by one call of the store.
const BATCH: usize = 1_000;
/// A use needs no note within so long after one that was noted, or a hundredth of the window if that
/// is less (docs/policy.md, rule 5.6).
const DEBOUNCE: Duration = Duration::from_secs(60);
/// How long the last flush may take when the process ends.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// So long after the debounce, a token without uses is no longer collected from: a decision may take that long from its
/// time until it is counted.
const SLACK: Duration = Duration::from_secs(1);

/// How long denials are kept. Rule 12.12 of docs/policy.md.
pub const DENIALS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

type RecentUses = HashMap<(TokenId, ScopeId), (Timestamp, bool)>;

/// See the module.
#[derive(Debug)]
pub struct Usage {
    shards: [Mutex<RecentUses>; SHARDS],
    /// Held while uses are recorded, so that a flush which returns leaves nothing under way.
    flushing: tokio::sync::Mutex<()>,
    /// Held while counts and addresses are recorded, for the same reason.
    recording: tokio::sync::Mutex<()>,
    active: ActiveTokens,
    addresses: Addresses,
    denials: Denials,
    spikes: Mutex<Spikes>,
    /// In microseconds.
    debounce: i64,
    cache: Arc<Cache>,
    store: Arc<dyn Store>,
    writes: Arc<Writes>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

/// What became of a use that an announced action had to know of first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseOutcome {
    /// It is on disk, with what it cancelled, and decisions know.
    Recorded,
    /// It is not: what it was decided on has changed, so it has to be decided again.
    DecideAgain,
}

impl Usage {
    /// Nothing noted yet. `cache` has the tokens whose uses are noted; `writes` commits what uses cancel; `window` is
    /// the lifecycle's; the store is spoken to on `runtime`.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        writes: Arc<Writes>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        window: Duration,
        runtime: Handle,
    ) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            flushing: tokio::sync::Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            active: ActiveTokens::default(),
            addresses: Addresses::default(),
            denials: Denials::default(),
            spikes: Mutex::default(),
            cache,
            debounce: i64::try_from(DEBOUNCE.min(window / 100).as_micros()).unwrap_or(i64::MAX),
            store,
            writes,
            clock,
            metrics,
            runtime,
        }
    }

    /// Takes note that a token was used at `now`: for `scope`, and from `client` where that is known, by the whitelist
    /// entry `entry`. Nearly always all but its count is known already, and costs a look.
    pub fn note(
        &self,
        token: &CachedToken,
        scope: &Scope,
        (client, entry): (Option<ClientAddr>, Option<Cidr>),
        now: Timestamp,
    ) {
        if let Some(before) = token.count_use(scope.id, now, self.debounce, &self.active.busy) {
            self.buffer(used(token, scope, now));
            self.follow(token, before, now);
        }
        // Rule 12.1 of docs/policy.md.
        if let Some(client) = client
            && self.addresses.note(token, client, entry, now, self.debounce)
                == AddressOutcome::Dropped
        {
            self.metrics.activity_dropped.inc();
        }
    }

    /// Takes note of a denied request of a known token; `operation` says what it was, where no scope does. Rule 12.10
    /// of docs/policy.md.
    pub fn note_denial(&self, denied: DeniedRequest, operation: impl FnOnce() -> String) {
        let dropped = self.denials.note(denied, operation);
        if dropped > 0 {
            self.metrics.activity_dropped.inc_by(dropped);
        }
    }

    /// A use was noted: further ones are counted in memory for a while, and collected from there.
    #[cold]
    fn follow(&self, token: &CachedToken, before: Option<CollectedUses>, now: Timestamp) {
        self.buffer_collected(token, before);
        let until = now.plus(Duration::from_micros(self.debounce.unsigned_abs()) + SLACK);
        match self.cache.tokens.shared(token) {
            Some(shared) => self.active.join(shared, until),
            // The cache has forgotten it meanwhile: nobody finds it any more, so that this was its last use.
            None => {
                let counts: Vec<_> = token.collect(&self.active.busy).collect();
                counts.into_iter().for_each(|(_, count)| self.buffer_collected(token, Some(count)));
            }
        }
    }

    fn buffer_collected(&self, token: &CachedToken, collected: Option<CollectedUses>) {
        let Some(CollectedUses { scope_id, day, count }) = collected else { return };
        self.buffer_count(&UseCount { token_id: *token.id, scope_id, day, count });
    }

    fn buffer_count(&self, count: &UseCount) {
        if !self.active.buffer(count) {
            self.metrics.activity_dropped.inc();
        }
    }

    /// Records a use before its ALLOW is answered, and cancels what it cancels. Rule 5.5 of docs/policy.md.
    ///
    /// # Errors
    /// The store's: it is not known whether it is recorded, so nothing may be allowed.
    pub async fn record_use_of_announced(
        &self,
        catalog: Arc<ActiveCatalog>,
        token: &CachedToken,
        scope: &Scope,
        now: Timestamp,
    ) -> store::Result<UseOutcome> {
        let used = used(token, scope, now);
        let account = Invalidation::Account(*token.account_id);
        let (store, writes) = (self.store.clone(), self.writes.clone());
        // Goes on to its end also where the caller goes away; and connections belong to that runtime.
        let recording = self.runtime.spawn(request_id::carry(async move {
            let ctx = Context::new(Actor::System, now, None);
            let changed = Invalidation::Token(used.token_id);
            let record = store.record_use_of_announced(&ctx, &catalog.catalog, &used);
            match writes.commit("record_use_of_announced", changed, &ctx, record).await {
                Ok(Ok(_)) => Ok(UseOutcome::Recorded),
                // The token's account may be suspended by now.
                Ok(Err(NoLongerHeld)) => {
                    writes.follow(account).await;
                    Ok(UseOutcome::DecideAgain)
                }
                Err(StoreError::StaleCatalog) => Ok(UseOutcome::DecideAgain),
                Err(error) => Err(error),
            }
        }));
        recording.await.unwrap_or_else(|panic| Err(StoreError::Internal(Box::new(panic))))
    }

    fn buffer(&self, used: Use) {
        let shard = &self.shards[shard_of(used.token_id)];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        merge(&mut shard, used);
    }

    /// Records what was noted before this call.
    ///
    /// # Errors
    /// The store's; what was not recorded stays noted.
    pub async fn flush(&self) -> store::Result<()> {
        let _turn = self.flushing.lock().await;
        let mut uses = Vec::new();
        for shard in &self.shards {
            let noted = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            uses.extend(noted.into_iter().map(|((token_id, scope_id), (time, write))| Use {
                token_id,
                scope_id,
                write,
                time,
            }));
        }
        // In one order everywhere, so that two processes never wait for each other's rows.
        uses.sort_unstable_by_key(|used| (used.token_id, used.scope_id));
        let mut recorded_count = 0;
        for batch in uses.chunks(BATCH) {
            let record = self.store.record_uses(batch);
            match store::timed(&self.metrics, "record_uses", record).await {
                Ok(overtaken) => {
                    recorded_count += batch.len();
                    self.metrics.uses_recorded.inc_by(batch.len() as u64);
                    self.cancel_overtaken(&overtaken).await;
                }
                Err(error) => {
                    uses[recorded_count..].iter().for_each(|&used| self.buffer(used));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Records how often and from where tokens were used, `most` counts of it. What the store does not take waits,
    /// within bounds. Rules 12.1, 12.5 and 12.8 of docs/policy.md.
    ///
    /// # Errors
    /// The store's. Where it is not known whether it took them, counts are not tried again: none is ever more than what
    /// was allowed.
    async fn record_activity(&self, most: usize) -> store::Result<()> {
        let _turn = self.recording.lock().await;
        let counts = self.active.collect(self.clock.now(), most);
        let addresses = self.addresses.take();
        let mut counts = counts.chunks(BATCH);
        let mut addresses = addresses.chunks(BATCH);
        let (none, nowhere): (&[UseCount], &[AddressUse]) = (&[], &[]);
        loop {
            let batch = (counts.next().unwrap_or(none), addresses.next().unwrap_or(nowhere));
            if batch.0.is_empty() && batch.1.is_empty() {
                return Ok(());
            }
            let record = self.store.record_activity(batch.0, batch.1);
            let recorded = store::timed(&self.metrics, "record_activity", record).await;
            let Err(error) = recorded else { continue };
            if !matches!(error, StoreError::Unknown(_)) {
                batch.0.iter().for_each(|count| self.buffer_count(count));
            }
            counts.by_ref().flatten().for_each(|count| self.buffer_count(count));
            for &seen in batch.1.iter().chain(addresses.by_ref().flatten()) {
                if !self.addresses.buffer(seen) {
                    self.metrics.activity_dropped.inc();
                }
            }
            return Err(error);
        }
    }

    /// The most denials of one token within a minute, this one or the last.
    pub fn token_denials_max(&self) -> u64 {
        self.denials.most_in_a_minute(self.clock.now())
    }

    /// Records what was denied, likewise.
    ///
    /// # Errors
    /// The store's.
    async fn record_denials(&self) -> store::Result<()> {
        let _turn = self.recording.lock().await;
        let (denials, rests) = self.denials.take();
        if denials.is_empty() && rests.is_empty() {
            return Ok(());
        }
        let record = self.store.record_denials(&denials, &rests);
        let recorded = store::timed(&self.metrics, "record_denials", record).await;
        match &recorded {
            Err(error) if !matches!(error, StoreError::Unknown(_)) => {
                self.metrics.activity_dropped.inc_by(self.denials.restore(denials, rests));
            }
            // Not where they are kept for the next time: they would count twice.
            _ => {
                let mut spikes = self.spikes.lock().unwrap_or_else(PoisonError::into_inner);
                spikes.note(&denials, self.clock.now()).iter().for_each(Spike::warn);
            }
        }
        recorded
    }

    /// Cancels what these tokens' recorded uses have overtaken. What fails is found again by the next
    /// sweep, and nothing is carried out against a recorded use.
    pub async fn cancel_overtaken(&self, overtaken: &[TokenId]) {
        for &id in overtaken {
            let ctx = Context::new(Actor::System, self.clock.now(), None);
            let cancel = self.store.cancel_overtaken(&ctx, id);
            let changed = Invalidation::Token(id);
            if let Err(error) = self.writes.commit("cancel_overtaken", changed, &ctx, cancel).await
            {
                tracing::warn!(%error, token = %id, "cannot cancel what a use has overtaken yet");
            }
        }
    }

    /// Flushes every `interval` until `stop`, and once more then.
    pub async fn run(&self, interval: Duration, stop: CancellationToken) {
        let (mut failing, mut late) = (false, false);
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match self.flush().await {
                Ok(()) => failing = false,
                // One line for an outage.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "cannot record uses; they are kept until it works");
                }
                Err(_) => {}
            }
            let most = active::share(self.active.len(), interval);
            match self.record_behind(most).await {
                Ok(()) => late = false,
                Err(error) if !late => {
                    late = true;
                    tracing::warn!(
                        %error,
                        "cannot record seen addresses, counts of use and denials; some may be lost"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// The last flush: to be called when no decision is under way any more.
    pub async fn finish(&self) {
        match tokio::time::timeout(FINAL_FLUSH_TIMEOUT, self.flush_all()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last uses are not recorded"),
            Err(_) => tracing::error!("the last uses are not recorded: the store takes too long"),
        }
    }

    /// Records all that was noted and counted before this call.
    ///
    /// # Errors
    /// The store's.
    pub async fn flush_all(&self) -> store::Result<()> {
        self.flush().await?;
        self.record_behind(usize::MAX).await
    }

    async fn record_behind(&self, most: usize) -> store::Result<()> {
        self.record_activity(most).await?;
        self.record_denials().await
    }
}

/// Where what concerns a token is kept.
fn shard_of(id: TokenId) -> usize {
    id.0.as_u64_pair().1 as usize % SHARDS
}

fn used(token: &CachedToken, scope: &Scope, now: Timestamp) -> Use {
    Use { token_id: *token.id, scope_id: scope.id, write: scope.access == Access::Write, time: now }
}

fn merge(noted: &mut RecentUses, used: Use) {
    match noted.entry((used.token_id, used.scope_id)) {
        Entry::Vacant(place) => drop(place.insert((used.time, used.write))),
        Entry::Occupied(mut place) => {
            let (time, write) = place.get_mut();
            *time = used.time.max(*time);
            *write |= used.write;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// What the store refused comes back here while newer uses are noted.
    #[test]
    fn merging_keeps_the_latest_time_and_every_write() {
        let used = |seconds, write| Use {
            token_id: TokenId(Uuid::nil()),
            scope_id: ScopeId(1),
            write,
            time: Timestamp(seconds),
        };
        for order in [[(5, true), (9, false)], [(9, false), (5, true)]] {
            let mut noted = RecentUses::new();
            for (seconds, write) in order {
                merge(&mut noted, used(seconds, write));
            }
            let merged: Vec<_> = noted.into_values().collect();
            assert_eq!(merged, [(Timestamp(9), true)]);
        }
    }
}
