//! What the store says of a mail, as the templates want it.

use std::time::Duration;

use crate::mail::{self, Facts, LeakedOwner, Notice, ScopeUse, Subject};
use crate::model::{Mail, MailAction, MailContent, MailSecretOwner, MailToken};
use crate::policy::lifecycle::{self, ActionEffect, Calendar};
use crate::policy::scope::ScopeName;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenKind;

/// Everything that `mail` says when it is sent now. `longest` is how long a new token may last, where that is bounded.
pub(super) fn of(mail: &Mail, calendar: &Calendar, longest: Option<Duration>) -> Facts {
    let settings = &calendar.settings;
    let subject = match &mail.content {
        MailContent::Notice(token, announced) => Subject::Notice(Notice {
            effective: lifecycle::effective(
                settings,
                announced.basis,
                announced.accepted,
                calendar.now,
            ),
            action: action(token, announced, calendar),
        }),
        MailContent::CarriedOut(token, announced) => Subject::CarriedOut {
            at: announced.ended.unwrap_or(mail.created),
            noticed: announced.accepted,
            action: action(token, announced, calendar),
        },
        MailContent::ExpiryNotice(token, at) => Subject::Expiry(expiry(token, *at, false, longest)),
        MailContent::Expired(token, at) => Subject::Expiry(expiry(token, *at, true, longest)),
        MailContent::AdminsChanged { before, after } => Subject::AdminsChanged {
            before: before.clone(),
            after: after.clone(),
            at: mail.created,
        },
        MailContent::Leaked(owner, location) => Subject::Leaked {
            owner: match owner {
                MailSecretOwner::Token(of) => LeakedOwner::Token(shown(of, of.kind)),
                MailSecretOwner::Credential { id, name } => {
                    LeakedOwner::Credential { id: *id, name: name.clone() }
                }
            },
            source: location.source.clone(),
            url: location.url.clone(),
            at: mail.created,
        },
    };
    Facts {
        id: mail.id.0,
        to: mail.recipient.clone(),
        date: mail.created,
        account: mail::Account { id: mail.account.id, name: mail.account.name.clone() },
        notified: mail.account.admins.clone(),
        subject,
    }
}

fn expiry(
    token: &MailToken,
    at: Timestamp,
    reached: bool,
    longest: Option<Duration>,
) -> mail::Expiry {
    let scopes = token.scopes.iter().map(ToString::to_string).collect();
    mail::Expiry {
        token: shown(token, token.kind),
        scopes,
        at,
        reached,
        replaced_by: token.replaced_by,
        longest,
    }
}

fn shown(token: &MailToken, kind: TokenKind) -> mail::Token {
    mail::Token {
        id: token.id,
        name: token.name.clone(),
        kind,
        created: token.created,
        last_use: token.last_use,
    }
}

fn action(of: &MailToken, announced: &MailAction, calendar: &Calendar) -> mail::Action {
    let uses = |names: &[ScopeName]| {
        let last = |name: &ScopeName| {
            let place = of.uses.binary_search_by(|(used, _)| used.cmp(name)).ok();
            place.map(|place| of.uses[place].1)
        };
        let used = |name: &ScopeName| ScopeUse { scope: name.to_string(), last_use: last(name) };
        names.iter().map(used).collect()
    };
    let (takes, kind) = match announced.takes {
        ActionEffect::Token => (mail::Takes::Token, of.kind),
        // By the time of the second mail it reads as READ_ONLY.
        ActionEffect::Writes => (mail::Takes::Writes, TokenKind::ReadWrite),
        ActionEffect::Scopes(_) => (mail::Takes::Scopes, of.kind),
    };
    mail::Action {
        token: shown(of, kind),
        takes,
        lost: uses(&announced.taken),
        kept: uses(&announced.kept),
        last_use_of_lost: announced.last_use_of_taken,
        window: calendar.settings.window(),
    }
}
