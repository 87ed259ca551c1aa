//! Mail: the notifications to the admins of an account, and the relay that carries them.
//!
//! [`Facts`] say what happened or will happen; [`render`] makes a [`Message`] of them; a [`Relay`]
//! hands it on and says what became of it. When to mail whom, and what follows from it, is decided
//! elsewhere.
//!
//! Must stay true:
//! - The same facts make the same message, byte for byte: one that is mailed again has the same
//!   `Message-ID`, so that it is shown once.
//! - Nothing but the relay's word for the message itself is [`Outcome::Accepted`], and only a permanent refusal
//!   of the recipient is [`Outcome::RecipientRefused`].
//! - What people chose (names of tokens and accounts) can't add a header, a line, a tag or a command.
//! - No secret of a token, and no password of the relay, is in a message, an error, a `Debug` or a log.

mod address;
mod facts;
mod mailbox;
mod message;
mod relay;
mod render;
mod text;

pub use address::{Address, InvalidAddress, MAX_ADDRESS};
pub use facts::{
    Account, Action, Expiry, Facts, LeakedOwner, Notice, ScopeUse, Subject, Takes, Token,
};
pub use mailbox::Mailbox;
pub use message::{InvalidSender, Message, Sender};
pub use relay::endpoint::{Endpoint, InvalidEndpoint, Security};
pub use relay::{Limits, Outcome, Relay, ReplaceableRelay};
pub use render::{InvalidPublicUrl, PublicUrl, render};
pub use text::shell_word;
