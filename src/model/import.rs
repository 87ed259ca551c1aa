//! Tokens that were issued elsewhere (docs/policy.md, section 10).

use super::{NewToken, Token};
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenState;
use crate::secret::Digest;

/// One item of an import.
#[derive(Debug, Clone)]
pub struct ImportItem {
    /// Of the secret.
    pub digest: Digest,
    /// The token to be made; `None` where the item is invalid, so that it is only looked up.
    pub new: Option<NewImport>,
}

/// A token that is about to be imported.
#[derive(Debug, Clone)]
pub struct NewImport {
    /// What a token made here has as well.
    pub token: NewToken,
    /// When it was created elsewhere.
    pub created: Timestamp,
    /// When it was last used elsewhere, as far as known.
    pub last_use: Option<Timestamp>,
}

/// What became of one item of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is a token now.
    Imported(Token),
    /// A live token of the account has this secret already. Nothing was changed.
    AlreadyExisted(Token),
    /// It is refused.
    Refused(ImportRefused),
    /// The item was invalid, and nothing has this secret.
    NotFound,
}

/// Why a digest is not imported. Rules 10.5 and 10.6 of docs/policy.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportRefused {
    /// A token of the account with this secret was deleted.
    Ended(TokenState),
    /// A token of the account with this secret expired then.
    Expired(Timestamp),
    /// Something else has this secret: whose it is is not said.
    InUse,
}

/// Where a list of imported tokens goes on: behind this token of this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImportPosition {
    /// The revision that the import made; 0 before the first.
    pub revision: i64,
    /// The token.
    pub token_id: TokenId,
}

impl ImportPosition {
    /// Before every imported token.
    pub const START: Self = Self { revision: 0, token_id: TokenId(uuid::Uuid::nil()) };
}
