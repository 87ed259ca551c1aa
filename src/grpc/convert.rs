//! Domain values as messages, and back.

use std::time::Duration;

use prost::Message;

use super::proto as pb;
use super::status::item_error;
use crate::audit::ChainPoint;
use crate::model::{
    Account, ActiveCatalog, AuditChain, AuditEvent, Credential, Denial, LeakOutcome,
    LeakedCredential, Notice, NoticeState, PendingAction, Role, SeenAddress, Token, UseCount,
};
use crate::policy::client_source::{ClientSource, ClientSourceFields, HeaderName};
use crate::policy::decide::Reason;
use crate::policy::lifecycle::Uses;
use crate::policy::network::Cidr;
use crate::policy::scope::{Access, Scope};
use crate::policy::time::Timestamp;
use crate::policy::token::{
    AccountRestriction, PendingActionType, RequestedExpiry, TokenKind, TokenState,
};
use crate::service::activity::{DenialChange, DenialFix, EntryUse, TokenUsage};
use crate::service::credentials::{AskedRole, account_of};
use crate::service::explain::{describe, granted, names};
use crate::service::import::{ImportToken, Imported, ImportedToken};
use crate::service::lists::{PAGE_BYTES, PageItem};
use crate::service::replacements::Proposal;
use crate::service::tokens::{Described, TokenFields};
use crate::service::validate::FieldErrors;
use crate::service::{Caller, Error, LifecycleView, Propagation, Result};

pub(super) mod preview;
mod webhook;

pub(super) use webhook::webhook;

pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.to_seconds_nanos();
    prost_types::Timestamp { seconds, nanos }
}

/// A message as an item of a page.
pub(super) fn item<M: Message>(item: M) -> PageItem<M> {
    let bytes = size(&item);
    PageItem { item, bytes }
}

/// The bytes of a message as an item of a list: its field's key, which is one byte for the first 15 numbers, its
/// length, and itself.
fn size(item: &impl Message) -> usize {
    let length = item.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

/// The first of `items`, as many as have [`PAGE_BYTES`] together, and at least one: for a list within an answer,
/// which has no pages.
fn first<M: Message>(items: impl IntoIterator<Item = M>) -> Vec<M> {
    let mut left = PAGE_BYTES;
    let mut first = Vec::new();
    for item in items {
        match left.checked_sub(size(&item)) {
            Some(rest) => left = rest,
            None if first.is_empty() => left = 0,
            None => break,
        }
        first.push(item);
    }
    first
}

/// An instant of a request.
///
/// # Errors
/// [`Error::Invalid`] where it is outside what the contract's timestamps can be.
pub(super) fn instant(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>> {
    /// What `google.protobuf.Timestamp` allows, in seconds.
    const YEARS_1_TO_9999: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let Some(time) = time else { return Ok(None) };
    Some(time.seconds)
        .filter(|seconds| YEARS_1_TO_9999.contains(seconds))
        .and_then(|seconds| Timestamp::from_seconds_nanos(seconds, time.nanos))
        .map(Some)
        .ok_or_else(|| Error::invalid(field, "NOT_A_TIME", "is no time from year 1 to 9999"))
}

/// The expiry that a request asks for.
///
/// # Errors
/// [`Error::Invalid`] for both forms at once, and for what is no time or no length.
pub(super) fn requested_expiry(
    expire_time: Option<prost_types::Timestamp>,
    ttl: Option<prost_types::Duration>,
) -> Result<Option<RequestedExpiry>> {
    let Some(ttl) = ttl else {
        return Ok(instant("expire_time", expire_time)?.map(RequestedExpiry::At));
    };
    if expire_time.is_some() {
        let text = "does not go with expire_time: name one of them";
        return Err(Error::invalid("ttl", "NOT_TOGETHER", text));
    }
    match length("ttl", ttl)? {
        Duration::ZERO => {
            let text = "is 0: name a length; DeleteToken ends a token now";
            Err(Error::invalid("ttl.seconds", "NOT_A_LENGTH", text))
        }
        length => Ok(Some(RequestedExpiry::After(length))),
    }
}

/// A length of time of a request, 0 included.
///
/// # Errors
/// [`Error::Invalid`] where it is negative, or no length.
pub(super) fn length(field: &str, length: prost_types::Duration) -> Result<Duration> {
    // Not by `Duration::try_from`, which panics on the most negative one and takes mixed signs.
    let refused = |part, text| Err(Error::invalid(format!("{field}.{part}"), "NOT_A_LENGTH", text));
    let Ok(seconds) = u64::try_from(length.seconds) else {
        return refused("seconds", "is negative: name a length from now on");
    };
    let nanos = u32::try_from(length.nanos).ok().filter(|&nanos| nanos < 1_000_000_000);
    let Some(nanos) = nanos else { return refused("nanos", "is not from 0 to 999999999") };
    Ok(Duration::new(seconds, nanos))
}

pub(super) fn reason(reason: Reason) -> pb::Reason {
    match reason {
        Reason::Allowed => pb::Reason::Allowed,
        Reason::TokenMalformed => pb::Reason::TokenMalformed,
        Reason::TokenNotFound => pb::Reason::TokenNotFound,
        Reason::TokenDeleted => pb::Reason::TokenDeleted,
        Reason::TokenDeletedUnused => pb::Reason::TokenDeletedUnused,
        Reason::TokenRevokedLeaked => pb::Reason::TokenRevokedLeaked,
        Reason::TokenExpired => pb::Reason::TokenExpired,
        Reason::AccountSuspended => pb::Reason::AccountSuspended,
        Reason::NoMatchingRoute => pb::Reason::NoMatchingRoute,
        Reason::RequestAmbiguous => pb::Reason::RequestAmbiguous,
        Reason::ScopeNotGranted => pb::Reason::ScopeNotGranted,
        Reason::ScopeLostInDowngrade => pb::Reason::ScopeLostInDowngrade,
        Reason::WhitelistRequired => pb::Reason::WhitelistRequired,
        Reason::ClientIpMissing => pb::Reason::ClientIpMissing,
        Reason::ClientIpNotWhitelisted => pb::Reason::ClientIpNotWhitelisted,
    }
}

/// The state of a token, its expiry aside, and when it was deleted or revoked.
pub(super) fn token_state(state: TokenState) -> (pb::TokenState, Option<Timestamp>) {
    match state {
        TokenState::Active => (pb::TokenState::Active, None),
        TokenState::Deleted { at } => (pb::TokenState::Deleted, Some(at)),
        TokenState::DeletedUnused { at } => (pb::TokenState::DeletedUnused, Some(at)),
        TokenState::RevokedLeaked { at } => (pb::TokenState::RevokedLeaked, Some(at)),
    }
}

pub(super) fn leak_outcome(outcome: LeakOutcome) -> pb::LeakReportResult {
    use pb::LeakReportOutcome as Outcome;
    match outcome {
        LeakOutcome::Unknown => {
            pb::LeakReportResult { outcome: Outcome::Unknown.into(), ..Default::default() }
        }
        LeakOutcome::Token { id, account_id, revoked, .. } => {
            let outcome = if revoked { Outcome::Revoked } else { Outcome::AlreadyEnded };
            pb::LeakReportResult {
                outcome: outcome.into(),
                token_id: id.to_string(),
                account_id: account_id.to_string(),
                credential_id: String::new(),
            }
        }
        LeakOutcome::Credential { id, role, outcome } => {
            let outcome = match outcome {
                LeakedCredential::Revoked => Outcome::Revoked,
                LeakedCredential::RevokedBefore => Outcome::AlreadyEnded,
                LeakedCredential::LastOperator => Outcome::LastOperator,
            };
            pb::LeakReportResult {
                outcome: outcome.into(),
                token_id: String::new(),
                account_id: account_of(role).map(|id| id.to_string()).unwrap_or_default(),
                credential_id: id.to_string(),
            }
        }
    }
}

pub(super) fn action_type(action: PendingActionType) -> pb::PendingActionType {
    match action {
        PendingActionType::Downgrade => pb::PendingActionType::Downgrade,
        PendingActionType::Deletion => pb::PendingActionType::Deletion,
    }
}

/// A type to filter by; an unknown number is an error, not "all".
///
/// # Errors
/// [`Error::Invalid`] for a number that this version does not know.
pub(super) fn asked_action_type(number: i32) -> Result<Option<PendingActionType>> {
    match pb::PendingActionType::try_from(number) {
        Ok(pb::PendingActionType::Unspecified) => Ok(None),
        Ok(pb::PendingActionType::Downgrade) => Ok(Some(PendingActionType::Downgrade)),
        Ok(pb::PendingActionType::Deletion) => Ok(Some(PendingActionType::Deletion)),
        Err(_) => Err(Error::invalid("type", "UNKNOWN_VALUE", "is no PendingActionType")),
    }
}

pub(super) fn kind(kind: TokenKind) -> pb::TokenKind {
    match kind {
        TokenKind::ReadOnly => pb::TokenKind::ReadOnly,
        TokenKind::ReadWrite => pb::TokenKind::ReadWrite,
        TokenKind::Custom => pb::TokenKind::Custom,
    }
}

/// The kind that was asked for; `None` for none and for a number that this version does not know.
pub(super) fn asked_kind(number: i32) -> Option<TokenKind> {
    match pb::TokenKind::try_from(number) {
        Ok(pb::TokenKind::ReadOnly) => Some(TokenKind::ReadOnly),
        Ok(pb::TokenKind::ReadWrite) => Some(TokenKind::ReadWrite),
        Ok(pb::TokenKind::Custom) => Some(TokenKind::Custom),
        Ok(pb::TokenKind::Unspecified) | Err(_) => None,
    }
}

/// The role that was asked for.
pub(super) fn asked_role(number: i32) -> AskedRole {
    match pb::Role::try_from(number) {
        Ok(pb::Role::Pep) => AskedRole::Pep,
        Ok(pb::Role::AccountAdmin) => AskedRole::AccountAdmin,
        Ok(pb::Role::Operator) => AskedRole::Operator,
        Ok(pb::Role::Unspecified) | Err(_) => AskedRole::Unspecified,
    }
}

pub(super) fn entries(entries: &[Cidr]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

pub(super) fn propagation(propagation: Propagation) -> pb::Propagation {
    pb::Propagation {
        complete: propagation.complete,
        complete_by_time: Some(time(propagation.complete_by)),
    }
}

pub(super) fn account(account: Account) -> pb::Account {
    let state = match account.restriction() {
        None => pb::AccountState::Active,
        Some(AccountRestriction::Suspended { .. }) => pb::AccountState::Suspended,
        Some(AccountRestriction::Closed { .. }) => pb::AccountState::Closed,
    };
    pb::Account {
        account_id: account.id.to_string(),
        name: account.name,
        admin_emails: account.admins,
        create_time: Some(time(account.created)),
        state: state.into(),
        suspend_time: account.suspended.map(time),
        close_time: account.closed.map(time),
    }
}

pub(super) fn credential(credential: Credential) -> pb::Credential {
    let role = match credential.role {
        Role::Pep => pb::Role::Pep,
        Role::AccountAdmin(_) => pb::Role::AccountAdmin,
        Role::Operator => pb::Role::Operator,
    };
    pb::Credential {
        credential_id: credential.id.to_string(),
        role: role.into(),
        account_id: account_of(credential.role).map(|id| id.to_string()).unwrap_or_default(),
        name: credential.name,
        create_time: Some(time(credential.created)),
        expire_time: credential.expires.map(time),
        last_use_time: credential.last_use.map(time),
        revoke_time: credential.revoked.map(time),
        from_settings: credential.from_settings,
        client_source: credential.client_source.map(|source| client_source(&source)),
        client_certificate_sha256s: credential
            .client_certificates
            .iter()
            .map(|certificate| certificate.as_bytes().to_vec())
            .collect(),
    }
}

fn client_source(source: &ClientSource) -> pb::ClientSource {
    let name = |header: &Option<HeaderName>| header.as_ref().map(ToString::to_string);
    pb::ClientSource {
        address_header: name(&source.address_header).unwrap_or_default(),
        trusted_proxies: source.trusted_proxies.entries().map(ToString::to_string).collect(),
        token_header: name(&source.token_header).unwrap_or_default(),
        method_header: name(&source.method_header).unwrap_or_default(),
        uri_header: name(&source.uri_header).unwrap_or_default(),
        forward_token: Some(source.forward_token),
    }
}

/// A client source as it was asked for.
pub(super) fn client_source_fields(source: &pb::ClientSource) -> ClientSourceFields<'_> {
    ClientSourceFields {
        address_header: &source.address_header,
        trusted_proxies: &source.trusted_proxies,
        token_header: &source.token_header,
        method_header: &source.method_header,
        uri_header: &source.uri_header,
        forward_token: source.forward_token.unwrap_or(true),
    }
}

pub(super) fn scope(scope: &Scope) -> pb::Scope {
    let access = match scope.access {
        Access::Read => pb::Access::Read,
        Access::Write => pb::Access::Write,
    };
    pb::Scope {
        name: scope.name.to_string(),
        access: access.into(),
        requires_whitelist: scope.requires_whitelist,
        description: scope.description.to_string(),
        routes: scope.routes.iter().map(ToString::to_string).collect(),
    }
}

fn taken(token: &Token, in_force: &ActiveCatalog) -> Vec<pb::TakenScopes> {
    token
        .taken
        .chunk_by(|(_, a), (_, b)| a == b)
        .map(|together| pb::TakenScopes {
            scopes: names(in_force, together.iter().map(|&(id, _)| id)),
            take_time: together.first().map(|&(_, at)| time(at)),
        })
        .collect()
}

pub(super) fn described(described: Described) -> pb::Token {
    token(described.token, &described.in_force, &described.outlook)
}

/// The latest, by name. Of scopes that were dropped there may be any number.
fn scope_uses(uses: &Uses, in_force: &ActiveCatalog) -> Vec<pb::ScopeUse> {
    const MOST: usize = 10_000;
    let mut latest = uses.scopes.clone();
    if latest.len() > MOST {
        latest.sort_unstable_by_key(|&(_, at)| std::cmp::Reverse(at));
        latest.truncate(MOST);
    }
    let used = latest.into_iter().filter_map(|(id, at)| {
        let scope = in_force.name_of(id)?.to_string();
        Some(pb::ScopeUse { scope, last_use_time: Some(time(at)) })
    });
    let mut used: Vec<_> = used.collect();
    used.sort_unstable_by(|a, b| a.scope.cmp(&b.scope));
    used
}

pub(super) fn token(token: Token, in_force: &ActiveCatalog, outlook: &LifecycleView) -> pb::Token {
    let granted = granted(&token, in_force, outlook.calendar.now);
    let granted_scopes = names(in_force, granted.map(|scope| scope.id));
    pb::Token { granted_scopes, ..token_without_scopes(token, in_force, outlook) }
}

/// Without its `granted_scopes`, which are most of a token.
fn token_without_scopes(
    mut token: Token,
    in_force: &ActiveCatalog,
    outlook: &LifecycleView,
) -> pb::Token {
    let calendar = &outlook.calendar;
    token.pending.sort_by_key(|action| (action.live().effective(calendar), action.id));
    let (state, deleted) = match token.state {
        TokenState::Active if token.expired(calendar.now).is_some() => {
            (pb::TokenState::Expired, None)
        }
        state => token_state(state),
    };
    pb::Token {
        token_id: token.id.to_string(),
        account_id: token.account_id.to_string(),
        kind: kind(token.kind).into(),
        state: state.into(),
        granted_scopes: Vec::new(),
        taken: taken(&token, in_force),
        whitelist: entries(token.whitelist.entries()),
        whitelist_version: token.whitelist_version,
        create_time: Some(time(token.created)),
        last_use_time: token.uses.last.map(time),
        scope_uses: scope_uses(&token.uses, in_force),
        delete_time: deleted.map(time),
        expire_time: token.expires.map(time),
        expiry_notices: token.expiry_notices.into_iter().map(notice).collect(),
        replaces_token_id: token.replaces.map(|id| id.to_string()).unwrap_or_default(),
        replaced_by_token_id: token.replaced_by.map(|id| id.to_string()).unwrap_or_default(),
        import_time: token.imported.map(time),
        pending_actions: first(
            token.pending.into_iter().map(|action| pending_action(action, in_force, outlook)),
        ),
        labels: token.labels.into_iter().collect(),
        name: token.name,
        recent_addresses: Vec::new(),
    }
}

pub(super) fn seen_address(seen: SeenAddress) -> pb::SeenAddress {
    pb::SeenAddress {
        address: seen.address.to_string(),
        first_time: Some(time(seen.first)),
        last_time: Some(time(seen.last)),
    }
}

pub(super) fn entry_use(used: EntryUse) -> pb::WhitelistEntryUse {
    pb::WhitelistEntryUse {
        entry: used.entry.to_string(),
        last_match_time: used.last_match.map(time),
        unmatched: used.unmatched,
    }
}

pub(super) fn denial(denial: Denial, fix: DenialFix, in_force: &ActiveCatalog) -> pb::Denial {
    let denied = denial.denied;
    let change = fix.change.map(|change| match change {
        DenialChange::AddAddress(address) => {
            pb::denial_fix::Change::AddAddress(address.to_string())
        }
        DenialChange::ReplaceWithScope(scope) => pb::denial_fix::Change::ReplaceWithScope(scope),
    });
    let scope = denied.scope_id.and_then(|scope| in_force.name_of(scope));
    pb::Denial {
        token_id: denied.token_id.to_string(),
        account_id: denied.account_id.to_string(),
        reason: denied.reason.map_or(pb::Reason::Unspecified, reason).into(),
        client_ip: denied.address.map(|address| address.to_string()).unwrap_or_default(),
        scope: scope.map(ToString::to_string).unwrap_or_default(),
        operation: denied.operation,
        hour: Some(time(Timestamp::of_hour(denied.hour))),
        count: i64::try_from(denied.count).unwrap_or(i64::MAX),
        first_time: Some(time(denied.first)),
        last_time: Some(time(denied.last)),
        others: denied.reason.is_none(),
        fix: Some(pb::DenialFix { change, text: fix.text }),
    }
}

pub(super) fn token_usage(usage: TokenUsage) -> pb::GetTokenUsageResponse {
    let TokenUsage { counts, since, in_force } = usage;
    let day = |count: UseCount| {
        Some(pb::TokenUsageDay {
            day: Timestamp::of_day(count.day).to_iso_day(),
            scope: in_force.name_of(count.scope_id)?.to_string(),
            count: i64::try_from(count.count).unwrap_or(i64::MAX),
        })
    };
    let mut days: Vec<_> = counts.into_iter().filter_map(day).collect();
    days.sort_by(|a, b| b.day.cmp(&a.day).then_with(|| a.scope.cmp(&b.scope)));
    pb::GetTokenUsageResponse { days, start_day: since.to_iso_day() }
}

pub(super) fn proposal(proposal: Proposal, in_force: &ActiveCatalog) -> pb::ReplacementProposal {
    pb::ReplacementProposal {
        scopes: names(in_force, proposal.used),
        unused_scopes: names(in_force, proposal.unused),
        start_time: Some(time(proposal.since)),
        recent_addresses: proposal.addresses.into_iter().map(seen_address).collect(),
    }
}

/// A token that is to be imported.
pub(super) fn import_token(token: &pb::ImportToken) -> ImportToken<'_> {
    let mut errors = FieldErrors::default();
    let mut instant = |field, at| errors.take(instant(field, at)).flatten();
    let created = instant("create_time", token.create_time);
    let last_use = instant("last_use_time", token.last_use_time);
    let expires = instant("expire_time", token.expire_time).map(RequestedExpiry::At);
    let fields = TokenFields {
        name: &token.name,
        kind: asked_kind(token.kind),
        scopes: &token.scopes,
        whitelist: &token.whitelist,
        expires,
    };
    ImportToken { fields, digest: &token.secret_sha256, created, last_use, errors }
}

pub(super) fn imported(
    imported: Imported,
    validate_only: bool,
    revision: i64,
) -> pb::ImportTokensResponse {
    let Imported { results, in_force, outlook, propagation: propagated } = imported;
    let result = |result: Result<ImportedToken>| match result {
        Ok(ImportedToken { token: imported, already_existed }) => {
            // A thousand of them with all their scopes are more than clients take.
            let mut shown = token_without_scopes(imported, &in_force, &outlook);
            if validate_only && !already_existed {
                shown.token_id.clear();
            }
            if already_existed {
                shown.whitelist.clear();
            }
            let result = Some(pb::import_token_result::Result::Token(shown));
            pb::ImportTokenResult { result, already_existed }
        }
        Err(error) => pb::ImportTokenResult {
            result: Some(pb::import_token_result::Result::Error(item_error(&error))),
            already_existed: false,
        },
    };
    pb::ImportTokensResponse {
        results: results.into_iter().map(result).collect(),
        propagation: propagated.map(propagation),
        revision,
    }
}

fn notice(notice: Notice) -> pb::Notice {
    let (state, accepted, failure) = match notice.state {
        NoticeState::Queued => (pb::NoticeState::Queued, None, String::new()),
        NoticeState::Accepted(at) => (pb::NoticeState::Accepted, Some(at), String::new()),
        NoticeState::Failing(why) => (pb::NoticeState::Failing, None, why),
    };
    pb::Notice {
        email: notice.email,
        state: state.into(),
        accept_time: accepted.map(time),
        failure,
    }
}

pub(super) fn pending_action(
    action: PendingAction,
    in_force: &ActiveCatalog,
    outlook: &LifecycleView,
) -> pb::PendingAction {
    let explained = describe(&action, in_force, outlook);
    pb::PendingAction {
        pending_action_id: action.id.to_string(),
        token_id: action.token_id.to_string(),
        account_id: action.account_id.to_string(),
        r#type: action_type(action.action()).into(),
        why: explained.why,
        how_to_keep: explained.how_to_keep,
        held_because: explained.held_because.unwrap_or_default(),
        scopes_taken: explained.taken,
        scopes_kept: explained.kept,
        last_use_time: action.last_use.map(time),
        last_use_time_of_taken: action.last_use_of_taken.map(time),
        notices: action.notices.into_iter().map(notice).collect(),
        effective_time: Some(time(explained.effective)),
        create_time: Some(time(action.created)),
    }
}

pub(super) fn audit_chain(chain: AuditChain) -> pb::AuditChain {
    let point = |point: ChainPoint| pb::AuditChainPoint {
        revision: point.revision,
        hash: point.hash.to_string(),
    };
    pb::AuditChain {
        installation_id: chain.installation_id,
        begin: Some(point(chain.begin)),
        head: Some(point(chain.head)),
    }
}

pub(super) fn audit_event(event: AuditEvent, caller: &Caller) -> pb::AuditEvent {
    let hash = event.hash.filter(|_| caller.only().is_none());
    pb::AuditEvent {
        revision: caller.shown_revision(event.position),
        time: Some(time(event.time)),
        action: event.action.as_str().to_owned(),
        actor: event.actor,
        actor_role: event.actor_role,
        client_address: event.client.unwrap_or_default(),
        account_id: event.account_id.map(|id| id.to_string()).unwrap_or_default(),
        token_id: event.token_id.map(|id| id.to_string()).unwrap_or_default(),
        before_json: event.before.unwrap_or_default(),
        after_json: event.after.unwrap_or_default(),
        hash: hash.map(|hash| hash.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::StoredCatalog;
    use crate::policy::id::{AccountId, PendingActionId, TokenId};
    use crate::policy::lifecycle::{ActionEffect, Calendar, Settings};
    use crate::policy::network::Whitelist;
    use crate::policy::scope::ScopeId;

    const DAY: i64 = 24 * 60 * 60 * 1_000_000;

    fn day(n: i64) -> Timestamp {
        Timestamp(n * DAY)
    }

    fn action(id: u128, takes: ActionEffect, basis: i64, accepted: Option<i64>) -> PendingAction {
        let state = accepted.map_or(NoticeState::Queued, |on| NoticeState::Accepted(day(on)));
        PendingAction {
            id: PendingActionId(Uuid::from_u128(id)),
            token_id: TokenId(Uuid::nil()),
            token_name: String::new(),
            account_id: AccountId(Uuid::nil()),
            takes,
            taken: vec![ScopeId(2)],
            kept: vec![ScopeId(1)],
            last_use: None,
            last_use_of_taken: None,
            basis: day(basis),
            accepted: accepted.map(day),
            created: day(38),
            notices: vec![Notice { email: "zoe@acme.test".into(), state }],
        }
    }

    /// A catalogue of two scopes, of which the second has that access.
    fn in_force(access: &str) -> ActiveCatalog {
        let toml = format!(
            "[[scope]]\nname = \"zeta\"\naccess = \"read\"\n\
             [[scope]]\nname = \"alpha\"\naccess = \"{access}\"\n"
        );
        let scope_ids =
            vec![("zeta".parse().unwrap(), ScopeId(1)), ("alpha".parse().unwrap(), ScopeId(2))];
        let stored = StoredCatalog { version: 1, toml, applied: day(0), scope_ids };
        ActiveCatalog::read(stored).unwrap()
    }

    /// What a downgrade would have taken and the catalogue spares by now is nothing to use.
    #[test]
    fn what_became_a_read_scope_stays() {
        let calendar = Calendar { settings: Settings::default(), now: day(40) };
        let outlook = LifecycleView { calendar, mails: true };
        for (access, taken, kept) in
            [("write", &["alpha"][..], &["zeta"][..]), ("read", &[], &["alpha", "zeta"])]
        {
            let action = action(1, ActionEffect::Writes, 3, Some(38));
            let shown = pending_action(action, &in_force(access), &outlook);
            assert_eq!(shown.scopes_taken, taken);
            assert_eq!(shown.scopes_kept, kept);
            assert_eq!(shown.how_to_keep.contains("alpha"), access == "write", "{shown:?}");
        }
    }

    #[test]
    fn a_list_within_an_answer_ends_at_its_bytes_and_has_one_item_at_least() {
        let scope = |bytes| pb::Scope { description: "x".repeat(bytes), ..Default::default() };
        for (sizes, kept) in [
            (&[][..], 0),
            (&[PAGE_BYTES * 2, 1], 1),
            (&[PAGE_BYTES / 2, PAGE_BYTES / 3, PAGE_BYTES / 3], 2),
            (&[PAGE_BYTES / 2, PAGE_BYTES / 3, 1, 1], 4),
        ] {
            assert_eq!(first(sizes.iter().map(|&bytes| scope(bytes))).len(), kept, "{sizes:?}");
        }
    }

    /// Scopes that were dropped from the catalogue may be many more than it can have.
    #[test]
    fn a_token_shows_its_latest_uses() {
        let name = |id: u16| format!("scope.{id:05}");
        let number = 20_000;
        let scope_ids = (0..number).map(|id| (name(id).parse().unwrap(), ScopeId(id))).collect();
        let toml = "[[scope]]\nname = \"scope.00000\"\naccess = \"read\"\n".to_owned();
        let stored = StoredCatalog { version: 1, toml, applied: day(0), scope_ids };
        let mut uses = Uses::default();
        (0..number).for_each(|id| uses.note(ScopeId(id), false, day(id.into())));
        let shown = scope_uses(&uses, &ActiveCatalog::read(stored).unwrap());
        assert_eq!(shown.len(), 10_000);
        assert_eq!((&shown[0].scope, &shown[9_999].scope), (&name(10_000), &name(19_999)));
    }

    /// Dates follow from the calendar, and order what is pending; uses have the names of scopes.
    #[test]
    fn a_token_shows_its_uses_and_what_comes_first() {
        let in_force = in_force("write");
        let mut uses = Uses::default();
        uses.note(ScopeId(1), false, day(10));
        uses.note(ScopeId(2), true, day(3));
        let shown = Token {
            labels: Default::default(),
            id: TokenId(Uuid::nil()),
            account_id: AccountId(Uuid::nil()),
            name: "t".into(),
            state: TokenState::Active,
            expires: None,
            imported: None,
            kind: TokenKind::ReadWrite,
            downgraded: None,
            scopes: Vec::new(),
            taken: Vec::new(),
            whitelist: Whitelist::Unrestricted,
            whitelist_version: 1,
            created: day(0),
            clock_start: day(0),
            replaces: None,
            replaced_by: None,
            uses,
            pending: vec![
                action(1, ActionEffect::Token, 10, None),
                action(2, ActionEffect::Writes, 3, Some(41)),
            ],
            expiry_notices: Vec::new(),
        };
        let calendar = Calendar { settings: Settings::default(), now: day(50) };
        let shown = token(shown, &in_force, &LifecycleView { calendar, mails: true });
        assert_eq!(shown.last_use_time, Some(time(day(10))));
        let uses: Vec<_> = shown.scope_uses.iter().map(|used| used.scope.as_str()).collect();
        assert_eq!(uses, ["alpha", "zeta"]);
        assert_eq!(shown.scope_uses[0].last_use_time, Some(time(day(3))));
        let dates: Vec<_> = shown.pending_actions.iter().map(|p| p.effective_time).collect();
        // Accepted on day 41, not used since day 3; and nobody notified yet on day 50.
        assert_eq!(dates, [Some(time(day(48))), Some(time(day(57)))]);
        let first = &shown.pending_actions[0];
        assert_eq!(first.r#type, i32::from(pb::PendingActionType::Downgrade));
        assert_eq!(
            (&first.scopes_taken[..], &first.scopes_kept[..]),
            (&["alpha".to_owned()][..], &["zeta".to_owned()][..],)
        );
        assert_eq!(first.notices[0].state, i32::from(pb::NoticeState::Accepted));
        assert_eq!(first.notices[0].accept_time, Some(time(day(41))));
    }
}
