//! Where a gateway's questions carry the client's address, token, method and path, and which proxies before it
//! are trusted (rules: docs/policy.md, section 9).
//!
//! # Invariants
//! - An address is only ever read from what a trusted proxy, or the gateway itself, wrote: elements are read from
//!   the right, and the first that is not a trusted proxy ends the search. What a client sends stands to the left
//!   of that and is never interpreted.
//! - No header is read unless it is named. An element that can't be parsed is no address, and nothing is searched
//!   behind it.
//! - Trusted proxies are never everything: at most [`MAX_TRUSTED_PROXIES`] ranges, none wider than a whitelist
//!   entry may be by default.

mod chain;
mod element;
mod header_name;
mod purpose;

use std::net::IpAddr;

pub use chain::{MAX_ELEMENTS, MAX_HEADER_BYTES};
pub use header_name::{HeaderName, HeaderNameError};
pub use purpose::Purpose;

use super::network::{Cidr, CidrError, CidrSet, ClientAddr, Limits};

/// Ranges of trusted proxies that a credential, or the management page, has at most (Rule 9.6 of docs/policy.md).
pub const MAX_TRUSTED_PROXIES: usize = 100;

/// Where a PEP's client is read from: properties of its credential (Rule 9.2 of docs/policy.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSource {
    /// The header with the client's address, last hop last. `None`: an HTTP interface knows no address.
    pub address_header: Option<HeaderName>,
    /// The proxies that append to that header truthfully.
    pub trusted_proxies: TrustedProxies,
    /// The header with the client's token. `None`: `Authorization`.
    pub token_header: Option<HeaderName>,
    /// The header with the request's method. `None`: `X-Forwarded-Method` or `X-Original-Method`.
    pub method_header: Option<HeaderName>,
    /// The header with the request's path and query. `None`: `X-Forwarded-Uri` or `X-Original-URI`.
    pub uri_header: Option<HeaderName>,
    /// Whether the client's token stays on the request that the gateway passes on.
    pub forward_token: bool,
}

impl Default for ClientSource {
    /// No header names an address, no proxy is trusted, and the token stays on the request.
    fn default() -> Self {
        Self {
            address_header: None,
            trusted_proxies: TrustedProxies::default(),
            token_header: None,
            method_header: None,
            uri_header: None,
            forward_token: true,
        }
    }
}

impl ClientSource {
    /// Where a server without credentials (`--dev`) reads from: the last element of `X-Forwarded-For`.
    pub fn development() -> Self {
        Self::behind(TrustedProxies::default())
    }

    /// The last element of `X-Forwarded-For` that is not one of `proxies`.
    pub fn behind(proxies: TrustedProxies) -> Self {
        Self {
            address_header: Some(HeaderName::x_forwarded_for()),
            trusted_proxies: proxies,
            ..Self::default()
        }
    }

    /// Reads what a caller asks for. Empty names are those that are not given.
    ///
    /// # Errors
    /// Every bad field, with the cure.
    pub fn parse(
        fields: &ClientSourceFields<'_>,
        limits: &Limits,
    ) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let names = [
            ("address_header", Purpose::Address, fields.address_header),
            ("token_header", Purpose::Token, fields.token_header),
            ("method_header", Purpose::Method, fields.method_header),
            ("uri_header", Purpose::Uri, fields.uri_header),
        ];
        let headers = names.map(|(field, purpose, text)| {
            let parsed = (!text.is_empty()).then(|| HeaderName::parse(text))?;
            let checked = parsed.and_then(|name| name.check(purpose).map(|()| name));
            checked.map_err(|error| errors.push(FieldError::header(field, &error))).ok()
        });
        for (at, header) in headers.iter().enumerate() {
            if let Some(name) = header
                && let Some(first) =
                    headers[..at].iter().position(|other| other.as_ref() == Some(name))
            {
                errors.push(FieldError {
                    field: names[at].0,
                    index: None,
                    reason: "DUPLICATE",
                    description: format!(
                        "is {name}, as {} is: name another header",
                        names[first].0
                    ),
                });
            }
        }
        let proxies = TrustedProxies::parse(fields.trusted_proxies, limits)
            .map_err(|bad| errors.extend(bad.into_iter().map(FieldError::proxy)));
        let [address_header, token_header, method_header, uri_header] = headers;
        match proxies {
            Ok(trusted_proxies) if errors.is_empty() => Ok(Self {
                address_header,
                trusted_proxies,
                token_header,
                method_header,
                uri_header,
                forward_token: fields.forward_token,
            }),
            _ => Err(errors),
        }
    }

    /// The client's address (Rules 9.4 and 9.5 of docs/policy.md). `start` is the peer as a gateway reports it over gRPC;
    /// interfaces over HTTP give `None` and start at the last element of the header. So `None` is not for a gateway over
    /// gRPC that reports no peer: then the address is missing. `values` are those of the header
    /// [`address_header`](Self::address_header), in order; without one they are not read.
    ///
    /// `None` if the address is missing: nothing says it, every element is a trusted proxy, an element that had to be
    /// read is no address, or the header is larger than [`MAX_HEADER_BYTES`] and [`MAX_ELEMENTS`] allow.
    pub fn client_address<'a>(
        &self,
        start: Option<IpAddr>,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        if let Some(start) = start.map(ClientAddr::from)
            && !self.trusted_proxies.contain(start)
        {
            return Some(start.into());
        }
        let name = self.address_header.as_ref()?;
        chain::first_untrusted(name, values, &self.trusted_proxies).map(IpAddr::from)
    }

    /// The client of a connection from `peer`, for what is limited by address (Rule 9.8 of docs/policy.md): clients whose
    /// address is missing share that of the peer.
    pub fn client_or_peer<'a>(
        &self,
        peer: IpAddr,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        self.client_address(Some(peer), values).unwrap_or(peer)
    }
}

/// A client source as a caller writes it.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields of `ClientSource`, unread")]
pub struct ClientSourceFields<'a> {
    pub address_header: &'a str,
    pub trusted_proxies: &'a [String],
    pub token_header: &'a str,
    pub method_header: &'a str,
    pub uri_header: &'a str,
    pub forward_token: bool,
}

/// A bad field of a client source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its name in the contract.
    pub field: &'static str,
    /// Which of its values, counted from 0, where it is a list and one is bad.
    pub index: Option<usize>,
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub reason: &'static str,
    /// The same for a person, with the cure: the end of a sentence that began with the field.
    pub description: String,
}

impl FieldError {
    fn header(field: &'static str, error: &HeaderNameError) -> Self {
        Self { field, index: None, reason: error.reason(), description: error.to_string() }
    }

    fn proxy(error: ProxyError) -> Self {
        let (reason, description) = (error.reason(), error.to_string());
        let index = match error {
            ProxyError::Entry { index, .. } => Some(index),
            ProxyError::TooMany { .. } => None,
        };
        Self { field: "trusted_proxies", index, reason, description }
    }
}

/// The proxies whose account of a request's hops is believed. May be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Option<CidrSet>);

/// A list that can't be that of trusted proxies. Displays with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// One text is no entry.
    #[error("{error}")]
    Entry {
        /// Which, counted from 0.
        index: usize,
        /// What is wrong with it.
        error: CidrError,
    },
    /// More entries than allowed.
    #[error(
        "has {count} entries, and {MAX_TRUSTED_PROXIES} are allowed: join addresses into ranges, or leave some out"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl ProxyError {
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Entry { error, .. } => error.reason(),
            Self::TooMany { .. } => "TOO_MANY",
        }
    }
}

impl TrustedProxies {
    /// Reads addresses and ranges, each within the limits of a whitelist entry (docs/policy.md, 3.9, 3.10 and 3.15) and
    /// never wider than their defaults.
    ///
    /// # Errors
    /// Every text that is no entry, or their number.
    pub fn parse<T: AsRef<str>>(texts: &[T], limits: &Limits) -> Result<Self, Vec<ProxyError>> {
        let default = Limits::default();
        let limits = Limits {
            widest_v4: limits.widest_v4.max(default.widest_v4),
            widest_v6: limits.widest_v6.max(default.widest_v6),
            max_entries: MAX_TRUSTED_PROXIES,
        };
        if texts.len() > MAX_TRUSTED_PROXIES {
            return Err(vec![ProxyError::TooMany { count: texts.len() }]);
        }
        Self::read(texts, &limits)
    }

    /// Reads what was accepted under earlier settings and versions: rows of the store.
    ///
    /// # Errors
    /// Every text that is no entry.
    pub fn read_stored<T: AsRef<str>>(texts: &[T]) -> Result<Self, Vec<ProxyError>> {
        Self::read(texts, &Limits::NONE)
    }

    fn read<T: AsRef<str>>(texts: &[T], limits: &Limits) -> Result<Self, Vec<ProxyError>> {
        let mut errors = Vec::new();
        let mut entries = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match Cidr::parse(text.as_ref(), limits) {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(ProxyError::Entry { index, error }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        CidrSet::new(entries, limits)
            .map(Self)
            .map_err(|too_many| vec![ProxyError::TooMany { count: too_many.count }])
    }

    /// Whether `address` is one of them.
    pub fn contain(&self, address: ClientAddr) -> bool {
        self.0.as_ref().is_some_and(|entries| entries.find(address).is_some())
    }

    /// The entries, sorted.
    pub fn entries(&self) -> impl Iterator<Item = &Cidr> {
        self.0.iter().flat_map(CidrSet::iter)
    }

    /// Whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests;
