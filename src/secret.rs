//! The secrets of tokens and of callers' credentials: how they are written, made and checked.
//!
//! ```text
//! pcl_t1_00KgAJ0q...
//! |   ||  └ 63 base-62 digits: key number (2), id (22), randomness (22), tag (11), checksum (6)
//! |   |└ version of this layout
//! |   └ what it opens: t a token, c a credential
//! └ prefix, a setting; any earlier one stays valid
//! ```
//!
//! - The *checksum* (CRC-32 of all before it) distinguishes a mistyped secret from a deleted one, and lets
//!   secret scanners find leaked ones without asking anybody.
//! - The *tag* (HMAC-SHA-256 of all before it, cut to 64 bits, under a key that the replicas share
//!   through the store) distinguishes a forged secret from an issued one without reading the store. It is a
//!   shield for the database, not the proof: the proof is the digest.
//! - The *digest* (SHA-256 of the whole secret) is all that is kept. The 128 random bits make it safe
//!   to keep unsalted.
//!
//! Must stay true: no secret is ever printed except by [`Secret::expose`], at its creation; tags and
//! digests are compared in constant time. Rules: docs/policy.md, section 7.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::digest::Output;
use sha2::{Digest as _, Sha256};
use siphasher::sip::SipHasher24;
use subtle::{Choice, ConstantTimeEq as _};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::policy::id::{read_base62, write_base62};

mod webhook;

pub use webhook::WebhookSecret;

/// SHA-256 of a secret: what is kept of it.
pub type Digest = [u8; 32];

const KEY: usize = 2;
const ID: usize = 22;
const RANDOM: usize = 22;
const TAG: usize = 11;
const CHECKSUM: usize = 6;
const BODY: usize = KEY + ID + RANDOM + TAG + CHECKSUM;
/// `_t1_`
const MIDDLE: usize = 4;
/// The longest prefix that a setting may ask for.
pub const MAX_PREFIX: usize = 16;
/// The largest number that a key can have: two base-62 digits.
pub const MAX_KEY_NUMBER: u16 = 62 * 62 - 1;

/// What the key is made of that the ids of imported tokens are computed under. No prefix of a secret has a colon, so
/// that this is never what a tag is made of.
const IMPORTED: &[u8] = b"imported:";
/// What marks a secret as one (RFC 8959), in any case of letters.
const MARK: &[u8] = b"secret-token:";

/// A secret without the prefix of RFC 8959.
#[inline]
pub fn without_mark(text: &[u8]) -> &[u8] {
    // Each decision asks for it, and the first byte of nearly all secrets answers.
    if !matches!(text.first(), Some(b's' | b'S')) {
        return text;
    }
    match text.split_at_checked(MARK.len()) {
        Some((mark, secret)) if mark.eq_ignore_ascii_case(MARK) => secret,
        _ => text,
    }
}

/// What a secret opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A client's API token.
    Token,
    /// A caller's credential.
    Credential,
}

impl SecretKind {
    fn letter(self) -> u8 {
        match self {
            Self::Token => b't',
            Self::Credential => b'c',
        }
    }
}

/// A secret that was just made. Wiped on drop; `Debug` shows nothing of it.
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for the one answer that shows it. Rule 7.1 of docs/policy.md.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        digest(self.expose().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// SHA-256 of a presented secret. Rule 7.2 of docs/policy.md.
pub fn digest(secret: &[u8]) -> Digest {
    Sha256::digest(secret).into()
}

/// In hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two digests are equal, in constant time. Rule 2.5 of docs/policy.md.
pub fn digest_eq(a: &Digest, b: &Digest) -> bool {
    const { assert!(size_of::<Digest>().is_multiple_of(8)) };
    // By words: bytes would be looked at one by one.
    let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
    let alike = words.map(|(&a, &b)| u64::from_ne_bytes(a).ct_eq(&u64::from_ne_bytes(b)));
    alike.fold(Choice::from(1), |all, one| all & one).into()
}

/// What a new secret is made under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

/// A prefix that secrets can't begin with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is 2 to 16 lower-case letters and digits and begins with a letter")]
pub struct InvalidPrefix;

impl std::str::FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let well_formed = is_prefix(text.as_bytes()) && text.len() >= 2;
        well_formed.then(|| Self(text.to_owned())).ok_or(InvalidPrefix)
    }
}

fn is_prefix(text: &[u8]) -> bool {
    (1..=MAX_PREFIX).contains(&text.len())
        && text[0].is_ascii_lowercase()
        && text.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// A string with the shape and checksum of a secret. Not yet known to be genuine.
#[derive(Clone, Copy)]
pub struct ParsedSecret<'a> {
    /// The id that it names.
    pub id: Uuid,
    key_number: u16,
    tag: u64,
    text: &'a [u8],
}

impl fmt::Debug for ParsedSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParsedSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The id that a secret opening `opens` would name, read before anything of it is checked: where to
/// search for facts whose digest may turn out to be this text's, which then proves it whole. `None`
/// says that it is not well-formed; anything else says nothing.
pub fn peek_id(text: &[u8], opens: SecretKind) -> Option<Uuid> {
    let (_, body) = split(text, opens)?;
    Some(Uuid::from_u128(read_base62(&body[KEY..KEY + ID])?))
}

/// Whether a secret that was made here may stand in `text`, or the beginning of one: for texts that clients choose and
/// that are kept.
pub fn resembles_secret(text: &str) -> bool {
    /// Digits of a secret that are enough to take a text for one.
    const DIGITS: usize = 8;
    let bytes = text.as_bytes();
    let begins = |at: usize| {
        let marks = [SecretKind::Token, SecretKind::Credential].map(SecretKind::letter);
        let is_middle =
            matches!(bytes[at..], [b'_', letter, b'1', b'_', ..] if marks.contains(&letter));
        let digits =
            bytes[at..].iter().skip(MIDDLE).take_while(|byte| byte.is_ascii_alphanumeric());
        let before = at.checked_sub(1).map(|before| bytes[before]);
        is_middle
            && before.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && digits.take(DIGITS).count() == DIGITS
    };
    bytes.iter().enumerate().any(|(at, &byte)| byte == b'_' && begins(at))
}

/// The prefix and the digits of a text that begins as a secret does.
fn split(text: &[u8], opens: SecretKind) -> Option<(&[u8], &[u8])> {
    let prefix = text.len().checked_sub(MIDDLE + BODY)?;
    let (prefix, rest) = text.split_at(prefix);
    let (middle, body) = rest.split_at(MIDDLE);
    let begins = middle == [b'_', opens.letter(), b'1', b'_'] && is_prefix(prefix);
    begins.then_some((prefix, body))
}

impl<'a> ParsedSecret<'a> {
    /// Reads a secret that opens `opens`; `None` for a wrong shape or checksum. Any bytes may be
    /// presented as one. Does not allocate. Rule 2.2 of docs/policy.md.
    pub fn parse(text: &'a [u8], opens: SecretKind) -> Option<Self> {
        let (_, body) = split(text, opens)?;
        let (signed, checksum) = body.split_at(BODY - CHECKSUM);
        if read_base62(checksum)? != u128::from(crc32fast::hash(&text[..text.len() - CHECKSUM])) {
            return None;
        }
        let (key_number, rest) = signed.split_at(KEY);
        let (id, rest) = rest.split_at(ID);
        let (random, tag) = rest.split_at(RANDOM);
        // The randomness is not needed as a number, but must be one: each secret has one spelling.
        read_base62(random)?;
        Some(Self {
            id: Uuid::from_u128(read_base62(id)?),
            key_number: u16::try_from(read_base62(key_number)?).ok()?,
            tag: u64::try_from(read_base62(tag)?).ok()?,
            text,
        })
    }

    fn signed(&self) -> &'a [u8] {
        &self.text[..self.text.len() - TAG - CHECKSUM]
    }
}

/// A key under which tags are made. Wiped on drop; `Debug` shows its number only.
#[derive(Clone)]
pub struct SecretKey {
    /// Which key it is; stands in every secret made under it.
    pub number: u16,
    key: Zeroizing<[u8; 32]>,
}

impl SecretKey {
    /// Takes 32 random bytes as the key of that number.
    pub fn new(number: u16, key: [u8; 32]) -> Self {
        Self { number, key: Zeroizing::new(key) }
    }

    /// The key's bytes, for the store.
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, redacted)", self.number)
    }
}

/// All keys, the newest of which makes new secrets. Never empty. Rule 7.7 of docs/policy.md.
pub struct KeyRing {
    newest: u16,
    keys: BTreeMap<u16, Hmac<Sha256>>,
    /// Under a key that follows from the oldest one.
    imported: SipHasher24,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.keys()).finish()
    }
}

impl KeyRing {
    /// A ring of these keys; `None` for no key.
    pub fn new(keys: &[SecretKey]) -> Option<Self> {
        let newest = keys.iter().map(|key| key.number).max()?;
        let keys: BTreeMap<_, _> = keys
            .iter()
            .map(|key| {
                #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
                let mac = Hmac::new_from_slice(key.expose()).expect("any length");
                (key.number, mac)
            })
            .collect();
        let (_, oldest) = keys.first_key_value()?;
        let sealed = Zeroizing::new(<[u8; 32]>::from(mac(oldest, IMPORTED)));
        let imported = SipHasher24::new_with_key(sealed.first_chunk()?);
        Some(Self { newest, keys, imported })
    }

    /// Whether `secret` was made under one of these keys. False for a forged one.
    /// Rule 7.5 of docs/policy.md.
    pub fn made(&self, secret: &ParsedSecret<'_>) -> bool {
        self.keys.get(&secret.key_number).is_some_and(|key| {
            let tag = tag(key, secret.signed());
            tag.to_be_bytes().ct_eq(&secret.tag.to_be_bytes()).into()
        })
    }

    /// Eight bytes that only the holder of these keys can compute from `text`. Stays the same when keys
    /// are added.
    pub fn seal(&self, text: &[u8]) -> [u8; 8] {
        let oldest = self.keys.values().next();
        oldest.map_or([0; 8], |key| tag(key, text).to_be_bytes())
    }

    /// The random half of the id of the token that is imported with this digest, as in UUIDs of version 7: 62 bits that
    /// only the holder of these keys can compute. Stays the same when keys are added. So the id itself leads from a
    /// presented secret to its token, and discloses nothing of the digest. Rule 10.7 of docs/policy.md.
    ///
    /// SipHash-2-4, a pseudorandom function for short texts, costs a tenth of what HMAC does: every string that is
    /// none of our secrets is looked up by this.
    pub fn imported_half(&self, digest: &Digest) -> u64 {
        self.imported.hash(digest) >> 2 | 1 << 63
    }

    /// Makes the secret that opens `id`, from 128 random bits. Rules 7.3 and 7.4 of docs/policy.md.
    pub fn make(&self, opens: SecretKind, prefix: &Prefix, id: Uuid, random: &[u8; 16]) -> Secret {
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_PREFIX + MIDDLE + BODY));
        text.extend_from_slice(prefix.0.as_bytes());
        text.extend_from_slice(&[b'_', opens.letter(), b'1', b'_']);
        append::<KEY>(&mut text, u128::from(self.newest));
        append::<ID>(&mut text, id.as_u128());
        append::<RANDOM>(&mut text, u128::from_be_bytes(*random));
        if let Some(key) = self.keys.get(&self.newest) {
            let tag = tag(key, &text);
            append::<TAG>(&mut text, u128::from(tag));
        }
        let checksum = crc32fast::hash(&text);
        append::<CHECKSUM>(&mut text, u128::from(checksum));
        Secret(text.iter().map(|&b| char::from(b)).collect::<String>().into())
    }
}

fn append<const DIGITS: usize>(text: &mut Vec<u8>, value: u128) {
    let mut digits = [0u8; DIGITS];
    write_base62(value, &mut digits);
    text.extend_from_slice(&digits);
}

fn mac(key: &Hmac<Sha256>, text: &[u8]) -> Output<Sha256> {
    let mut mac = key.clone();
    mac.update(text);
    mac.finalize().into_bytes()
}

fn tag(key: &Hmac<Sha256>, signed: &[u8]) -> u64 {
    mac(key, signed).iter().take(8).fold(0, |tag, &byte| tag << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(numbers: &[u16]) -> KeyRing {
        let keys: Vec<_> =
            numbers.iter().map(|&n| SecretKey::new(n, [n as u8 ^ 0x5a; 32])).collect();
        KeyRing::new(&keys).unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn a_secret_reads_back(id: u128, random: [u8; 16], name in "[a-z][a-z0-9]{1,15}", old: bool) {
            let id = Uuid::from_u128(id);
            let secret = ring(&[0, 7]).make(SecretKind::Token, &prefix(&name), id, &random);
            let parsed = ParsedSecret::parse(secret.expose().as_bytes(), SecretKind::Token).unwrap();
            prop_assert_eq!(parsed.id, id);
            prop_assert!(digest_eq(&digest(secret.expose().as_bytes()), &secret.digest()));
            let later = if old { ring(&[0, 7, 3843]) } else { ring(&[7]) };
            prop_assert!(later.made(&parsed));
            prop_assert!(!ring(&[0]).made(&parsed));
            prop_assert!(ParsedSecret::parse(secret.expose().as_bytes(), SecretKind::Credential).is_none());
        }

        #[test]
        fn one_wrong_character_is_malformed(id: u128, random: [u8; 16], at in 0usize..70, to in "[!-~]") {
            let secret = ring(&[1]).make(SecretKind::Token, &prefix("pcl"), Uuid::from_u128(id), &random);
            let mut text = secret.expose().to_owned();
            if text[at..=at] != to {
                text.replace_range(at..=at, &to);
                prop_assert!(ParsedSecret::parse(text.as_bytes(), SecretKind::Token).is_none());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,120}") {
            prop_assert!(ParsedSecret::parse(text.as_bytes(), SecretKind::Token).is_none());
        }
    }

    #[test]
    fn digests_differ_wherever_a_bit_does() {
        let one = digest(b"a secret");
        assert!(digest_eq(&one, &digest(b"a secret")));
        for bit in 0..256 {
            let mut other = one;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!digest_eq(&one, &other), "bit {bit}");
        }
    }

    /// No two words of a digest make up for each other.
    #[test]
    fn digests_differ_wherever_two_words_do() {
        let one = digest(b"a secret");
        for (first, second) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let mut other = one;
            other[first * 8] ^= 1;
            other[second * 8] ^= 1;
            assert!(!digest_eq(&one, &other), "words {first} and {second}");
        }
    }

    /// Computed by another program, from the format alone: what is out there must stay valid.
    /// Rules 7.3 and 7.4.
    #[test]
    fn a_known_secret_is_made_and_read() {
        const KNOWN: &str =
            "pcl_t1_1c030nfGFtkahJKleJCDQwEm0UJg4EBGO3cQWJhXqJNbv5JaWllr8DuNj2LLkJZ";
        let key = SecretKey::new(100, std::array::from_fn(|at| at as u8));
        let ring = KeyRing::new(&[key]).unwrap();
        let id = Uuid::from_u128(0x0198_c0ff_ee00_7000_8000_1234_5678_9abc);
        let random = std::array::from_fn(|at| at as u8 + 16);
        let secret = ring.make(SecretKind::Token, &prefix("pcl"), id, &random);
        assert_eq!(secret.expose(), KNOWN);
        assert_eq!(peek_id(KNOWN.as_bytes(), SecretKind::Token), Some(id));
        assert_eq!(peek_id(KNOWN.as_bytes(), SecretKind::Credential), None);
        let sha256 = "98523ecc940d17d73ff96deaa7af58e6f0fcaead88a2ff5c36fadcc133a4bf0e";
        assert_eq!(hex(&digest(KNOWN.as_bytes())), sha256);
        assert_eq!(hex(&ring.seal(b"a cursor")), "00d55bb89dcdf175");
        assert_eq!(ring.imported_half(&[7; 32]), 12_008_007_175_954_878_798);
        assert_eq!(MAX_KEY_NUMBER, 3_843, "two digits");
    }

    #[test]
    fn a_forged_secret_is_well_formed_and_not_made_here() {
        let thief = KeyRing::new(&[SecretKey::new(1, [9; 32])]).unwrap();
        let forged = thief.make(SecretKind::Token, &prefix("pcl"), Uuid::from_u128(5), &[1; 16]);
        let parsed = ParsedSecret::parse(forged.expose().as_bytes(), SecretKind::Token).unwrap();
        assert!(!ring(&[1]).made(&parsed));
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret =
            ring(&[1]).make(SecretKind::Token, &prefix("pcl"), Uuid::from_u128(5), &[1; 16]);
        let parsed = ParsedSecret::parse(secret.expose().as_bytes(), SecretKind::Token).unwrap();
        let key = SecretKey::new(1, [0x41; 32]);
        let shown = format!("{secret:?} {parsed:?} {key:?} {:?}", ring(&[1]));
        assert!(!shown.contains(&secret.expose()[8..]));
        assert!(!shown.contains("65") && !shown.contains("AAAA"), "{shown}");
    }

    #[test]
    fn prefixes() {
        for good in ["pcl", "ab", "acme1", "abcdefghijklmnop"] {
            assert!(good.parse::<Prefix>().is_ok(), "{good}");
        }
        for bad in ["", "a", "1a", "Pcl", "p_l", "pcl-", "abcdefghijklmnopq"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
