//! Text for people: names that others chose, lines of at most 72 columns.

use std::fmt::Write as _;

use crate::policy::text::escape;

const COLUMNS: usize = 72;

/// `1 scope`, `2 scopes`.
pub(super) fn scopes(count: usize) -> String {
    format!("{count} scope{}", if count == 1 { "" } else { "s" })
}

/// On one line, with what can't be seen as its code ([`escape`]).
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // The separators of lines and paragraphs are white space too.
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&escape(word));
    }
    // Else a reader of a header would take it for an encoded word (RFC 2047), and show what it hides.
    line.replace("=?", "= ?")
}

/// At most `most` characters, the last of which says that there were more.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

/// As one word of a shell's command.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./@:+-".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Breaks lines at white space so that they have at most 72 columns where they can; what follows is
/// indented like the line, two columns more after a `- `. Lines that begin with four spaces are
/// commands and addresses, to be copied: they stay whole. Empty lines stand alone, and not at the ends.
pub(super) fn wrap(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len() + 64);
    let mut gap = false;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            gap = !wrapped.is_empty();
            continue;
        }
        if std::mem::take(&mut gap) {
            wrapped.push('\n');
        }
        if line == "--" {
            // What follows is a signature; the space is part of the mark (RFC 3676, section 4.3).
            wrapped.push_str("-- \n");
        } else if line.starts_with("    ") {
            let _ = writeln!(wrapped, "{line}");
        } else {
            wrap_line(line, &mut wrapped);
        }
    }
    wrapped
}

fn wrap_line(line: &str, into: &mut String) {
    let words = line.trim_start();
    let indent = line.len() - words.len();
    let hanging = indent + if words.starts_with("- ") { 2 } else { 0 };
    let mut column = indent;
    into.extend(std::iter::repeat_n(' ', indent));
    for (at, word) in words.split(' ').enumerate() {
        let width = word.chars().count();
        if at > 0 && column + 1 + width > COLUMNS && !word.is_empty() {
            into.push('\n');
            into.extend(std::iter::repeat_n(' ', hanging));
            column = hanging;
        } else if at > 0 {
            into.push(' ');
            column += 1;
        }
        into.push_str(word);
        column += width;
    }
    into.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        for (text, line) in [
            ("payroll", "payroll"),
            ("a\r\nBcc: x@y", "a Bcc: x@y"),
            (" a\u{2028}b\u{85}c\0d\u{202e}e \n", "a b c<U+0000>d<U+202E>e"),
            ("\u{200b}", "<U+200B>"),
            ("\u{2764}\u{fe0f} a", "\u{2764}\u{fe0f} a"),
            ("=?utf-8?q?=0D=0Ax?=", "= ?utf-8?q?=0D=0Ax?="),
            ("Zoë 給与", "Zoë 給与"),
        ] {
            assert_eq!(one_line(text), line);
        }
        assert_eq!(cut("payroll", 7), "payroll");
        assert_eq!(cut("pay roll", 5), "pay…");
    }

    #[test]
    fn words_of_a_command_are_only_words() {
        for (text, word) in [
            ("payroll", "payroll"),
            ("", "''"),
            ("-x", "'-x'"),
            ("$(reboot) `x`", "'$(reboot) `x`'"),
            ("it's", r"'it'\''s'"),
            ("ä", "'ä'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn lines_are_broken_where_they_can_be() {
        let long = "word ".repeat(20);
        let text = format!("\n\n- {long}\n\n\n  {long}\n    {long}\n{}\n", "x".repeat(80));
        let wrapped = wrap(&text);
        let lines: Vec<_> = wrapped.lines().collect();
        assert_eq!(lines.len(), 7, "{wrapped}");
        assert!(lines[0].starts_with("- word") && lines[1].starts_with("  word"));
        assert_eq!(lines[2], "");
        assert!(lines[3].starts_with("  word") && lines[4].starts_with("  word"));
        assert!(lines[..5].iter().all(|line| line.len() <= COLUMNS), "{wrapped}");
        assert_eq!(lines[5].len(), 4 + 99);
        assert_eq!(lines[6].len(), 80);
    }
}
