//! Many inputs, decided on from memory together.
//!
//! What they share is spent once, and the facts of [`GROUP`] tokens are prefetched together: one decision alone waits
//! for main memory where its token was not asked for lately, and a batch would wait for each of its tokens.

use std::array;

use super::arguments::Memo;
use super::{AuthorizeInput, DecisionContext, MAX_BATCH, peek_id};
use crate::cache::CachedToken;
use crate::policy::decide::Decision;
use crate::policy::time::Timestamp;
use crate::secret::{self, Digest};
use crate::service::Result;
use crate::telemetry::Tally;

/// How many inputs are prefetched before any of them is decided: enough that memory answers meanwhile, and few
/// enough that what it answers is still near the processor when it is needed.
const GROUP: usize = 32;

/// The decisions on the inputs of a batch, in their order; `None` where the store has to be asked first, and for a
/// malformed input. An error is as of [`DecisionContext::evaluate`].
///
/// # Invariants
/// - What was prefetched for one input is used for no other: only the batch itself counts which is next.
pub struct Batch<'c> {
    context: &'c DecisionContext<'c>,
    inputs: &'c [Result<AuthorizeInput<'c>>],
    /// The index of the next input.
    next: usize,
    memo: Memo<'c>,
    now: Timestamp,
    /// What the near cache has of the token of each input in the current group.
    near: [Option<(&'c CachedToken, Digest)>; GROUP],
    /// Counted together when the batch is dropped.
    decided: Tally,
}

impl<'c> DecisionContext<'c> {
    /// Evaluates `inputs`, at most [`MAX_BATCH`], of which the malformed ones are errors.
    pub fn batch(&'c self, inputs: &'c [Result<AuthorizeInput<'c>>]) -> Batch<'c> {
        debug_assert!(inputs.len() <= MAX_BATCH, "the caller checks how many there are");
        Batch {
            context: self,
            inputs,
            next: 0,
            memo: Memo::default(),
            now: self.services.clock.at(self.started),
            near: [None; GROUP],
            decided: Tally::default(),
        }
    }
}

impl<'c> Iterator for Batch<'c> {
    type Item = Result<Option<Decision<'c>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let input = self.inputs.get(index)?;
        self.next += 1;
        if index.is_multiple_of(GROUP) {
            self.near = self.prefetched(&self.inputs[index..]);
        }
        let Ok(input) = input else { return Some(Ok(None)) };
        let near = self.near[index % GROUP];
        let evaluated = self.context.decide(input, &mut self.memo, near, self.now);
        match &evaluated {
            Ok(Some(decision)) => self.decided.add(decision.verdict.reason()),
            Ok(None) => {}
            Err(_) => {
                self.context.services.metrics.decision_errors.inc();
            }
        }
        Some(evaluated)
    }
}

impl<'c> Batch<'c> {
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
        let found = digests.map(|digest| {
            let (id, digest) = digest?;
            Some((tokens.get_near(id, guard)?, digest))
        });
        tokens.record_hits(found.iter().flatten().map(|&(token, _)| token));
        found
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
