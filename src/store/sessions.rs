//! Sessions of the management page.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::model::{Context, NewSession, Session};
use crate::policy::time::Timestamp;
use crate::secret::Digest;

/// Sessions of the management page.
#[async_trait]
pub trait SessionStore {
    /// Begins a session, and forgets those whose time is over. `false`, and nothing stored, where its
    /// credential is revoked or there is none.
    async fn create_session(&self, ctx: &Context, new: &NewSession) -> Result<bool>;

    /// A session that is live at `now`: not past its end, not idle for as long as `idle`, its credential
    /// not revoked. Notes that it was seen, at most once in a tenth of `idle`, so that it may be taken for
    /// idle by so much too early; that this can't be noted is no error.
    async fn session(
        &self,
        digest: &Digest,
        now: Timestamp,
        idle: Duration,
    ) -> Result<Option<Session>>;

    /// Ends a session that is not past its end, or with `everywhere` all such sessions of its
    /// credential. How many; no record where there is none.
    async fn end_session(&self, ctx: &Context, digest: &Digest, everywhere: bool) -> Result<u64>;

    /// Notes that a form was sent in a session; `false` where it was before, or there is no such
    /// session. Whether that is live is not asked. Leaves no record.
    async fn use_form(&self, session: &Digest, form: &[u8; 16]) -> Result<bool>;
}
