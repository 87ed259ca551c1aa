//! What another server may read a segment as (docs/policy.md, rule 2.23): it may fold Unicode and
//! case, drop what is not shown, cut an extension off, and trim dots and spaces.
//!
//! What must stay true: literals and suffixes of a catalogue are ASCII, so only what becomes ASCII is
//! distinguished; each variant is a prefix of the folded text. The memory for one segment is bounded by
//! the longest literal and the spaces in the segment, or, in a table with suffixes, by the segment.

use icu_normalizer::ComposingNormalizerBorrowed;
use smallvec::SmallVec;

use crate::policy::text::is_ignorable;

/// Stands for any character that is not ASCII even when it is folded.
const OTHER: u8 = 0x80;

/// `text` in the form in which literals are compared: NFKC, lower case, without characters that are
/// not shown, each white space as one space.
///
/// NFKC: Unicode Standard Annex 15. Case: whatever Java's `equalsIgnoreCase`, .NET or full case
/// folding take for the same letter, so the dotless and the dotted I of Turkish are `i` too.
fn fold(text: &str) -> impl Iterator<Item = u8> + '_ {
    // The dot above goes with the dotted I, which is a small i and this dot in lower case.
    let shown = text.chars().filter(|&c| !is_ignorable(c) && c != '\u{307}');
    ComposingNormalizerBorrowed::new_nfkc().normalize_iter(shown).flat_map(fold_case)
}

fn fold_case(c: char) -> impl Iterator<Item = u8> {
    let (one, many) = match c {
        '\0'..='\u{7f}' => (Some(c.to_ascii_lowercase() as u8), None),
        '\u{130}' => (Some(b'i'), None),
        c if c.is_whitespace() => (Some(b' '), None),
        c => {
            // Twice: a capital sharp s becomes a small one first, and two letters then.
            let once = c.to_uppercase().flat_map(char::to_lowercase);
            (None, Some(once.flat_map(char::to_uppercase).flat_map(char::to_lowercase)))
        }
    };
    let many = many.into_iter().flatten();
    one.into_iter().chain(many.map(|c| if c.is_ascii() { c as u8 } else { OTHER }))
}

/// Whether the NFKC form of `c`, which is not ASCII, has one of `/ \ ; ? # %`. A list, since it is
/// asked of every such character of a path; a test compares it with the library.
pub(super) fn becomes_delimiter(c: char) -> bool {
    matches!(
        c,
        '\u{37e}' | '\u{2047}'
            ..='\u{2049}'
                | '\u{2100}'
                | '\u{2101}'
                | '\u{2105}'
                | '\u{2106}'
                | '\u{fe14}'
                | '\u{fe16}'
                | '\u{fe54}'
                | '\u{fe56}'
                | '\u{fe5f}'
                | '\u{fe68}'
                | '\u{fe6a}'
                | '\u{ff03}'
                | '\u{ff05}'
                | '\u{ff0f}'
                | '\u{ff1b}'
                | '\u{ff1f}'
                | '\u{ff3c}'
    )
}

/// Whether `text` is folded to dots and spaces alone, or to nothing: `.`, `..`, and what a server
/// that trims or normalises takes for one of them or for an empty segment.
pub(super) fn is_dots(text: &str) -> bool {
    let is_dot = |byte| matches!(byte, b'.' | b' ');
    if text.is_ascii() { text.bytes().all(is_dot) } else { fold(text).all(is_dot) }
}

/// Whether `text`, which stood behind a `%`, begins with what a server that decodes again takes for
/// the rest of an escape: two hexadecimal digits, or `u` and four.
pub(super) fn is_escape(text: &str) -> bool {
    let mut folded = fold(text);
    let digits = |folded: &mut dyn Iterator<Item = u8>, count| {
        folded.take(count).filter(u8::is_ascii_hexdigit).count() == count
    };
    match folded.next() {
        Some(b'u') => digits(&mut folded, 4),
        Some(first) => first.is_ascii_hexdigit() && digits(&mut folded, 1),
        None => false,
    }
}

/// One text that a segment may be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant<'v> {
    /// Folded; what is not ASCII is [`OTHER`].
    pub(super) folded: &'v [u8],
    /// The same text as it was sent, which a server runs that cuts and does not fold; `None` where
    /// that is not known.
    pub(super) raw: Option<&'v [u8]>,
    /// Whether something at its beginning was left out that only some servers leave out.
    pub(super) shortened: bool,
}

/// Every text up to a length that a segment may be read as, folded.
#[derive(Debug)]
pub(super) struct Variants<'p> {
    /// The segment without spaces at its beginning.
    raw: &'p str,
    /// The folded segment without spaces at its beginning, as far as it matters.
    folded: SmallVec<[u8; 64]>,
    /// Whether that is all of it.
    whole: bool,
    shortened: bool,
    longest: usize,
}

impl<'p> Variants<'p> {
    /// Of `segment`, those of at most `longest` bytes.
    pub(super) fn new(segment: &'p str, longest: usize) -> Self {
        let mut folded = SmallVec::new();
        let mut whole = true;
        let raw = segment.trim_start_matches(' ');
        let mut shortened = raw.len() < segment.len();
        // What is longer ends at the first byte that is no space: whether spaces can be trimmed
        // depends on what is behind all of them.
        if segment.is_ascii() {
            let text = raw.as_bytes();
            let rest = text.iter().skip(longest).position(|&byte| byte != b' ');
            whole = rest.is_none();
            folded.extend_from_slice(&text[..rest.map_or(text.len(), |at| longest + at + 1)]);
            folded.make_ascii_lowercase();
        } else {
            let is_shown = |c: char| !is_ignorable(c) && c != '\u{307}' && !c.is_whitespace();
            shortened |= !segment.starts_with(is_shown);
            for byte in fold(segment) {
                if byte == b' ' && folded.is_empty() {
                    shortened = true;
                    continue;
                }
                folded.push(byte);
                if folded.len() > longest && byte != b' ' {
                    whole = false;
                    break;
                }
            }
        }
        Self { raw, folded, whole, shortened, longest }
    }

    /// Each once, the longest first. What is cut at a dot may be trimmed, and what is trimmed be cut
    /// again. A dot at the beginning begins a name, not an extension, unless something was left out
    /// before it: then the shortest variant is empty.
    pub(super) fn iter(&self) -> impl Iterator<Item = Variant<'_>> {
        let mut reached = self.whole;
        let mut ends = self.ends();
        let cut_to_nothing = self.shortened && self.folded.first() == Some(&b'.');
        (usize::from(!cut_to_nothing)..=self.folded.len()).rev().filter_map(move |len| {
            let end = match self.folded.get(len) {
                None => Some(self.raw.len()),
                Some(b'.') => {
                    reached = true;
                    ends.next()
                }
                Some(b' ') => ends.next(),
                Some(_) => {
                    reached = false;
                    None
                }
            };
            (reached && len <= self.longest).then(|| Variant {
                folded: &self.folded[..len],
                raw: end.map(|end| &self.raw.as_bytes()[..end]),
                shortened: self.shortened,
            })
        })
    }

    /// Whether nothing may be left of the segment, so that the path ends with a slash if it is the last
    /// one.
    pub(super) fn may_be_empty(&self) -> bool {
        let is_trimmed = |byte: &u8| matches!(byte, b'.' | b' ');
        self.iter().any(|variant| variant.folded.iter().all(is_trimmed))
    }

    /// Where the segment as it was sent has the dots and spaces that the folded one has, the last one
    /// first; nothing where it has others.
    fn ends(&self) -> impl Iterator<Item = usize> {
        let raw = if self.raw.is_ascii() { &self.raw[..self.folded.len()] } else { self.raw };
        let is_end = |byte: &u8| matches!(byte, b'.' | b' ');
        let count = |text: &[u8]| text.iter().filter(|byte| is_end(byte)).count();
        let same = raw.is_ascii() || count(raw.as_bytes()) == count(&self.folded);
        let ends = raw.bytes().enumerate().rev().filter(move |(_, byte)| same && is_end(byte));
        ends.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn variants(segment: &str) -> Vec<String> {
        let variants = Variants::new(segment, 32);
        let folded = variants.iter().map(|variant| variant.folded);
        folded.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn a_segment_has_these_variants() {
        for (segment, expected) in [
            ("export", &["export"][..]),
            ("EXPORT", &["export"]),
            ("export.json", &["export.json", "export"]),
            ("a.b.c", &["a.b.c", "a.b", "a"]),
            ("export.", &["export.", "export"]),
            ("export .json", &["export .json", "export ", "export"]),
            ("export . .", &["export . .", "export . ", "export .", "export ", "export"]),
            ("export  ", &["export  ", "export ", "export"]),
            ("a b", &["a b"]),
            ("  export", &["export"]),
            (" .a", &[".a", ""]),
            ("\u{ad}.a.b", &[".a.b", ".a", ""]),
            (".well-known", &[".well-known"]),
            ("..a", &["..a", "."]),
            ("\u{ff25}xport", &["export"]),
            ("\u{212a}ey\u{17f}", &["keys"]),
            ("o\u{fb03}ce", &["office"]),
            ("stra\u{df}e", &["strasse"]),
            ("l\u{131}st", &["list"]),
            ("L\u{130}ST", &["list"]),
            ("LI\u{307}ST", &["list"]),
            ("li\u{307}st", &["list"]),
            ("l\u{ff49}\u{307}st", &["list"]),
            ("l\u{131}\u{307}st", &["list"]),
            ("STRA\u{1e9e}E", &["strasse"]),
            ("stra\u{1e9e}e", &["strasse"]),
            ("ex\u{ad}p\u{200d}ort\u{fe0f}\u{202e}", &["export"]),
            ("export\u{a0}\u{3000}", &["export  ", "export ", "export"]),
            ("a\u{2024}b", &["a.b", "a"]),
        ] {
            assert_eq!(variants(segment), expected, "{segment:?}");
        }
    }

    #[test]
    fn what_may_be_nothing_is_found() {
        let may_be_empty = |text| Variants::new(text, 1).may_be_empty();
        for text in [" .a", "  .a.b", "\u{ad}.a", "\u{a0}.a", "\u{ad}\u{2024}a", "..a", ". .a"] {
            assert!(may_be_empty(text), "{text:?}");
        }
        for text in [".a", "a.b", " a.b", "\u{2024}a", "\u{ad}a.b", "\u{e9}.a", "a..", ". a"] {
            assert!(!may_be_empty(text), "{text:?}");
        }
    }

    #[test]
    fn long_segments_have_the_same_variants_up_to_the_limit() {
        let pad = |end: &str| format!("export{}{end}", " ".repeat(1_000));
        let short = |segment: &str| {
            let variants = Variants::new(segment, 6);
            variants.iter().map(|variant| variant.folded.to_vec()).collect::<Vec<_>>()
        };
        let export = vec![b"export".to_vec()];
        assert_eq!(short(&pad("")), export);
        assert_eq!(short(&pad(".json")), export);
        assert_eq!(short(&pad("x.json")), Vec::<Vec<u8>>::new());
        assert_eq!(short("exports"), Vec::<Vec<u8>>::new());
        assert_eq!(short("export."), export);
        assert!(Variants::new(&"\u{fdfa}".repeat(10_000), 6).folded.len() < 20);
        assert!(Variants::new(&".".repeat(10_000), 6).folded.len() < 20);
    }

    #[test]
    fn the_list_of_delimiters_is_that_of_unicode() {
        let nfkc = ComposingNormalizerBorrowed::new_nfkc();
        let others = || ('\u{80}'..=char::MAX).filter(|c| !c.is_ascii());
        let found: BTreeSet<char> = others()
            .filter(|&c| nfkc.normalize_iter(std::iter::once(c)).any(|c| "/\\;?#%".contains(c)))
            .collect();
        let listed: BTreeSet<char> = others().filter(|&c| becomes_delimiter(c)).collect();
        assert_eq!(found, listed);
        assert!(found.len() > 20);
    }

    #[test]
    fn what_is_folded_stays() {
        // Ideographs and syllables between and behind these are nothing but themselves.
        let letters = ('\u{80}'..'\u{3400}').chain('\u{f900}'..'\u{20000}');
        for c in letters.filter(|&c| !is_ignorable(c)) {
            let folded = fold(c.encode_utf8(&mut [0; 4])).filter(u8::is_ascii).collect::<Vec<_>>();
            let ascii = String::from_utf8(folded).unwrap();
            assert_eq!(fold(&ascii).collect::<Vec<_>>(), ascii.as_bytes(), "{c:?}");
        }
    }
}
