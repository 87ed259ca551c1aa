//! Mail addresses in canonical form: one mailbox, one text.
//!
//! Must stay true: what [`Address`] shows parses to the same `Address`, and no character of it is
//! invisible. Rule 1.1 of docs/policy.md.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use icu_normalizer::ComposingNormalizerBorrowed;
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use crate::policy::text;

/// The longest mail address, in bytes (RFC 5321, section 4.5.3.1.3, less the brackets).
pub const MAX_ADDRESS: usize = 254;

/// A mail address.
///
/// The domain is in its ASCII form (IDNA by UTS #46, non-transitional), in lower case and without a
/// final dot. The local part, before the `@`, is in Unicode's form NFC and in the case in which it was
/// written, which may matter to its mail server (RFC 5321, section 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    local: String,
    domain: String,
}

/// Why a text is no mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Longer than [`MAX_ADDRESS`], as written or in canonical form.
    #[error("is longer than {MAX_ADDRESS} bytes")]
    TooLong,
    /// A character of the local part that nobody sees (rule 1.16 of docs/policy.md), or that looks like a space.
    #[error("has a hidden character (U+{:04X}) before the @: type the address again", u32::from(*.0))]
    Hidden(char),
    /// Anything else.
    #[error("is not a mail address: write one such as ada@example.com")]
    Malformed,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > MAX_ADDRESS {
            return Err(InvalidAddress::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress::Malformed)?;
        let hidden = |&c: &char| text::is_hidden(c) || (c != ' ' && c.is_whitespace());
        if let Some(hidden) = local.chars().find(hidden) {
            return Err(InvalidAddress::Hidden(hidden));
        }
        let local = ComposingNormalizerBorrowed::new_nfc().normalize(local).into_owned();
        // Few programs that a mail passes on its way take quoted local parts (RFC 5321, section 4.1.2).
        if local.contains('"') {
            return Err(InvalidAddress::Malformed);
        }
        let domain = ascii_domain(domain).ok_or(InvalidAddress::Malformed)?;
        if lettre::Address::new(&local, &domain).is_err() {
            return Err(InvalidAddress::Malformed);
        }
        if local.len() + 1 + domain.len() > MAX_ADDRESS {
            return Err(InvalidAddress::TooLong);
        }
        Ok(Self { local, domain })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl Address {
    /// What addresses of one mailbox have in common: the local part in form NFKC and in lower case.
    /// Hardly any mail server distinguishes `Ada` from `ada`, or full-width letters from others. Only for
    /// comparing: mail goes to the address as it was written.
    pub fn mailbox(&self) -> String {
        let nfkc = ComposingNormalizerBorrowed::new_nfkc();
        // Lower case can need the form again: it decomposes some letters.
        let local = nfkc.normalize(&self.local).to_lowercase();
        format!("{}@{}", nfkc.normalize(&local), self.domain)
    }
}

/// The domain in ASCII. `None` for what is none, and for an address of a host, with brackets or without.
fn ascii_domain(domain: &str) -> Option<String> {
    let length = DnsLength::VerifyAllowRootDot;
    let ascii =
        Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, length);
    let ascii = ascii.ok()?;
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
    if ascii.parse::<IpAddr>().is_ok() {
        return None;
    }
    Some(ascii.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, InvalidAddress> {
        text.parse().map(|address: Address| address.to_string())
    }

    #[test]
    fn every_spelling_of_a_domain_gives_one_address() {
        for text in [
            "joe@bücher.example",
            "joe@xn--bcher-kva.example",
            "joe@XN--BCHER-KVA.example",
            "joe@BÜCHER.Example",
            "joe@bu\u{308}cher.example",
            "joe@bücher\u{ff0e}example",
            "joe@bücher\u{3002}example",
            "joe@bücher\u{ff61}example",
            "joe@bü\u{ad}cher.example",
            "joe@bü\u{200b}cher.example",
            "joe@bü\u{fe0f}cher.example",
            "joe@bücher.example.",
            "joe@bücher.example\u{3002}",
            "joe@ｂücher.example",
        ] {
            assert_eq!(shown(text).as_deref(), Ok("joe@xn--bcher-kva.example"), "{text:?}");
        }
        assert_eq!(shown("joe@faß.example").as_deref(), Ok("joe@xn--fa-hia.example"));
        assert_eq!(shown("joe@fass.example").as_deref(), Ok("joe@fass.example"));
        assert_eq!(shown("joe@ab--cd.example").as_deref(), Ok("joe@ab--cd.example"));
        assert_eq!(shown("joe@localhost").as_deref(), Ok("joe@localhost"));
    }

    #[test]
    fn a_local_part_keeps_its_case_and_is_composed() {
        assert_eq!(shown("Joe.B+x@Acme.example").as_deref(), Ok("Joe.B+x@acme.example"));
        assert_eq!(shown("zoe\u{308}@acme.example").as_deref(), Ok("zoë@acme.example"));
    }

    #[test]
    fn a_mailbox_is_the_same_in_either_case_and_width() {
        let mailbox = |text: &str| text.parse::<Address>().unwrap().mailbox();
        let joe = mailbox("joe@acme.example");
        for same in ["Joe@acme.example", "JOE@ACME.EXAMPLE."] {
            assert_eq!(mailbox(same), joe);
        }
        assert_eq!(mailbox("ZOË@acme.example"), mailbox("zoe\u{308}@acme.example"));
        assert_eq!(mailbox("\u{ff4a}oe@acme.example"), joe);
        for other in ["joe@acme.example.com", "j.oe@acme.example", "joe+x@acme.example"] {
            assert_ne!(mailbox(other), joe);
        }
    }

    #[test]
    fn invisible_characters_of_a_local_part_are_named() {
        for c in [
            '\0',
            '\t',
            '\u{7f}',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{2000}',
            '\u{200b}',
            '\u{200d}',
            '\u{2028}',
            '\u{202e}',
            '\u{2060}',
            '\u{2065}',
            '\u{3000}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ] {
            let error = shown(&format!("jo{c}e@acme.example")).unwrap_err();
            assert_eq!(error, InvalidAddress::Hidden(c));
        }
        let text = InvalidAddress::Hidden('\u{ad}').to_string();
        assert!(text.contains("(U+00AD)"), "{text}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "joe",
            "@acme.example",
            "joe@",
            "joe@.",
            "joe@.example",
            "joe@acme..example",
            "joe@acme.example..",
            "joe@acme.example,ann@acme.example",
            "joe@acme example",
            "joe@acme\u{202e}.example",
            "joe@acme_.example",
            "joe@xn--a",
            "joe@\u{ad}",
            "joe@[192.0.2.1]",
            "joe@192.0.2.1",
            "joe@2001:db8::1",
            "\"joe\"@acme.example",
            "\"j@e\"@acme.example",
            "ann@joe@acme.example",
            "joe..b@acme.example",
            "Joe <joe@acme.example>",
            &format!("joe@{}.example", "x".repeat(64)),
            &format!("{}@acme.example", "x".repeat(65)),
        ] {
            assert_eq!(shown(text), Err(InvalidAddress::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_length_counts_as_written_and_in_canonical_form() {
        let domain = |last: usize| {
            let label = "x".repeat(63);
            format!("{label}.{label}.{label}.{}", "y".repeat(last))
        };
        assert!(shown(&format!("{}@{}", "j", domain(60))).is_ok());
        assert_eq!(shown(&format!("{}@{}", "jo", domain(61))), Err(InvalidAddress::TooLong));
        // Punycode makes a short text long.
        let text = format!("{}@{}example", "j".repeat(60), "üüü.".repeat(20));
        assert!(text.len() <= MAX_ADDRESS);
        assert_eq!(shown(&text), Err(InvalidAddress::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn a_canonical_address_is_its_own_canonical_form(
            local in "[a-zA-Z0-9.ëéＪÅ]{1,12}",
            domain in "[a-zA-Z0-9.。\u{ad}üß給-]{1,16}",
        ) {
            if let Ok(address) = format!("{local}@{domain}").parse::<Address>() {
                let text = address.to_string();
                proptest::prop_assert!(address.domain.is_ascii());
                proptest::prop_assert_eq!(text.parse::<Address>(), Ok(address));
            }
        }
    }
}
