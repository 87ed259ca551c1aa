//! Many inputs, decided on from memory together.
//!
//! What they share is spent once, and the facts of [`GROUP`] tokens are prefetched together: one decision alone waits
//! for main memory where its token was not asked for lately, and a batch would wait for each of its tokens.

use std::array;

use super::arguments::Memo;
use super::imported::imported_key;
use super::{AuthorizeInput, DecisionContext, MAX_BATCH, peek_id};
use crate::cache::CachedToken;
use crate::policy::decide::Decision;
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::secret::{self, Digest};
use crate::service::Result;
use crate::telemetry::Tally;

/// How many inputs are prefetched before any of them is decided: enough that memory answers meanwhile, and few
/// enough that what it answers is still near the processor when it is needed.
const GROUP: usize = 32;

/// The evaluation of a batch: what its inputs share.
struct Batch<'c> {
    context: &'c DecisionContext<'c>,
    memo: Memo<'c>,
    now: Timestamp,
    /// Whether any token is imported. Read once: one that is imported meanwhile is found without a prefetch.
    imports: bool,
    /// Counted together when the batch is dropped.
    decided: Tally,
}

impl<'c> DecisionContext<'c> {
    /// Evaluates `inputs`, at most [`MAX_BATCH`], of which the malformed ones are errors. `answer` gets the index of
    /// each, in order, and its evaluation: `None` where the store has to be asked first, and for a malformed input. An
    /// error is as of [`DecisionContext::evaluate`].
    ///
    /// Decisions are lent and not returned: moving one costs as much as a twentieth of making it.
    pub fn evaluate_batch(
        &'c self,
        inputs: &'c [Result<AuthorizeInput<'c>>],
        mut answer: impl FnMut(usize, &Result<Option<Decision<'c>>>),
    ) {
        debug_assert!(inputs.len() <= MAX_BATCH, "the caller checks how many there are");
        let mut batch = Batch {
            context: self,
            memo: Memo::default(),
            now: self.services.clock.at(self.started),
            imports: !self.services.cache.imports.is_empty(),
            decided: Tally::default(),
        };
        let groups = inputs.chunks(GROUP).zip((0..).step_by(GROUP));
        for (group, first) in groups {
            let near = batch.prefetched(group);
            for ((input, near), index) in group.iter().zip(near).zip(first..) {
                match input {
                    Ok(input) => answer(index, &batch.evaluate(input, near)),
                    Err(_) => answer(index, &Ok(None)),
                }
            }
        }
    }
}

impl<'c> Batch<'c> {
    #[inline]
    fn evaluate(
        &mut self,
        input: &AuthorizeInput<'c>,
        near: Option<(&'c CachedToken, Digest)>,
    ) -> Result<Option<Decision<'c>>> {
        let evaluated = self.context.decide(input, &mut self.memo, near, self.now);
        match &evaluated {
            Ok(Some(decision)) => self.decided.add(decision.verdict.reason()),
            Ok(None) => {}
            Err(_) => {
                self.context.services.metrics.decision_errors.inc();
            }
        }
        evaluated
    }

    /// What the near cache has of the tokens of the first inputs, and the digests of what was presented. Everything is
    /// prefetched before any of it is needed. `None` says nothing, as for one input.
    fn prefetched(
        &self,
        inputs: &[Result<AuthorizeInput<'_>>],
    ) -> [Option<(&'c CachedToken, Digest)>; GROUP] {
        let (tokens, guard) = (&self.context.services.cache.tokens, &self.context.guard);
        let token = |place: usize| Some(inputs.get(place)?.as_ref().ok()?.token);
        let claimed: [_; GROUP] = array::from_fn(|place| {
            peek_id(token(place)?).inspect(|&id| tokens.prefetch_bucket(id))
        });
        let digests: [_; GROUP] = array::from_fn(|place| {
            let id = claimed[place].filter(|&id| tokens.prefetch_entry(id, guard))?;
            Some((id, secret::digest(token(place)?)))
        });
        let mut found = digests.map(|digest| {
            let (id, digest) = digest?;
            Some((tokens.get_near(id, guard)?, digest))
        });
        if self.imports {
            self.find_imported(inputs, &claimed, &mut found);
        }
        tokens.record_hits(found.iter().flatten().map(|&(token, _)| token));
        found
    }

    /// Adds what the near cache has of imported tokens: their strings name no id. Apart, so that a batch without any
    /// is not slower.
    #[inline(never)]
    fn find_imported(
        &self,
        inputs: &[Result<AuthorizeInput<'_>>],
        claimed: &[Option<TokenId>; GROUP],
        found: &mut [Option<(&'c CachedToken, Digest)>; GROUP],
    ) {
        let (tokens, guard) = (&self.context.services.cache.tokens, &self.context.guard);
        let ring = self.context.services.cache.keys();
        let keys: [Option<(Digest, u64)>; GROUP] = array::from_fn(|place| {
            let input = inputs.get(place)?.as_ref().ok().filter(|_| claimed[place].is_none())?;
            // The string as it is: one behind a prefix is found without a prefetch.
            let key = imported_key(&ring, input.presented);
            key.inspect(|&(_, half)| tokens.prefetch_imported_bucket(half))
        });
        for &(_, half) in keys.iter().flatten() {
            tokens.prefetch_imported_entry(half, guard);
        }
        for (found, key) in found.iter_mut().zip(keys) {
            let near = key.and_then(|(digest, half)| {
                Some((tokens.get_near_imported(&digest, half, guard)?, digest))
            });
            *found = found.take().or(near);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.context
            .services
            .metrics
            .decided_together(&self.decided, self.context.started.elapsed());
    }
}
