//! What people read: tables, fields and notes. What stands on standard output is the answer; what
//! only explains it stands on standard error, so that a script takes the one without the other.
//!
//! Architecture invariant: text that a server sent reaches a terminal only through [`clean`]: a
//! token's name may carry escape sequences.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::failure::Failure;
use crate::grpc::proto;
use crate::policy::text::escape;

/// Writes the answer to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Writes the answer's only line to standard output.
pub(super) fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints a note for a person beside the answer, on standard error. A closed one is no error.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `text` with every character escaped that a terminal acts upon or that hides or reorders others.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    escape(text)
}

/// The most terminal columns that a cell takes, unless it is the last of its row. Names and mail addresses of
/// usual lengths fit; one huge cell must not push every row out of sight.
const WIDEST_CELL: usize = 60;
/// The most that the last cell of a row takes.
const WIDEST_LAST_CELL: usize = 1_000;

/// A table with its columns two spaces apart. Cells are as wide as a terminal shows them, and end with `…`
/// where they would take more than [`WIDEST_CELL`] or [`WIDEST_LAST_CELL`] columns: `--output json` has
/// all of it.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let most = |column: usize| if column + 1 == N { WIDEST_LAST_CELL } else { WIDEST_CELL };
    let rows: Vec<[Cow<'_, str>; N]> = rows
        .iter()
        .map(|row| {
            std::array::from_fn(|column| match row[column].as_str() {
                "" => "-".into(),
                cell => shortened(clean(cell), most(column)),
            })
        })
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].width());
        cells.chain([header[column].width()]).max().unwrap_or_default()
    });
    let mut text = String::new();
    let header = header.map(Cow::Borrowed);
    for row in std::iter::once(&header).chain(&rows) {
        let start = text.len();
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(cell);
            // Not with `{cell:width$}`, which counts characters and panics beyond 65,535.
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}

/// `text`, or as much of it as fits into `most` columns with a `…` behind it. Characters without a width stay
/// with the one before them, up to four for each column.
fn shortened(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    if text.width() <= most && text.chars().count() <= most * 4 {
        return text;
    }
    let mut width = 0;
    let fits = text.char_indices().take(most * 4).take_while(|(_, c)| {
        // The selector makes the symbol before it a wide one.
        width += c.width().unwrap_or_default() + usize::from(*c == '\u{fe0f}');
        width < most
    });
    let end = fits.last().map_or(0, |(at, c)| at + c.len_utf8());
    Cow::Owned(format!("{}…", &text[..end]))
}

/// Name and value, a line each. What is empty is left out.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let shown = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in shown() {
        let name = format!("{name}:");
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:width$}  {}", clean(value));
    }
    text
}

/// RFC 3339 in UTC, to the second; empty for an absent time.
pub(super) fn when(time: Option<&Timestamp>) -> String {
    time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Reads an RFC 3339 time. Fits clap's `value_parser`.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "is not an RFC 3339 time, such as 2026-01-31T12:00:00Z".to_owned())?;
    let nanos = time.nanosecond();
    Ok(Timestamp {
        seconds: time.unix_timestamp(),
        // Below 1,000,000,000, so it fits.
        nanos: i32::try_from(nanos).unwrap_or_default(),
    })
}

/// An enum value's name for people: `TOKEN_KIND_READ_ONLY` less `TOKEN_KIND_` is `read-only`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// Prints whether a change has propagated to every replica.
pub(super) fn note_propagation(propagation: Option<&proto::Propagation>) {
    match propagation {
        None => {}
        Some(propagation) if propagation.complete => note("in effect on every replica"),
        Some(propagation) => note(&format!(
            "not in effect on every replica yet; it is at the latest by {}",
            when(propagation.complete_by_time.as_ref())
        )),
    }
}

/// Prints that a list was cut short by its limit.
pub(super) fn note_more(next_page_token: &str) {
    if !next_page_token.is_empty() {
        note("there are more; raise --limit to see them");
    }
}

/// Shows a secret: alone on standard output, so that `$(...)` takes it and nothing else.
pub(super) fn print_secret(secret: &str) -> Result<(), Failure> {
    note("The secret follows. It is shown this once and can't be read again: keep it safe.");
    print_line(&clean(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(str::to_owned)
    }

    #[test]
    fn tables_align_and_trim() {
        let text = table(
            ["TOKEN", "NAME", "LAST USE"],
            &[row(["tok_1", "a longer name", ""]), row(["tok_22", "öß", "2026-01-01T00:00:00Z"])],
        );
        assert_eq!(
            text,
            "TOKEN   NAME           LAST USE\n\
             tok_1   a longer name  -\n\
             tok_22  öß             2026-01-01T00:00:00Z\n"
        );
    }

    #[test]
    fn table_aligns_by_what_a_terminal_shows() {
        let text = table(
            ["NAME", "ID"],
            &[row(["東京", "1"]), row(["e\u{301}", "2"]), row(["🙂", "3"]), row(["abcd", "4"])],
        );
        let columns: Vec<_> = text
            .lines()
            .map(|line| line[..line.rfind(' ').expect("two cells") + 1].width())
            .collect();
        assert_eq!(columns, [6; 5], "{text}");
    }

    #[test]
    fn table_shortens_huge_cells_of_any_content() {
        for unit in
            ["x", "東", "\u{301}", "a\u{301}", "👩\u{200d}🚀", "\u{1b}", "❤\u{fe0f}", " ", "\n"]
        {
            for count in [1, 59, 60, 61, 240, 999, 1_001, 65_535, 65_536, 200_000] {
                let huge = unit.repeat(count);
                let text = table(["A", "B"], &[row([&huge, &huge]), row(["", "b"])]);
                let line = text.lines().nth(1).expect("a row");
                assert!(line.width() <= WIDEST_CELL + 2 + WIDEST_LAST_CELL, "{unit:?} {count}");
                assert!(line.chars().count() < 5_000, "{unit:?} {count}");
                assert_eq!(text.lines().count(), 3, "{unit:?} {count}");
            }
        }
        assert_eq!(shortened("abcdef".into(), 4), "abc…");
        assert_eq!(shortened("東京都庁".into(), 6), "東京…");
        assert_eq!(shortened("e\u{301}e\u{301}e\u{301}".into(), 2), "e\u{301}…");
        assert_eq!(shortened("abc".into(), 3), "abc");
    }

    #[test]
    fn fields_align_and_skip_what_is_empty() {
        let given = [("id", "x".to_owned()), ("none", String::new()), ("longer", "y".to_owned())];
        assert_eq!(fields(&given), "id:      x\nlonger:  y\n");
        assert_eq!(fields(&[]), "");
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        assert_eq!(clean("\u{1b}[2Jhi\r\n\u{9b}1m"), "<U+001B>[2Jhi<U+000D><U+000A><U+009B>1m");
        assert_eq!(clean("a\u{202e}b\u{200b}"), "a<U+202E>b<U+200B>");
        assert!(matches!(clean("Zürich – 東京 🙂"), Cow::Borrowed(_)));
        assert!(!table(["N"], &[row(["\u{1b}]0;x\u{7}"])]).contains('\u{1b}'));
        assert!(!fields(&[("n", "\u{1b}c".to_owned())]).contains('\u{1b}'));
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = parse_time("2026-01-31T13:00:00.5+01:00").unwrap();
        assert_eq!((time.seconds, time.nanos), (1_769_860_800, 500_000_000));
        assert_eq!(when(Some(&time)), "2026-01-31T12:00:00Z");
        assert_eq!(when(None), "");
        assert!(parse_time("yesterday").unwrap_err().contains("2026-01-31T12:00:00Z"));
    }

    #[test]
    fn enum_names_read_as_words() {
        assert_eq!(word("TOKEN_KIND_READ_ONLY", "TOKEN_KIND_"), "read-only");
    }
}
