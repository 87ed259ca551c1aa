//! What leaked secrets open, and the end of it.

use serde_json::json;
use uuid::Uuid;

use super::change::WriteTx;
use super::mail::{self, MailSubject, MailedOwner};
use super::token::{self, Ending};
use super::{Handle, IDS_AT_ONCE, QueryBuilder, account, credential, decode};
use crate::model::{
    AuditAction, Context, Invalidation, LeakLocation, LeakOutcome, LeakedCredential, SecretOwner,
};
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::token::TokenState;
use crate::secret::Digest;
use crate::store::Result;

const SELECT_TOKENS: &str = "SELECT digest, token_id FROM token WHERE digest IN (";

const SELECT_CREDENTIALS: &str = "SELECT digest, credential_id FROM credential WHERE digest IN (";

pub(super) async fn owners(
    store: &Handle,
    digests: &[Digest],
) -> Result<Vec<(Digest, SecretOwner)>> {
    let mut owners = Vec::new();
    for digests in digests.chunks(IDS_AT_ONCE) {
        for (select, owner) in [
            (SELECT_TOKENS, (|id| SecretOwner::Token(TokenId(id))) as fn(Uuid) -> SecretOwner),
            (SELECT_CREDENTIALS, |id| SecretOwner::Credential(CredentialId(id))),
        ] {
            let mut query = QueryBuilder::new(select);
            let mut list = query.separated(", ");
            for digest in digests {
                list.push_bind(digest.to_vec());
            }
            query.push(")");
            let rows: Vec<(Vec<u8>, Uuid)> =
                query.build_query_as().persistent(false).fetch_all(&store.read()).await?;
            for (digest, id) in rows {
                owners.push((decode::digest(&digest)?, owner(id)));
            }
        }
    }
    Ok(owners)
}

/// Rules 11.50 and 11.54 of docs/policy.md.
pub(super) async fn revoke(
    store: &Handle,
    ctx: &Context,
    owner: SecretOwner,
    location: &LeakLocation,
) -> Result<LeakOutcome> {
    match owner {
        SecretOwner::Token(id) => revoke_token(store, ctx, id, location).await,
        SecretOwner::Credential(id) => revoke_credential(store, ctx, id, location).await,
    }
}

async fn revoke_token(
    store: &Handle,
    ctx: &Context,
    id: TokenId,
    location: &LeakLocation,
) -> Result<LeakOutcome> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut token) = token::find(&mut change.tx, id, None).await? else {
        change.undo().await;
        return Ok(LeakOutcome::Unknown);
    };
    let account_id = token.account_id;
    let outcome = |state, revoked| LeakOutcome::Token { id, account_id, state, revoked };
    // Rule 11.52 of docs/policy.md.
    let state = token::current_state(&mut change.tx, &token).await?;
    if state != TokenState::Active {
        change.finish().await?;
        return Ok(outcome(state, false));
    }
    let record = token::end(&mut change, &mut token, Ending::Leak(location)).await?;
    queue_mails(&mut change, account_id, &MailedOwner::Token(id), location).await?;
    change.commit(record).await?;
    Ok(outcome(token.state, true))
}

async fn revoke_credential(
    store: &Handle,
    ctx: &Context,
    id: CredentialId,
    location: &LeakLocation,
) -> Result<LeakOutcome> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(credential) = credential::by_id(&mut change.tx, id).await? else {
        change.undo().await;
        return Ok(LeakOutcome::Unknown);
    };
    let role = credential.role;
    let outcome = |outcome| LeakOutcome::Credential { id, role, outcome };
    if credential.revoked.is_some() {
        change.finish().await?;
        return Ok(outcome(LeakedCredential::RevokedBefore));
    }
    let summary = |state| {
        let mut summary = credential::summary(&credential, state);
        summary["source"] = json!(location.source);
        summary["url"] = json!(location.url);
        summary
    };
    // Rule 11.54 of docs/policy.md.
    if credential::is_last_operator(&mut change.tx, &credential).await? {
        let action = AuditAction::CredentialReportLeaked;
        let mut record = credential::record(action, &credential, None, summary("live"));
        record.touched = Invalidation::Nothing;
        change.commit(record).await?;
        return Ok(outcome(LeakedCredential::LastOperator));
    }
    credential::set_revoked(&mut change.tx, id, ctx.now).await?;
    if let Some(account_id) = credential::account_of(&credential) {
        let owner = MailedOwner::Credential(&credential);
        queue_mails(&mut change, account_id, &owner, location).await?;
    }
    let before = credential::summary(&credential, "live");
    let action = AuditAction::CredentialRevokeLeaked;
    let after = summary("revoked");
    change.commit(credential::record(action, &credential, Some(before), after)).await?;
    Ok(outcome(LeakedCredential::Revoked))
}

/// Rule 11.53 of docs/policy.md.
async fn queue_mails(
    change: &mut WriteTx<'_>,
    account_id: AccountId,
    owner: &MailedOwner<'_>,
    location: &LeakLocation,
) -> Result<()> {
    let admins = account::admins(&mut change.tx, account_id).await?;
    let about = MailSubject::Leaked(owner, location);
    mail::queue(&mut change.tx, change.ctx.now, account_id, about, &admins).await
}
