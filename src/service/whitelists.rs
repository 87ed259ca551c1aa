//! Whitelists of tokens: reading and changing them.
//!
//! Must stay true: whether a token may go without a whitelist is `policy`'s word, given inside the
//! transaction that stores the change.

use std::collections::HashSet;

use super::accounts::refused_account;
use super::error::{Obstacle, Violation};
use super::tokens::no_token;
use super::validate::{self, FieldErrors};
use super::{Caller, Error, Propagation, Result, Services, wait_unless};
use crate::model::{
    AccountRefusal, Invalidation, WhitelistChanged, WhitelistRefused, WhitelistTarget,
};
use crate::policy::id::TokenId;
use crate::policy::network::{Change, ChangeError, Cidr, Limits, MAX_ERRORS, TooMany};
use crate::replication::Wait;

/// What `ManageWhitelist` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct ManageWhitelist<'a> {
    /// The token.
    pub token_id: &'a str,
    /// Entries to add.
    pub add: &'a [String],
    /// Entries to remove.
    pub remove: &'a [String],
    /// The whole new list, and whether it may be empty.
    pub replace: Option<(&'a [String], bool)>,
    /// The version it must have.
    pub expected_version: Option<i64>,
    /// Check only.
    pub validate_only: bool,
    /// Answer before the change has propagated.
    pub no_wait: bool,
}

/// What `ManageWhitelist` answers.
#[derive(Debug)]
pub struct ManagedWhitelist {
    /// The whitelist as it stands, or would stand.
    pub outcome: WhitelistChanged,
    /// How far the change has propagated; `None` where nothing could change.
    pub propagation: Option<Propagation>,
    /// The revision of the store that includes the change; 0 where nothing could change.
    pub revision: i64,
    /// The token, where the call changed nothing and checked nothing.
    pub read_only: Option<TokenId>,
}

/// One entry of a pasted list: as it was written, and what it reads as, or what is wrong with it and the
/// cure.
pub type ReadEntry = (String, std::result::Result<Cidr, String>);

/// A list that a person pasted.
#[derive(Debug, Clone, Default)]
pub struct Pasted {
    /// What it has, each entry once, up to where its reading ended.
    pub entries: Vec<ReadEntry>,
    /// How many of them are refused.
    pub refused: usize,
    /// Whether its reading ended with the [`MAX_ERRORS`]th that is refused.
    pub ended: bool,
    /// Where it has more entries than a whitelist can: how many, and how many that is.
    pub too_many: Option<TooMany>,
}

impl Pasted {
    /// The entries that could be read.
    pub fn read(&self) -> impl Iterator<Item = Cidr> {
        self.entries.iter().filter_map(|(_, read)| read.as_ref().ok().copied())
    }

    /// As the contract takes it: however many entries it has, one text.
    pub fn texts(&self) -> Vec<String> {
        let texts: Vec<_> = self.entries.iter().map(|(text, _)| text.as_str()).collect();
        if texts.is_empty() { Vec::new() } else { vec![texts.join(",")] }
    }
}

impl Services {
    /// Reads a list that a person pasted: entries separated by commas or white space. A comment, from `#`
    /// to the end of its line, is one refused entry. The reading ends with the [`MAX_ERRORS`]th that is
    /// refused, since a list that has one is refused as a whole.
    pub fn read_entries(&self, text: &str) -> Pasted {
        let mut pasted = Pasted::default();
        let mut seen = HashSet::new();
        let items = text.lines().flat_map(|line| {
            let (list, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
            let items = list.split(|c: char| c == ',' || c.is_whitespace());
            items.chain([comment.trim_end()]).filter(|item| !item.is_empty())
        });
        for item in items {
            let entry = Cidr::parse(item, &self.limits).map_err(|error| error.to_string());
            match &entry {
                Ok(entry) if !seen.insert(*entry) => continue,
                Ok(_) => {}
                Err(_) => pasted.refused += 1,
            }
            pasted.entries.push((item.to_owned(), entry));
            if pasted.refused == MAX_ERRORS {
                pasted.ended = true;
                break;
            }
        }
        let (count, max) = (seen.len(), self.limits.max_entries);
        pasted.too_many = (count > max).then_some(TooMany { count, max });
        pasted
    }

    /// Reads or changes a token's whitelist (docs/policy.md, section 3).
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad entries, [`Error::Refused`] where a rule stands in the way,
    /// [`Error::Aborted`] for a stale version, [`Error::NotFound`] for no such token; the store's.
    pub async fn manage_whitelist(
        &self,
        caller: &Caller,
        request: ManageWhitelist<'_>,
    ) -> Result<ManagedWhitelist> {
        let (target, change) = self.whitelist_change(caller, &request)?;
        let id = target.token_id;
        let Some(change) = change else {
            return self.read_whitelist(target).await;
        };
        let (request, change) = (&request, &change);
        let attempt = move || async move {
            let ctx = caller.context(self.clock.now());
            let in_force = self.in_force()?;
            let work = self.store.change_whitelist(
                &ctx,
                &in_force.catalog,
                target,
                change,
                &self.limits,
                request.validate_only,
            );
            let outcome = if request.validate_only {
                self.writes.check("check_whitelist", work).await
            } else {
                let changed = Invalidation::Token(id);
                self.writes.commit("change_whitelist", changed, &ctx, work).await
            };
            Ok::<_, Error>(outcome.map(|outcome| (outcome, ctx)))
        };
        let (outcome, ctx) = self.writes.retry_on_stale_catalog(attempt).await?;
        match outcome.ok_or_else(|| no_token(id))? {
            Ok(outcome) => {
                let propagation = match request.validate_only {
                    true => None,
                    false => Some(self.propagation(wait_unless(request.no_wait)).await?),
                };
                Ok(ManagedWhitelist {
                    outcome,
                    propagation,
                    revision: ctx.revision(),
                    read_only: None,
                })
            }
            Err(refused) => {
                let made = matches!(refused, WhitelistRefused::Rule(ChangeError::NotPresent(_)));
                // A caller that reads that it is gone may take that for the answer to an earlier call.
                // Rule 6.4 of docs/policy.md.
                if made && !request.validate_only && !request.no_wait {
                    self.writes.await_pending_changes(&ctx).await?;
                    self.propagation(Wait::UntilComplete).await?;
                }
                Err(refusal(id, change, refused))
            }
        }
    }

    async fn read_whitelist(&self, target: WhitelistTarget) -> Result<ManagedWhitelist> {
        let id = target.token_id;
        let token = self.read("token", self.store.token(id, target.only)).await?;
        let token = token.ok_or_else(|| no_token(id))?;
        if target.expected_version.is_some_and(|version| version != token.whitelist_version) {
            return Err(stale(token.whitelist_version));
        }
        let outcome = WhitelistChanged {
            whitelist: token.whitelist,
            version: token.whitelist_version,
            still_covered_by: Vec::new(),
            changed: false,
        };
        Ok(ManagedWhitelist { outcome, propagation: None, revision: 0, read_only: Some(id) })
    }

    fn whitelist_change(
        &self,
        caller: &Caller,
        request: &ManageWhitelist<'_>,
    ) -> Result<(WhitelistTarget, Option<Change>)> {
        let mut errors = FieldErrors::default();
        let token_id = errors.take(validate::id::<TokenId>("token_id", request.token_id));
        if request.expected_version.is_some_and(|version| version < 1) {
            errors.add("expected_version", "NOT_A_VERSION", "is no version; they count from 1");
        }
        let edits = !request.add.is_empty() || !request.remove.is_empty();
        let change = match request.replace {
            Some(_) if edits => {
                errors.add(
                    "replace",
                    "TWO_CHANGES",
                    "goes without add and remove: send one or the other",
                );
                None
            }
            Some((entries, allow_any_address)) => errors
                .take(validate::entries("replace.entries", entries, &self.limits))
                .map(|entries| Change::Replace { entries, allow_any_address }),
            None if edits => {
                let add = errors.take(validate::entries("add", request.add, &self.limits));
                // What was accepted under earlier limits can still be removed.
                let remove =
                    errors.take(validate::entries("remove", request.remove, &Limits::NONE));
                add.zip(remove).map(|(add, remove)| Change::Edit { add, remove })
            }
            None => None,
        };
        errors.into_result()?;
        let target = WhitelistTarget {
            token_id: token_id.ok_or(Error::Internal)?,
            only: caller.only(),
            expected_version: request.expected_version,
        };
        Ok((target, change))
    }
}

fn refusal(id: TokenId, change: &Change, refused: WhitelistRefused) -> Error {
    let rule = match refused {
        WhitelistRefused::Stale { current } => return stale(current),
        WhitelistRefused::Deleted => {
            let text = format!("the token {id} is deleted; its whitelist can't change any more");
            return Error::refused("TOKEN_DELETED", format!("tokens/{id}"), text);
        }
        WhitelistRefused::Expired(at) => {
            let text =
                format!("the token {id} expired at {at}; its whitelist can't change any more");
            return Error::refused("TOKEN_EXPIRED", format!("tokens/{id}"), text);
        }
        WhitelistRefused::AccountSuspended(account) => {
            return refused_account(account, AccountRefusal::Suspended);
        }
        WhitelistRefused::Rule(rule) => rule,
    };
    let field = match (&rule, change) {
        (ChangeError::NotPresent(_) | ChangeError::WouldRemoveLast, _) => "remove",
        (
            ChangeError::TooMany(_) | ChangeError::SameEntryAddedAndRemoved(_),
            Change::Edit { .. },
        ) => "add",
        (_, Change::Edit { .. }) => "remove",
        (ChangeError::ReplaceNotEmptyWithAllowAny, _) => "replace.allow_any_address",
        (_, Change::Replace { .. }) => "replace.entries",
    };
    let reason = rule.reason();
    let violation = Violation { field: field.to_owned(), description: rule.to_string(), reason };
    match rule {
        // The request contradicts itself, whatever the token is like.
        ChangeError::SameEntryAddedAndRemoved(_)
        | ChangeError::EmptyReplace
        | ChangeError::ReplaceNotEmptyWithAllowAny
        | ChangeError::TooMany(_) => Error::Invalid(vec![violation]),
        // The state of the token stands in the way.
        ChangeError::NotPresent(_) | ChangeError::WouldRemoveLast | ChangeError::Required => {
            let obstacle = Obstacle {
                rule: reason,
                subject: format!("tokens/{id}"),
                description: rule.to_string(),
            };
            Error::Refused(vec![obstacle], vec![violation])
        }
    }
}

fn stale(current: i64) -> Error {
    Error::Aborted(format!(
        "somebody changed the whitelist meanwhile: it has version {current} now; read it, then \
         decide again"
    ))
}
