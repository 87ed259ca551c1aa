//! Why a call did nothing. A denial is not in here: it is an answer.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::policy::decide::Reason;
use crate::store::StoreError;

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field as the contract names it, such as `whitelist[2]`.
    pub field: String,
    /// What is wrong, and the cure.
    pub description: String,
    /// A stable word for machines.
    pub reason: &'static str,
}

/// A rule that stands in the way of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable word for machines.
    pub rule: &'static str,
    /// What it is about, such as `tokens/tok_...`.
    pub subject: String,
    /// The rule and the cure.
    pub description: String,
}

/// Why a call did nothing. Rule 2.20 of docs/policy.md.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is at error: every bad field.
    #[error("{}", Sentences(.0))]
    Invalid(Vec<Violation>),
    /// Rules stand in the way, with the fields that ran into them.
    #[error("{}", Obstacles(.0))]
    Refused(Vec<Obstacle>, Vec<Violation>),
    /// No such thing, or none that the caller may see.
    #[error("no {kind} {id}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// Somebody else was faster: read again, then decide again.
    #[error("{0}")]
    Aborted(String),
    /// No credential, or a wrong one.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The bearer of a token is denied an own call, for the reason that a decision would have.
    #[error("{message}")]
    TokenDenied {
        /// Why.
        reason: Reason,
        /// The same in a sentence with the cure.
        message: Cow<'static, str>,
    },
    /// Too many secrets that were no token's came from one address.
    #[error("too many attempts from this address have failed: wait, or send a valid token")]
    TooManyFailures {
        /// When the address has a fresh number of them at the latest.
        retry: Duration,
    },
    /// The caller's role does not reach this far.
    #[error("{0}")]
    Forbidden(String),
    /// Nothing can be said now; asking again later may help.
    #[error("{why}")]
    Unavailable {
        /// In words for the caller.
        why: &'static str,
        /// When to ask again.
        retry: Duration,
    },
    /// The store gave no answer to the last word of a change.
    #[error(
        "the store did not answer in time, and whether the change was made is not known: read, then \
         decide"
    )]
    OutcomeUnknown,
    /// The change is made, and some replica may decide on what was before it still.
    #[error(
        "the change is made and stays, and it is not known yet whether every replica decides on it; \
         a replica may be out of reach: repeat the call, which waits again"
    )]
    NotPropagatedYet,
    /// The request is larger than any may be, in bytes.
    #[error("the request is larger than {0} bytes")]
    TooLarge(usize),
    /// The server has no such call.
    #[error("the server has no such call; reflection lists those it has")]
    UnknownCall,
    /// The request is compressed in a way that is not read here.
    #[error(
        "the request is compressed in a way that this server does not read: send it as it is, or in gzip where \
         grpc-accept-encoding of this answer names that"
    )]
    Compressed,
    /// Too much is under way.
    #[error("too many requests are under way; try again later")]
    Overloaded,
    /// It took longer than a call may.
    #[error(
        "the call took too long: if it asked for a decision, deny; if it was to change something, \
         read whether that is done before you ask again"
    )]
    DeadlineExceeded,
    /// An error of this program. The cause goes to the log, never to the caller.
    #[error("internal error; the server's log has the cause")]
    Internal,
}

impl Error {
    /// One bad field.
    pub fn invalid(
        field: impl Into<String>,
        reason: &'static str,
        description: impl fmt::Display,
    ) -> Self {
        Self::Invalid(vec![Violation {
            field: field.into(),
            description: description.to_string(),
            reason,
        }])
    }

    /// One rule in the way.
    pub fn refused(
        rule: &'static str,
        subject: impl Into<String>,
        description: impl fmt::Display,
    ) -> Self {
        let obstacle =
            Obstacle { rule, subject: subject.into(), description: description.to_string() };
        Self::Refused(vec![obstacle], Vec::new())
    }
}

impl From<StoreError> for Error {
    /// Logs the cause, which callers never see.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                // The store has logged that this began: a line for each call would bury the log.
                tracing::debug!(cause = ?error, "the store gave no answer");
                Self::Unavailable {
                    why: error.trouble().map_or("the store gave no answer; try again", |trouble| {
                        trouble.for_callers()
                    }),
                    retry: Duration::from_secs(1),
                }
            }
            StoreError::Unknown(cause) => {
                tracing::warn!(%cause, "whether a change was made is not known");
                Self::OutcomeUnknown
            }
            StoreError::StaleCatalog => Self::Unavailable {
                why: "the catalogue is being replaced; try again",
                retry: Duration::from_millis(100),
            },
            StoreError::Internal(cause) => {
                tracing::error!(%cause, "the store answered what it should not");
                Self::Internal
            }
        }
    }
}

struct Sentences<'a>(&'a [Violation]);

impl fmt::Display for Sentences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, violation) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { "; " };
            // An error of the whole request names no field.
            let colon = if violation.field.is_empty() { "" } else { ": " };
            write!(f, "{gap}{}{colon}{}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

struct Obstacles<'a>(&'a [Obstacle]);

impl fmt::Display for Obstacles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, obstacle) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { "; " };
            write!(f, "{gap}{}", obstacle.description)?;
        }
        Ok(())
    }
}
