//! TLS client certificates that a gateway may present instead of its credential's secret (Rule 9.20 of docs/policy.md).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The most certificates that one credential is bound to: the one in use and its successor, for two gateways.
pub const MAX_CLIENT_CERTIFICATES: usize = 4;

const PREFIX: &str = "sha256:";

/// SHA-256 of a certificate in DER. Displays as `sha256:` and lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidFingerprint> {
        Ok(Self(bytes.try_into().map_err(|_| InvalidFingerprint)?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    /// Reads hexadecimal digits of either case behind `sha256:`.
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidFingerprint)?.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| InvalidFingerprint)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

/// What is no fingerprint. Displays as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no SHA-256 of a certificate in DER: 32 bytes, written sha256: and 64 hexadecimal digits"
)]
pub struct InvalidFingerprint;

/// What is wrong with a list of fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFingerprints {
    /// There are more than [`MAX_CLIENT_CERTIFICATES`].
    #[error("has {0} entries, and {MAX_CLIENT_CERTIFICATES} are allowed")]
    TooMany(usize),
    /// The entry at this index has not 32 bytes.
    #[error("{InvalidFingerprint}")]
    Malformed(usize),
    /// The entry at this index is there before.
    #[error("is there twice: leave it out")]
    Duplicate(usize),
}

/// Reads the certificates that a credential is to be bound to, each as 32 bytes.
///
/// # Errors
/// Every entry that is wrong.
pub fn fingerprints(list: &[Vec<u8>]) -> Result<Vec<Fingerprint>, Vec<InvalidFingerprints>> {
    if list.len() > MAX_CLIENT_CERTIFICATES {
        return Err(vec![InvalidFingerprints::TooMany(list.len())]);
    }
    let (mut read, mut errors) = (Vec::with_capacity(list.len()), Vec::new());
    for (index, bytes) in list.iter().enumerate() {
        match Fingerprint::try_from(&**bytes) {
            Err(_) => errors.push(InvalidFingerprints::Malformed(index)),
            Ok(known) if read.contains(&known) => {
                errors.push(InvalidFingerprints::Duplicate(index))
            }
            Ok(new) => read.push(new),
        }
    }
    if errors.is_empty() { Ok(read) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_reads_back_as_it_is_written() {
        // `printf abc | sha256sum`
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fingerprint = Fingerprint::of(b"abc");
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().replace("SHA256", "sha256").parse(), Ok(fingerprint));
        assert_eq!(Fingerprint::try_from(fingerprint.as_bytes()), Ok(fingerprint));
        for wrong in
            ["", "sha256:", &text[7..], &text[..70], &format!("{text}0"), &text.replace("ba", "+b")]
        {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(InvalidFingerprint), "{wrong}");
        }
    }

    /// Rule 9.20 of docs/policy.md.
    #[test]
    fn list_has_up_to_four_different_fingerprints_of_32_bytes() {
        use InvalidFingerprints::{Duplicate, Malformed, TooMany};
        let list = |numbers: &[u8]| numbers.iter().map(|&n| vec![n; 32]).collect::<Vec<_>>();
        assert_eq!(fingerprints(&list(&[1, 2, 3, 4])).map(|read| read.len()), Ok(4));
        assert_eq!(fingerprints(&list(&[1, 2, 3, 4, 5])), Err(vec![TooMany(5)]));
        assert_eq!(fingerprints(&list(&[1, 2, 1])), Err(vec![Duplicate(2)]));
        let short = [vec![1; 31], vec![], vec![1; 32], vec![1; 33]];
        assert_eq!(fingerprints(&short), Err(vec![Malformed(0), Malformed(1), Malformed(3)]));
    }
}
