//! Many questions, decided from memory together.
//!
//! What they share is spent once, and the facts of [`GROUP`] tokens are prefetched together: a question alone waits for
//! main memory where a token was not asked for lately, and a batch would wait for each of its tokens.

use std::array;

use super::arguments::Memo;
use super::{DecisionContext, MAX_BATCH, Question, claimed_id};
use crate::cache::Known;
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
    questions: &'c [Result<Question<'c>>],
    memo: Memo<'c>,
    now: Timestamp,
    /// What the near cache has of each question's token in the group of the question before.
    near: [Option<(&'c Known, Digest)>; GROUP],
    /// Counted together when the batch is dropped.
    decided: Tally,
}

impl<'c> DecisionContext<'c> {
    /// Evaluates `questions`, at most [`MAX_BATCH`], of which the malformed ones are errors.
    pub fn batch(&'c self, questions: &'c [Result<Question<'c>>]) -> Batch<'c> {
        debug_assert!(questions.len() <= MAX_BATCH, "the caller checks how many there are");
        Batch {
            context: self,
            questions,
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
            self.near = self.prefetched(&self.questions[index..]);
        }
        let Ok(question) = &self.questions[index] else { return Ok(None) };
        let near = self.near[index % GROUP];
        let evaluated = self.context.decide(question, &mut self.memo, near, self.now);
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
        questions: &[Result<Question<'_>>],
    ) -> [Option<(&'c Known, Digest)>; GROUP] {
        let (tokens, guard) = (&self.context.services.cache.tokens, &self.context.guard);
        let token = |place: usize| Some(questions.get(place)?.as_ref().ok()?.token);
        let claimed: [_; GROUP] =
            array::from_fn(|place| claimed_id(token(place)?).inspect(|&id| tokens.fetch_place(id)));
        let digests: [_; GROUP] = array::from_fn(|place| {
            let id = claimed[place].filter(|&id| tokens.fetch(id, guard))?;
            Some((id, secret::digest(token(place)?)))
        });
        let found = digests.map(|digest| {
            let (id, digest) = digest?;
            Some((tokens.at_hand(id, guard)?, digest))
        });
        tokens.hits(found.iter().flatten().map(|&(token, _)| token));
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
