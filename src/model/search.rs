//! What the management page looks tokens up by.

use crate::model::Token;
use crate::policy::id::AccountId;
use crate::policy::token::TokenKind;

/// Which tokens a search finds, and in which order. All conditions hold at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSearch {
    /// Only those of this account.
    pub account_id: Option<AccountId>,
    /// Part of a name, the letters `A` to `Z` in either case; a text that reads as a token's id is that
    /// token. Nothing in it has a meaning of its own. Empty for all.
    pub text: String,
    /// Only those that read as this kind now.
    pub kind: Option<TokenKind>,
    /// Only those in this state.
    pub show: TokenShow,
    /// Which comes first.
    pub order: TokenOrder,
}

/// Tokens in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenShow {
    /// Active ones.
    #[default]
    Active,
    /// Active ones with a pending action.
    Pending,
    /// Active ones that may be used from anywhere.
    Unrestricted,
    /// Deleted ones that are not purged yet.
    Deleted,
}

/// Which token comes first. Tokens that are equal in it are ordered by their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenOrder {
    /// Those with a pending action, by when the earliest of their actions takes effect; then the others, the
    /// longest idle first and last those that can't become idle.
    #[default]
    Attention,
    /// By name, byte by byte, `A` to `Z` taken as `a` to `z`.
    Name,
    /// Those that were never used, then the longest unused.
    LastUse,
    /// The newest.
    Created,
}

/// A page of the tokens that were looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTokens {
    /// Those on the page, in the order asked for.
    pub tokens: Vec<Token>,
    /// How many there are on all pages.
    pub total: u64,
}
