//! Text that people type: which characters must not stand in it, and how a message quotes it.
//!
//! Invariant: this is the only table of characters that can't be seen or that change the direction of text.
//! Checks of names refuse them, everything that shows text (messages, pages, mails, the command line) shows
//! them as [`escape`] does, and paths are compared without those that other servers may drop.

use std::borrow::Cow;
use std::fmt::Write as _;

use icu_properties::props::{DefaultIgnorableCodePoint, Emoji, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Selects the coloured form of an emoji, such as the second character of "❤️".
const EMOJI_SELECTOR: char = '\u{fe0f}';
/// Draws a key around the character before it, such as in "1️⃣".
const KEYCAP: char = '\u{20e3}';

/// Whether `c` ends a line or controls what shows text: control characters, and the separators of lines and
/// paragraphs.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether programs may drop `c` because it is not shown: format characters, among them all that change the
/// direction of text, and what Unicode says is ignored where it can't be shown.
pub fn is_ignorable(c: char) -> bool {
    !c.is_ascii()
        && (CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::Format)
}

/// Whether `c` can't be seen, or changes how the text around it is shown (docs/policy.md, 1.16):
/// it is a control character or an ignorable one ([`is_control`], [`is_ignorable`]), has no meaning of its own
/// (private, not assigned), or is one of three symbols that most fonts draw as nothing.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    // Braille without a dot, the placeholder of an object, a note head that is not drawn.
    let drawn_as_nothing = matches!(c, '\u{2800}' | '\u{fffc}' | '\u{1d159}');
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    drawn_as_nothing
        || is_control(c)
        || is_ignorable(c)
        || matches!(
            category,
            GeneralCategory::PrivateUse | GeneralCategory::Surrogate | GeneralCategory::Unassigned
        )
}

/// Whether `c` is drawn onto the character before it.
fn is_mark(c: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    matches!(category, NonspacingMark | SpacingMark | EnclosingMark)
}

/// The characters of a text, each with whether it is hidden. A selector that makes an emoji of the
/// character before it is not: it belongs to what is seen.
fn characters(text: &str) -> impl Iterator<Item = (char, bool)> {
    let mut before = None;
    let mut rest = text.chars();
    std::iter::from_fn(move || {
        let c = rest.next()?;
        let emoji = |before: char| {
            CodePointSetData::new::<Emoji>().contains(before)
                && (!before.is_ascii() || rest.as_str().starts_with(KEYCAP))
        };
        let selects = c == EMOJI_SELECTOR && before.is_some_and(emoji);
        before = Some(c);
        Some((c, is_hidden(c) && !selects))
    })
}

/// Why a text can't be shown to people as it is. Displays as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unshowable {
    /// It has a character that [`is_hidden`].
    #[error(
        "has the character {}, which can't be seen or changes the text around it: leave it out, or type \
         the text again", code(*.0)
    )]
    Hidden(char),
    /// It begins with a character that is drawn onto the one before it.
    #[error("begins with the combining mark {}: begin with a letter, a digit or a symbol", code(*.0))]
    StoreMode(char),
}

/// Checks that every character of `text` is seen (docs/policy.md, 1.16).
///
/// # Errors
/// The first one that is not.
pub fn check(text: &str) -> Result<(), Unshowable> {
    if let Some((c, _)) = characters(text).find(|&(_, hidden)| hidden) {
        return Err(Unshowable::Hidden(c));
    }
    match text.chars().next() {
        Some(c) if is_mark(c) => Err(Unshowable::StoreMode(c)),
        _ => Ok(()),
    }
}

/// `U+202E`.
pub fn code(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// `text` with each hidden character as its code: `<U+202E>`.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_all_but(text, |_| false)
}

/// The same for a text of several lines: their ends, and tabs, stay.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_all_but(text, |c| matches!(c, '\n' | '\r' | '\t'))
}

fn escape_all_but(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hides = |&(c, hidden): &(char, bool)| hidden && !kept(c);
    if !characters(text).any(|character| hides(&character)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in characters(text) {
        push(&mut escaped, character.0, hides(&character));
    }
    Cow::Owned(escaped)
}

/// With a capital and a full stop: services speak in clauses. What begins with no plain word, such as with
/// an address or a name, stays as it is.
pub fn sentence(clause: &str) -> String {
    let first = clause.split(' ').next().unwrap_or_default();
    let mut text = clause.to_owned();
    if first.bytes().all(|b| b.is_ascii_lowercase())
        && let Some(letter) = text.get_mut(..1)
    {
        letter.make_ascii_uppercase();
    }
    if !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    text
}

/// `text` as a message repeats it: as it was typed but for [`escape`], without white space around it, and
/// cut so that it has `most` bytes, or a few more. Between quotation marks, unless it can't be taken for a
/// word of the message: letters, digits and `. : / _ -` with at least one that is no letter.
/// Rule 3.17 of docs/policy.md.
pub fn quote(text: &str, most: usize) -> String {
    let text = text.trim();
    let mut quoted = String::new();
    for (c, hidden) in characters(text) {
        if quoted.len() >= most {
            quoted.push('…');
            break;
        }
        push(&mut quoted, c, hidden);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:/_-".contains(c);
    let bare = text.chars().all(plain) && !text.chars().all(|c| c.is_ascii_alphabetic());
    if bare { quoted } else { format!("“{quoted}”") }
}

/// `text` as it was typed but for [`escape`], between straight quotation marks: for messages about settings.
pub fn in_quotes(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

fn push(text: &mut String, c: char, hidden: bool) {
    if hidden {
        // Writing to a String can't fail.
        let _ = write!(text, "<{}>", code(c));
    } else {
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One or more of each kind.
    const HIDDEN: &[char] = &[
        '\0',
        '\t',
        '\n',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{ad}',
        '\u{34f}',
        '\u{600}',
        '\u{61c}',
        '\u{115f}',
        '\u{1160}',
        '\u{17b4}',
        '\u{17b5}',
        '\u{180b}',
        '\u{180e}',
        '\u{180f}',
        '\u{200b}',
        '\u{200c}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2061}',
        '\u{2064}',
        '\u{2065}',
        '\u{2066}',
        '\u{2069}',
        '\u{206f}',
        '\u{2800}',
        '\u{3164}',
        '\u{e000}',
        '\u{fdd0}',
        '\u{fe00}',
        '\u{fe0e}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fff0}',
        '\u{fff9}',
        '\u{fffb}',
        '\u{fffc}',
        '\u{fffe}',
        '\u{ffff}',
        '\u{110bd}',
        '\u{13430}',
        '\u{1bca0}',
        '\u{1d159}',
        '\u{1d173}',
        '\u{e0001}',
        '\u{e0041}',
        '\u{e007f}',
        '\u{e0100}',
        '\u{e01ef}',
        '\u{e0fff}',
        '\u{f0000}',
        '\u{10fffd}',
        '\u{10ffff}',
    ];

    #[test]
    fn hidden_characters_are_found_wherever_they_stand() {
        for &c in HIDDEN {
            assert!(is_hidden(c), "{}", code(c));
            for text in [format!("{c}"), format!("{c}Pay"), format!("Pa{c}y"), format!("Pay{c}")] {
                assert_eq!(check(&text), Err(Unshowable::Hidden(c)), "{text:?}");
                let shown = escape(&text).into_owned();
                assert_eq!(check(&shown), Ok(()), "{shown:?}");
                assert_eq!(shown, text.replace(c, &format!("<{}>", code(c))));
            }
        }
    }

    #[test]
    fn what_people_write_is_taken_as_it_is() {
        for text in [
            "",
            "Payroll",
            "a b",
            "Zoë",
            "Zoe\u{308}",
            "給与",
            "مرتبات",
            "משכורות",
            "वेतन",
            "เงินเดือน",
            "\u{a0}a\u{3000}b",
            "1 000 € – “A/B” §5 <x> \u{fffd}",
            "\u{1f4b0}",
            "\u{2764}\u{fe0f} team",
            "1\u{fe0f}\u{20e3}",
            "\u{1f44d}\u{1f3fd}",
            "\u{1f1eb}\u{1f1f7}",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn a_selector_is_seen_on_an_emoji_alone() {
        let emoji = "\u{2764}\u{fe0f}";
        for hidden in
            ["a\u{fe0f}", "1\u{fe0f}", "1\u{fe0f} \u{20e3}", "\u{fe0f}\u{2764}", "é\u{fe0f}"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("{emoji}\u{fe0f}"), format!("{emoji}\u{200d}{emoji}")])
        {
            assert!(matches!(check(&hidden), Err(Unshowable::Hidden(_))), "{hidden:?}");
        }
    }

    #[test]
    fn a_text_begins_with_what_is_seen_by_itself() {
        for text in ["\u{301}", "\u{301}\u{302}", "\u{338}a", "\u{20e3}", "\u{903}x"] {
            assert!(matches!(check(text), Err(Unshowable::StoreMode(_))), "{text:?}");
        }
        assert_eq!(
            check("\u{301}").unwrap_err().to_string(),
            "begins with the combining mark U+0301: begin with a letter, a digit or a symbol"
        );
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(escape_lines("a\tb\r\nc"), "a\tb\r\nc");
        assert_eq!(escape_lines("a\n\u{200b}b\0"), "a\n<U+200B>b<U+0000>");
    }

    #[test]
    fn a_quotation_is_what_was_typed() {
        for (text, quoted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8::/32", "2001:DB8::/32"),
            ("api.example.com", "api.example.com"),
            (" 10.0.0.0/24\t", "10.0.0.0/24"),
            ("Office", "“Office”"),
            ("office", "“office”"),
            ("", "“”"),
            ("\"192.0.2.7\"", "“\"192.0.2.7\"”"),
            (r"a\b'c", r"“a\b'c”"),
            ("a\u{202e}b\u{1b}[31m", "“a<U+202E>b<U+001B>[31m”"),
            ("a\nb", "“a<U+000A>b”"),
            ("Zoë \u{1f512}", "“Zoë \u{1f512}”"),
        ] {
            assert_eq!(quote(text, 60), quoted, "{text:?}");
        }
        assert_eq!(quote("1234.5678", 4), "1234…");
        assert_eq!(quote(&"é".repeat(500), 6), "“ééé…”");
        assert!(quote(&"\u{10ffff}".repeat(500), 60).len() < 85);
    }
}
