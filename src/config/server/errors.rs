//! What is wrong with the settings, collected, so that one message has all of them.

use std::env;
use std::io;
use std::mem;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::client;
use crate::files;
use crate::policy::duration;
use crate::policy::text::in_quotes;

/// Every error of the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct InvalidSettings(pub(super) Vec<String>);

impl InvalidSettings {
    /// Each of them: the setting, what is wrong with it, and the cure.
    pub fn errors(&self) -> &[String] {
        &self.0
    }

    fn text(&self) -> String {
        match self.0.as_slice() {
            [error] => error.clone(),
            errors => format!("{} settings are invalid:\n  {}", errors.len(), errors.join("\n  ")),
        }
    }
}

#[derive(Default)]
pub(super) struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    pub(super) fn add(&mut self, error: impl Into<String>) {
        self.0.push(error.into());
    }

    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = String>) {
        self.0.extend(errors);
    }

    pub(super) fn parse<T: FromStr>(&mut self, flag: &str, text: &str, what: &str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.add(format!("--{flag}: {} is not {what}", in_quotes(text)));
        }
        parsed
    }

    /// The addresses that `text` stands for: one, or those of a host name, IPv4 first, since that is what
    /// clients try by default. Asks the system's resolver, which may take seconds.
    pub(super) fn addresses(&mut self, flag: &str, text: &str) -> Option<Vec<SocketAddr>> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Some(vec![address]);
        }
        let named = text.rsplit_once(':').filter(|(host, port)| {
            let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(is_name) && port.parse::<u16>().is_ok()
        });
        if named.is_none() {
            self.add(format!(
                "--{flag}: {text:?} is not an address and a port such as 127.0.0.1:50051, \
                 [::1]:50051 or localhost:50051"
            ));
            return None;
        }
        match text.to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort_by_key(SocketAddr::is_ipv6);
                addresses.dedup();
                Some(addresses)
            }
            Ok(_) => {
                self.add(format!("--{flag}: {text:?} names a host that has no address"));
                None
            }
            Err(error) => {
                self.add(format!("--{flag}: the host of {text:?} can't be resolved: {error}"));
                None
            }
        }
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

    /// Whether there is an error of `setting` already.
    pub(super) fn names(&self, setting: &str) -> bool {
        self.0.iter().any(|error| error.starts_with(setting))
    }

    pub(super) fn into_result<T>(
        self,
        value: impl FnOnce() -> Option<T>,
    ) -> Result<T, InvalidSettings> {
        if self.0.is_empty()
            && let Some(value) = value()
        {
            return Ok(value);
        }
        Err(InvalidSettings(self.0))
    }

    /// The content of the file that `flag` names.
    pub(super) fn file(&mut self, flag: &str, path: &Path) -> Option<Vec<u8>> {
        match files::read(path) {
            Ok(mut content) => Some(mem::take(&mut *content)),
            Err(error) => {
                self.add(format!("--{flag}: cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// A secret from its variable, the file that its other variable names, or else the file that the configuration
    /// file names.
    pub(super) fn secret(
        &mut self,
        name: &str,
        file_name: &str,
        configured: Option<&Path>,
    ) -> Option<SecretString> {
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
            (None, Some(path)) => self.secret_file(file_name, &path),
            (None, None) => self.secret_file(file_name, configured?),
        }
    }

    /// The secret in the file at `path`, which `file_name` names.
    pub(super) fn secret_file(&mut self, file_name: &str, path: &Path) -> Option<SecretString> {
        let read = files::read(path).and_then(|content| match std::str::from_utf8(&content) {
            Ok(text) => Ok(SecretString::from(client::without_line_end(text))),
            Err(_) => Err(io::Error::other("it is not UTF-8")),
        });
        match read {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.add(format!("{file_name}: cannot read {}: {error}", path.display()));
                None
            }
        }
    }
}

/// The file that [`ConfigErrors::secret`] reads with the same arguments; `None` where the secret comes from its
/// variable.
pub(super) fn secret_path(
    name: &str,
    file_name: &str,
    configured: Option<&Path>,
) -> Option<PathBuf> {
    if env::var_os(name).is_some() {
        return None;
    }
    env::var_os(file_name).map(PathBuf::from).or_else(|| configured.map(Path::to_owned))
}
