//! The mails that wait to be sent, with everything that a template needs, as plain values.

use super::LeakLocation;
use crate::policy::id::{AccountId, CredentialId, MailId, PendingActionId, TokenId};
use crate::policy::lifecycle::ActionEffect;
use crate::policy::scope::ScopeName;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenKind;

/// A mail that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its id, the same at every attempt.
    pub id: MailId,
    /// To whom.
    pub recipient: String,
    /// When it was queued.
    pub created: Timestamp,
    /// How often it was tried before.
    pub attempts: u32,
    /// Whether the mail server refused this mail when it last said anything about it.
    pub failing: bool,
    /// Until when nobody else gets it. The next claim moves this on, so it also shows whose
    /// claim it is.
    pub claimed: Timestamp,
    /// The account it is about.
    pub account: MailAccount,
    /// What it says.
    pub content: MailContent,
}

/// What a mail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailContent {
    /// Something is going to be taken.
    Notice(MailToken, MailAction),
    /// Something was taken.
    CarriedOut(MailToken, MailAction),
    /// The token expires at this instant.
    ExpiryNotice(MailToken, Timestamp),
    /// The token expired at this instant.
    Expired(MailToken, Timestamp),
    /// The account has other admins.
    AdminsChanged {
        /// Who they were.
        before: Vec<String>,
        /// Who they are.
        after: Vec<String>,
    },
    /// A secret was reported as leaked, and what it opens was revoked.
    Leaked(MailSecretOwner, LeakLocation),
}

/// What a leaked secret opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailSecretOwner {
    /// A token of the account.
    Token(MailToken),
    /// A credential of the account's admins.
    Credential {
        /// Its id.
        id: CredentialId,
        /// A label; may be empty.
        name: String,
    },
}

/// The account that a mail is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAccount {
    /// Its id.
    pub id: AccountId,
    /// A label.
    pub name: String,
    /// Its admins now, in the order given.
    pub admins: Vec<String>,
}

/// The token that a mail is about, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailToken {
    /// Its id.
    pub id: TokenId,
    /// A label.
    pub name: String,
    /// What it reads as now.
    pub kind: TokenKind,
    /// When it was created.
    pub created: Timestamp,
    /// Its last recorded use.
    pub last_use: Option<Timestamp>,
    /// The last recorded use of each scope that was used, sorted by name.
    pub uses: Vec<(ScopeName, Timestamp)>,
    /// The token that replaced it.
    pub replaced_by: Option<TokenId>,
    /// The scopes that a `CUSTOM` token may use now, sorted by name; empty for other kinds.
    pub scopes: Vec<ScopeName>,
}

/// The action that a mail is about, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAction {
    /// Its id.
    pub id: PendingActionId,
    /// What it takes.
    pub takes: ActionEffect,
    /// The scopes it takes, sorted by name.
    pub taken: Vec<ScopeName>,
    /// The scopes that stay, sorted by name.
    pub kept: Vec<ScopeName>,
    /// What its date is counted from: see `policy::lifecycle::PendingPlan::basis`.
    pub basis: Timestamp,
    /// When the last notice of the current admins was accepted; `None` until all are.
    pub accepted: Option<Timestamp>,
    /// Last use of anything it takes when it was announced.
    pub last_use_of_taken: Option<Timestamp>,
    /// When it was announced.
    pub created: Timestamp,
    /// When it ended; of a mail about what was carried out, when that was.
    pub ended: Option<Timestamp>,
}

/// Why the mail server did not take one mail, whatever becomes of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailFailure<'a> {
    /// What the mail server said.
    pub text: &'a str,
    /// Whether it refuses the address for good, whatever the mail.
    pub address_refused: bool,
}

/// How the mails stand, for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailState {
    /// Addresses of admins that the mail server takes no mail to, or not every mail, sorted.
    pub failing: Vec<FailingAddress>,
    /// How many other mails wait.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<Timestamp>,
}

/// An admin's address that the mail server takes no mail to, or not every mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingAddress {
    /// The address.
    pub address: String,
    /// What the mail server said last.
    pub failure: String,
    /// Since when there is a mail that it does not take.
    pub since: Timestamp,
}
