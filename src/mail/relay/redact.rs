//! What a relay said, made fit to be shown: one line, short, and free of our password, which a relay
//! may well repeat.

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::commands::Auth;
use secrecy::{ExposeSecret as _, SecretString};

use super::endpoint::Login;
use crate::mail::text::one_line;
use crate::policy::text::is_hidden;

/// The longest text of a relay that is kept, in characters.
pub(super) const LONGEST: usize = 200;
const WITHHELD: &str = "[withheld]";

/// What must not be shown, in each form in which it was sent.
#[derive(Default)]
pub(super) struct Redactor(Vec<SecretString>);

impl Redactor {
    pub(super) fn new(login: Option<&Login>) -> Self {
        let Some(login) = login else {
            return Self::default();
        };
        let password = login.password.expose_secret();
        let credentials = Credentials::new(login.user.clone(), password.to_owned());
        let sent = [(Mechanism::Plain, None), (Mechanism::Login, Some("Password:".to_owned()))]
            .into_iter()
            .filter_map(|(mechanism, challenge)| {
                Auth::new(mechanism, credentials.clone(), challenge).ok()
            })
            .filter_map(|command| {
                // `AUTH PLAIN ...`, or the answer to a challenge alone.
                command.to_string().split_whitespace().last().map(str::to_owned)
            });
        let mut forms: Vec<SecretString> =
            sent.chain([password.to_owned(), readable(password)]).map(SecretString::from).collect();
        forms.retain(|form| !form.expose_secret().is_empty());
        forms.sort_by_key(|form| std::cmp::Reverse(form.expose_secret().len()));
        Self(forms)
    }

    /// `text` on one line, without what must not be shown, and cut.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = readable(text);
        for form in &self.0 {
            text = text.replace(form.expose_secret(), WITHHELD);
        }
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => {
                text.truncate(end);
                text
            }
            None => text,
        }
    }
}

/// `text` on one line, without what can't be seen: between the characters of a password, that would keep
/// it from being found.
fn readable(text: &str) -> String {
    let seen: String = text.chars().filter(|&c| c.is_whitespace() || !is_hidden(c)).collect();
    one_line(&seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_short_line() {
        let redactor = Redactor::default();
        assert_eq!(redactor.redact("no\r\nsuch\tuser\u{1b}[31m \u{202e}x"), "no such user[31m x");
        assert_eq!(redactor.redact(&"ä".repeat(300)), "ä".repeat(200));
    }

    #[test]
    fn a_password_that_is_repeated_is_withheld() {
        let login = Login { user: "u".into(), password: "s3cret".to_owned().into() };
        let redactor = Redactor::new(Some(&login));
        // The password, that of AUTH LOGIN, and that of AUTH PLAIN.
        let text = redactor.redact("bad s3cret, s3\0cret, czNjcmV0 and AHUAczNjcmV0");
        assert_eq!(text, "bad [withheld], [withheld], [withheld] and [withheld]");
    }
}
