//! What a mail is made of: plain values, gathered by the code that knows them.

use std::time::Duration;

use uuid::Uuid;

use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::TokenKind;

/// Everything that one mail to one recipient says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The mail's id, of which its `Message-ID` is made.
    pub id: Uuid,
    /// The recipient's mail address.
    pub to: String,
    /// Its `Date`.
    pub date: Timestamp,
    /// The account that it is about.
    pub account: Account,
    /// Everybody who is notified of the same; the recipient may be among them.
    pub notified: Vec<String>,
    /// What happened or will happen.
    pub subject: Subject,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name, as it was chosen.
    pub name: String,
}

/// What happened or will happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Something will be taken.
    Notice(Notice),
    /// Something was taken.
    CarriedOut {
        /// What, and of which token.
        action: Action,
        /// When.
        at: Timestamp,
        /// When the last admin's notice was accepted.
        noticed: Option<Timestamp>,
    },
    /// A token ends by itself.
    Expiry(Expiry),
    /// The account has other admins.
    AdminsChanged {
        /// Those it had.
        before: Vec<String>,
        /// Those it has.
        after: Vec<String>,
        /// When.
        at: Timestamp,
    },
    /// A secret was reported as leaked, and what it opens was revoked.
    Leaked {
        /// What was revoked.
        owner: LeakedOwner,
        /// What kind of place it was found in, as reported; may be empty.
        source: String,
        /// The address of that place, as reported; may be empty.
        url: String,
        /// When.
        at: Timestamp,
    },
}

/// What a leaked secret opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeakedOwner {
    /// A token.
    Token(Token),
    /// A credential of the account's admins.
    Credential {
        /// Its id.
        id: CredentialId,
        /// Its name, as it was chosen; may be empty.
        name: String,
    },
}

/// A token ends by itself, or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The token.
    pub token: Token,
    /// The scopes that it lists, where it is `CUSTOM`.
    pub scopes: Vec<String>,
    /// From when on it is denied.
    pub at: Timestamp,
    /// Whether that is over.
    pub reached: bool,
    /// The token that replaced it.
    pub replaced_by: Option<TokenId>,
    /// The longest that a new token may last, where the server limits that: a successor of this token may last that
    /// long. `None`: a successor ends no later than this token.
    pub longest: Option<Duration>,
}

/// That something will be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What, and of which token.
    pub action: Action,
    /// When, at the earliest, as far as known.
    pub effective: Timestamp,
}

/// What a pending action takes, and of which token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The token.
    pub token: Token,
    /// What kind of thing is taken.
    pub takes: Takes,
    /// The scopes that it loses: of a deletion, all that it has.
    pub lost: Vec<ScopeUse>,
    /// The scopes that it keeps: of a deletion, none.
    pub kept: Vec<ScopeUse>,
    /// When what it loses was last used, and `None` where it never was.
    pub last_use_of_lost: Option<Timestamp>,
    /// After how long without use this happens.
    pub window: Duration,
}

/// What kind of thing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// The token: it is deleted.
    Token,
    /// All that writes: `READ_WRITE` becomes `READ_ONLY`.
    Writes,
    /// Some scopes of a `CUSTOM` token.
    Scopes,
}

/// A token. Its secret is known to nobody here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Its name, as it was chosen; may be empty.
    pub name: String,
    /// Its kind before anything is taken.
    pub kind: TokenKind,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last used, for whatever.
    pub last_use: Option<Timestamp>,
}

/// A scope, and when it was last used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeUse {
    /// Its name.
    pub scope: String,
    /// When a request for it was last allowed.
    pub last_use: Option<Timestamp>,
}
