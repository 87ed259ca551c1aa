//! Where the relay is and how it is spoken to, read from `PORTCULLIS_SMTP_URL`. Must stay true: no
//! message and no `Debug` repeats the URL, and a password never crosses a network in plain text.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// `smtp://`: not at all.
    Plain,
    /// `smtp+starttls://`: TLS before anything is said, or no mail.
    StartTls,
    /// `smtps://`: TLS from the first byte.
    Tls,
}

/// A relay, and who is to be said to ask.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) security: Security,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Option<Login>,
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: SecretString,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("security", &self.security)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("login", &self.login.is_some())
            .finish()
    }
}

impl fmt::Display for Endpoint {
    /// `host:port`, as it stands in the rules of a firewall.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text names no relay. Never repeats the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Another scheme, no host, or no URL.
    #[error(
        "must be smtp://, smtp+starttls:// or smtps://, then user:password@ where the relay asks for \
         it, then host or host:port"
    )]
    NoUrl,
    /// More than a host.
    #[error(
        "has a path, a query or a fragment: write only host and port after the scheme, and \
         percent-encode what is special in user and password (/ is %2F, ? is %3F, # is %23)"
    )]
    More,
    /// Half a login.
    #[error(
        "has a user without a password, or the other way round: write user:password@, or neither"
    )]
    HalfLogin,
    /// Bytes that are no text.
    #[error("has a user or password that is not UTF-8 once its percent-escapes are decoded")]
    NotText,
    /// A password that anybody on the way could read.
    #[error(
        "would send its password in plain text to another host: use smtp+starttls:// or smtps://"
    )]
    PlainPassword,
}

impl Endpoint {
    /// Reads `scheme://[user:password@]host[:port]`. The port is 25 for `smtp`, 587 for
    /// `smtp+starttls` and 465 for `smtps` where none is named.
    ///
    /// # Errors
    /// What is wrong with it, and the cure.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(text.expose_secret().trim()).map_err(|_| InvalidEndpoint::NoUrl)?;
        let (security, default_port) = match url.scheme() {
            "smtp" => (Security::Plain, 25),
            "smtp+starttls" => (Security::StartTls, 587),
            "smtps" => (Security::Tls, 465),
            _ => return Err(InvalidEndpoint::NoUrl),
        };
        let port = url.port().unwrap_or(default_port);
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint::More);
        }
        let host = match url.host() {
            Some(url::Host::Domain(host)) => host.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err(InvalidEndpoint::NoUrl),
        };
        // An address, or a name that certificates can have.
        if port == 0 || ServerName::try_from(host.as_str()).is_err() {
            return Err(InvalidEndpoint::NoUrl);
        }
        let login = login(&url)?;
        let endpoint = Self { security, host, port, login };
        if security == Security::Plain && endpoint.login.is_some() && !endpoint.is_loopback() {
            return Err(InvalidEndpoint::PlainPassword);
        }
        Ok(endpoint)
    }

    /// How connections to it are protected.
    pub fn security(&self) -> Security {
        self.security
    }

    fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

fn login(url: &Url) -> Result<Option<Login>, InvalidEndpoint> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| InvalidEndpoint::NotText)?;
        Ok(text.into_owned())
    };
    match (decode(url.username())?, url.password().map(decode).transpose()?) {
        (user, None) if user.is_empty() => Ok(None),
        (user, Some(password)) if !user.is_empty() && !password.is_empty() => {
            Ok(Some(Login { user, password: password.into() }))
        }
        _ => Err(InvalidEndpoint::HalfLogin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, InvalidEndpoint> {
        Endpoint::parse(&text.to_owned().into())
    }

    #[test]
    fn endpoints_read_as_written() {
        for (text, security, shown, login) in [
            ("smtp://mail.example", Security::Plain, "mail.example:25", None),
            ("smtp://mail.example:2525/", Security::Plain, "mail.example:2525", None),
            (
                "smtp+starttls://u:p@mail.example",
                Security::StartTls,
                "mail.example:587",
                Some("u p"),
            ),
            (
                "smtps://u%40x:p%2F%3a@mail.example\n",
                Security::Tls,
                "mail.example:465",
                Some("u@x p/:"),
            ),
            ("smtps://[2001:db8::1]:1465", Security::Tls, "[2001:db8::1]:1465", None),
            ("smtp://u:p@localhost", Security::Plain, "localhost:25", Some("u p")),
            ("smtp://u:p@127.0.0.9:1", Security::Plain, "127.0.0.9:1", Some("u p")),
            ("smtp://u:p@[::1]:1", Security::Plain, "[::1]:1", Some("u p")),
        ] {
            let endpoint = parse(text).unwrap();
            assert_eq!(endpoint.security, security, "{text}");
            assert_eq!(endpoint.to_string(), shown, "{text}");
            let read = endpoint
                .login
                .map(|login| format!("{} {}", login.user, login.password.expose_secret()));
            assert_eq!(read.as_deref(), login, "{text}");
        }
    }

    #[test]
    fn faults_are_told_without_the_text() {
        use InvalidEndpoint::*;
        for (text, expected) in [
            ("", NoUrl),
            ("mail.example:25", NoUrl),
            ("http://u:hunter2@mail.example", NoUrl),
            ("smtp://", NoUrl),
            ("smtp://u:hunter2@:25", NoUrl),
            ("smtp://mail.example:0", NoUrl),
            ("smtp://mail example", NoUrl),
            ("smtp://mail.example:99999", NoUrl),
            ("smtp://mail.example\r\nX: y:25", NoUrl),
            ("smtps://mail.example/inbox", More),
            ("smtps://u:hunt?er2@mail.example", NoUrl),
            ("smtps://u:hunter2@mail.example?x=y", More),
            ("smtps://mail.example#x", More),
            ("smtps://u@mail.example", HalfLogin),
            ("smtps://:hunter2@mail.example", HalfLogin),
            ("smtps://u:%ff@mail.example", NotText),
            ("smtp://u:hunter2@mail.example", PlainPassword),
            ("smtp://u:hunter2@192.0.2.1", PlainPassword),
            ("smtp://u:hunter2@localhost.example", PlainPassword),
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
            assert_eq!(error, expected, "{text}");
        }
    }
}
