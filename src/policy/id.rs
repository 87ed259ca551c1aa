//! Ids: 128-bit UUIDs (version 7, so that they sort by creation), written with a prefix that says
//! what they name and 22 base-62 digits. Outside this file they are opaque.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Digits of base 62 that hold any 128-bit number.
pub const BASE62_U128: usize = 22;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `value` as exactly `out.len()` base-62 digits, most significant first.
/// Digits that do not fit are lost, so callers size `out` for the type they write.
pub fn write_base62(mut value: u128, out: &mut [u8]) {
    // Ten digits at a time: 62^10 fits a u64, whose division is far cheaper than a u128's.
    const CHUNK: u128 = 62u128.pow(10);
    for chunk in out.rchunks_mut(10) {
        let mut low = (value % CHUNK) as u64;
        value /= CHUNK;
        for digit in chunk.iter_mut().rev() {
            *digit = DIGITS[(low % 62) as usize];
            low /= 62;
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
    let mut value = 0u128;
    for chunk in digits.chunks(10) {
        let mut low = 0u64;
        let mut scale = 1u64;
        for &digit in chunk {
            let digit = VALUES[usize::from(digit)];
            if digit == INVALID {
                return None;
            }
            low = low * 62 + u64::from(digit);
            scale *= 62;
        }
        value = value.checked_mul(u128::from(scale))?.checked_add(u128::from(low))?;
    }
    Some(value)
}

/// A string that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a {kind} id: those are {prefix} and 22 letters and digits")]
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

            /// The same as `to_string`, in one allocation: answers carry it.
            pub fn text(&self) -> String {
                let mut digits = [0u8; BASE62_U128];
                write_base62(self.0.as_u128(), &mut digits);
                let mut text = String::with_capacity($prefix.len() + BASE62_U128);
                text.push_str($prefix);
                // Base-62 digits are ASCII.
                text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
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
