//! Ids: 128-bit UUIDs (version 7, so that they sort by creation), written with a prefix that says
//! what they name and 22 base-62 digits. Outside this file they are opaque.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use uuid::Uuid;

/// Digits of base 62 that hold any 128-bit number.
pub const BASE62_U128: usize = 22;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `value` as exactly `out.len()` base-62 digits, most significant first.
/// Digits that do not fit are lost, so callers size `out` for the type they write.
pub fn write_base62(mut value: u128, out: &mut [u8]) {
    // Ten digits at a time: 62^10 fits a u64, whose division is far cheaper than a u128's. And two at
    // a time of those: ids are written in every answer.
    const CHUNK: u128 = 62u128.pow(10);
    const PAIRS: [[u8; 2]; 62 * 62] = {
        let mut pairs = [[0; 2]; 62 * 62];
        let mut i = 0;
        while i < pairs.len() {
            pairs[i] = [DIGITS[i / 62], DIGITS[i % 62]];
            i += 1;
        }
        pairs
    };
    for chunk in out.rchunks_mut(10) {
        let rest = value / CHUNK;
        let mut low = (value - rest * CHUNK) as u64;
        value = rest;
        for digits in chunk.rchunks_mut(2) {
            let pair = PAIRS[(low % (62 * 62)) as usize];
            low /= 62 * 62;
            digits.copy_from_slice(&pair[2 - digits.len()..]);
        }
    }
}

/// Reads base-62 digits; `None` for any other byte or a number above `u128::MAX`.
pub fn read_base62(digits: &[u8]) -> Option<u128> {
    const INVALID: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let mut table = [INVALID; 256];
        let mut i = 0;
        while i < DIGITS.len() {
            table[DIGITS[i] as usize] = i as u8;
            i += 1;
        }
        table
    };
    // Ten digits at a time, as they are written, and two of those at once.
    let mut value = 0u128;
    for chunk in digits.chunks(10) {
        let mut low = 0u64;
        let mut scale = 1u64;
        // Only what is no digit has its highest bit set.
        let mut seen = 0u8;
        for digits in chunk.chunks(2) {
            let (pair, base) = match *digits {
                [a, b] => {
                    let (a, b) = (VALUES[usize::from(a)], VALUES[usize::from(b)]);
                    seen |= a | b;
                    (u64::from(a) * 62 + u64::from(b), 62 * 62)
                }
                _ => {
                    let digit = VALUES[usize::from(digits[0])];
                    seen |= digit;
                    (u64::from(digit), 62)
                }
            };
            low = low * base + pair;
            scale *= base;
        }
        if seen & 0x80 != 0 {
            return None;
        }
        value = value.checked_mul(u128::from(scale))?.checked_add(u128::from(low))?;
    }
    Some(value)
}

/// A string that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no {kind} id: those are {prefix} and 22 letters and digits")]
pub struct InvalidId {
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Appends the same as `to_string` gives.
            pub fn write(&self, out: &mut Vec<u8>) {
                let mut digits = [0u8; BASE62_U128];
                write_base62(self.0.as_u128(), &mut digits);
                out.extend_from_slice($prefix.as_bytes());
                out.extend_from_slice(&digits);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = Vec::with_capacity($prefix.len() + BASE62_U128);
                self.write(&mut text);
                // Base-62 digits are ASCII.
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.len() == BASE62_U128)
                    .and_then(|digits| read_base62(digits.as_bytes()))
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or(InvalidId { kind: $kind, prefix: $prefix })
            }
        }
    };
}

id!(
    /// Names a token; safe to show, unlike its secret.
    TokenId, "token", "tok_"
);
id!(
    /// Names an account.
    AccountId, "account", "acc_"
);
id!(
    /// Names a credential of a caller.
    CredentialId, "credential", "crd_"
);
id!(
    /// Names a pending action.
    PendingActionId, "pending action", "act_"
);
id!(
    /// Names a mail; its Message-ID is made of it.
    MailId, "mail", "mail_"
);

id!(
    /// Names the denials of one hour that are shown together.
    DenialId, "denial", "den_"
);

id!(
    /// Names a webhook.
    WebhookId, "webhook", "whk_"
);

/// An id with its text, made once: every answer shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RenderedId<Id> {
    id: Id,
    text: [u8; WRITTEN],
}

const WRITTEN: usize = 4 + BASE62_U128;

impl<Id> RenderedId<Id> {
    /// The same as `to_string` gives.
    pub fn text(&self) -> &[u8] {
        &self.text
    }
}

impl<Id> Deref for RenderedId<Id> {
    type Target = Id;

    fn deref(&self) -> &Id {
        &self.id
    }
}

impl<Id: fmt::Debug> fmt::Debug for RenderedId<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

macro_rules! written {
    ($($name:ident),*) => {$(
        impl From<$name> for RenderedId<$name> {
            fn from(id: $name) -> Self {
                let mut text = [0; WRITTEN];
                let (prefix, digits) = text.split_at_mut($name::PREFIX.len());
                prefix.copy_from_slice($name::PREFIX.as_bytes());
                write_base62(id.0.as_u128(), digits);
                Self { id, text }
            }
        }
    )*};
}

written!(TokenId, AccountId, CredentialId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back(value: u128) {
            let id = TokenId(Uuid::from_u128(value));
            let text = id.to_string();
            prop_assert_eq!(text.len(), 4 + BASE62_U128);
            prop_assert_eq!(text.parse::<TokenId>(), Ok(id));
            prop_assert!(text.parse::<AccountId>().is_err());
            let written = RenderedId::from(id);
            prop_assert_eq!(written.text(), text.as_bytes());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<TokenId>();
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_no_id() {
        assert!("tok_zzzzzzzzzzzzzzzzzzzzzz".parse::<TokenId>().is_err());
    }
}
