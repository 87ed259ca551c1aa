//! Many questions, decided from memory together.
//!
//! What they share is spent once, and the facts of [`GROUP`] tokens are prefetched together: a question alone waits for
//! main memory where a token was not asked for lately, and a batch would wait for each of its tokens.

use std::array;

use super::arguments::Memo;
use super::{AuthorizeInput, DecisionContext, MAX_BATCH, peek_id};
use crate::cache::CachedToken;
use crate::policy::decide::Decision;
use crate::policy::time::Timestamp;
use crate::secret::{self, Digest};
use crate::service::Result;
use crate::telemetry::Tally;

/// How many questions are prefetched before any of them is decided: enough that memory answers meanwhile, and few
/// enough that what it answers is still near the processor when it is needed.
const GROUP: usize = 32;

/// Evaluates the questions of a batch, one after the other.
pub struct Batch<'c> {
    context: &'c DecisionContext<'c>,
    inputs: &'c [Result<AuthorizeInput<'c>>],
    memo: Memo<'c>,
    now: Timestamp,
    /// What the near cache has of each question's token in the group of the question before.
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
            memo: Memo::default(),
            now: self.services.clock.at(self.started),
            near: [None; GROUP],
            decided: Tally::default(),
        }
    }
}

impl<'c> Batch<'c> {
    /// Decides the question at `index` from memory; `None` where the store has to be asked first. To be called for each
    /// index in turn.
    ///
    /// # Errors
    /// As [`DecisionContext::evaluate`]; `None` for a malformed question.
    pub fn evaluate(&mut self, index: usize) -> Result<Option<Decision<'c>>> {
        if index.is_multiple_of(GROUP) {
            self.near = self.prefetched(&self.inputs[index..]);
        }
        let Ok(input) = &self.inputs[index] else { return Ok(None) };
        let near = self.near[index % GROUP];
        let evaluated = self.context.decide(input, &mut self.memo, near, self.now);
        match &evaluated {
            Ok(Some(decision)) => self.decided.add(decision.verdict.reason()),
            Ok(None) => {}
            Err(_) => drop(self.context.services.metrics.decision_errors.inc()),
        }
        evaluated
    }

    /// What the near cache has of the first questions' tokens, and the digests of what was presented. Everything is
    /// prefetched before any of it is needed. `None` says nothing, as for one question.
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
