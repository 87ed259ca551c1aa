//! What HTML shows of any text, on pages and in mails: `askama.toml` names it for every template.
//!
//! Invariant: a text is never markup, and a character that can't be seen is shown by its code. Names that
//! were stored before such characters were refused may have them.

use std::fmt::{self, Write};

use askama::filters::{Escaper, Html};

use crate::policy::text::escape_lines;

/// Escapes as askama does, after [`escape_lines`]. The fields of forms hold what was typed, as it was:
/// in templates, `|escape("field")`.
#[derive(Debug, Clone, Copy)]
pub struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, dest: W, string: &str) -> fmt::Result {
        Html.write_escaped_str(dest, &escape_lines(string))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics fails")]

    use askama::Template;

    #[derive(Template)]
    #[template(
        source = "<p title=\"{{ name }}\">{{ name }}</p><input value=\"{{ name|escape(\"field\") }}\">",
        ext = "html"
    )]
    struct Page<'a> {
        name: &'a str,
    }

    #[test]
    fn what_is_hidden_is_shown_outside_of_fields() {
        let page = Page { name: "a\u{202e}<b>\u{200b}\n" }.render().unwrap();
        let shown = "a&#60;U+202E&#62;&#60;b&#62;&#60;U+200B&#62;\n";
        let typed = "a\u{202e}&#60;b&#62;\u{200b}\n";
        assert_eq!(page, format!("<p title=\"{shown}\">{shown}</p><input value=\"{typed}\">"));
    }
}
