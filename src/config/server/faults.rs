//! What is wrong with the settings, collected, so that one message tells all of it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::{client, duration};
use crate::policy::text::in_quotes;

/// Every fault of the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.told())]
pub struct InvalidSettings(Vec<String>);

impl InvalidSettings {
    fn told(&self) -> String {
        match self.0.as_slice() {
            [fault] => fault.clone(),
            faults => format!("{} settings are at fault:\n  {}", faults.len(), faults.join("\n  ")),
        }
    }
}

#[derive(Default)]
pub(super) struct Faults(Vec<String>);

impl Faults {
    pub(super) fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = String>) {
        self.0.extend(faults);
    }

    pub(super) fn parse<T: FromStr>(&mut self, flag: &str, text: &str, what: &str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.add(format!("--{flag}: {} is not {what}", in_quotes(text)));
        }
        parsed
    }

    pub(super) fn number(&mut self, flag: &str, text: &str, least: u64, most: u64) -> u64 {
        let what = format!("a whole number from {least} to {most}");
        match self.parse::<u64>(flag, text, &what) {
            Some(number) if (least..=most).contains(&number) => number,
            Some(number) => {
                self.add(format!("--{flag}: {number} is not {what}"));
                least
            }
            None => least,
        }
    }

    /// A length of time, which must be longer than nothing.
    pub(super) fn duration(&mut self, flag: &str, text: &str) -> Option<Duration> {
        match duration::parse(text.trim()) {
            Ok(Duration::ZERO) => {
                self.add(format!(
                    "--{flag}: {} is no time at all: write one such as 7d or 90s",
                    in_quotes(text)
                ));
                None
            }
            Ok(duration) => Some(duration),
            Err(error) => {
                self.add(format!("--{flag}: {} {error}", in_quotes(text)));
                None
            }
        }
    }

    /// Whether a fault of `setting` was told already.
    pub(super) fn tells(&self, setting: &str) -> bool {
        self.0.iter().any(|fault| fault.starts_with(setting))
    }

    pub(super) fn settle<T>(self, value: impl FnOnce() -> Option<T>) -> Result<T, InvalidSettings> {
        if self.0.is_empty()
            && let Some(value) = value()
        {
            return Ok(value);
        }
        Err(InvalidSettings(self.0))
    }

    /// A secret from its variable or the file that its other variable names.
    pub(super) fn secret(&mut self, name: &str, file_name: &str) -> Option<SecretString> {
        let value = match env::var(name) {
            Ok(value) => Some(value),
            Err(env::VarError::NotPresent) => None,
            Err(env::VarError::NotUnicode(_)) => {
                self.add(format!("{name} is not UTF-8"));
                None
            }
        };
        let file = env::var_os(file_name).map(PathBuf::from);
        match (value, file) {
            (Some(_), Some(_)) => {
                self.add(format!("{name} and {file_name} are both set: unset one"));
                None
            }
            (Some(value), None) => Some(value.into()),
            (None, Some(path)) => match fs::read_to_string(&path) {
                Ok(text) => Some(client::without_line_end(&text).to_owned().into()),
                Err(error) => {
                    self.add(format!("{file_name}: cannot read {}: {error}", path.display()));
                    None
                }
            },
            (None, None) => None,
        }
    }
}
