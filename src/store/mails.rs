//! The queue of mails to admins.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::model::{Context, Mail, MailFailure, MailState};
use crate::policy::id::{MailId, TokenId};
use crate::policy::time::Timestamp;

/// The queue of mails to admins.
#[async_trait]
pub trait MailStore {
    /// Mails that are to be sent at `now`: first those that did not fail for their own sake so far, the
    /// longest waiting first, so that a failing recipient holds up nobody else's. Nobody else gets them for so
    /// long as `claim`, or until [`Self::prolong_claim`] moved that to; then they are as they were.
    /// `known` is the position up to which every decision rests on the changes made: a notice is not
    /// sent before its action is known. Nor is a notice of an expiry that is not the token's any more.
    async fn claim_mails(
        &self,
        now: Timestamp,
        claim: Duration,
        known: i64,
        limit: u32,
    ) -> Result<Vec<Mail>>;

    /// Prolongs the claim on `mail` to `until`, or leaves it where it ends later: when it ends now.
    /// `None`, and nothing changed, where it is another's by now, or the mail was taken back.
    async fn prolong_claim(&self, mail: &Mail, until: Timestamp) -> Result<Option<Timestamp>>;

    /// Notes that the mail server accepted a mail, and its answer, of which at most 400 characters are kept. `ctx.now`
    /// must have been read after that answer: the notice counts from there. The token whose facts changed, where it was
    /// the last notice that an action waited for.
    async fn mail_accepted(
        &self,
        ctx: &Context,
        id: MailId,
        answer: &str,
    ) -> Result<Option<TokenId>>;

    /// Notes an attempt that failed at `now`, the next being at `next`; nothing where the claim on
    /// `mail` is another's by now. `failure` is why the mail server did not take this mail; `None` where
    /// it took none at all, which leaves a failing mail failing. A failing mail to nobody's admin is
    /// withdrawn: at once where the address is refused, else after a day of failing (docs/policy.md, 4.12).
    async fn mail_deferred(
        &self,
        now: Timestamp,
        mail: &Mail,
        next: Timestamp,
        failure: Option<MailFailure<'_>>,
    ) -> Result<()>;

    /// How the mails stand.
    async fn mail_state(&self) -> Result<MailState>;
}
