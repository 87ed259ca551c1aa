//! Where webhooks may be sent: to public addresses, and to internal hosts and networks that a setting names.
//!
//! Must stay true: an address that is not known to be public is internal; an IPv4 address within an IPv6 one is judged
//! as itself, or refused with it. Rules 14.8, 14.9 and 14.10 of docs/policy.md.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::network::{Cidr, CidrError, ClientAddr, Limits};
use super::text::in_quotes;

/// The longest URL, in bytes.
pub const MAX_URL: usize = 2_048;

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// What is not reachable globally (IANA IPv4 Special-Purpose Address Registry, RFC 6890), relays of 6to4 (RFC 7526) and
/// multicast.
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
];

/// All that is assigned to hosts of the Internet (RFC 4291, section 2.4). Loopback, unique local, link-local and multicast
/// addresses, those that are mapped to IPv4, and NAT64 (RFC 6052, RFC 8215) lie outside.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 3);

/// Of these, what is not: protocol assignments with Teredo, documentation, 6to4, and documentation again.
const NOT_PUBLIC_V6: [Ipv6Net; 4] =
    [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

/// Networks that a named host may be in: loopback, private use (RFC 1918), and between a provider and its customers
/// (RFC 6598).
const INTERNAL_V4: [Ipv4Net; 5] = [
    v4(127, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(172, 16, 0, 12),
    v4(192, 168, 0, 16),
    v4(100, 64, 0, 10),
];

/// The same of IPv6: loopback, and unique local (RFC 4193).
const INTERNAL_V6: [Ipv6Net; 2] = [Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), v6(0xfc00, 0, 7)];

/// Where clouds hand out credentials to the machines in them, within the networks above: never reached by the name of
/// a host, which its owner may point anywhere.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether hosts of the Internet have this address. Rule 14.9 of docs/policy.md.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&ip)),
        IpAddr::V6(ip) => {
            GLOBAL_UNICAST.contains(&ip)
                && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&ip))
        }
    }
}

/// Whether a named host may have this address.
fn is_internal(ip: IpAddr) -> bool {
    let within = match ip {
        IpAddr::V4(ip) => INTERNAL_V4.iter().any(|network| network.contains(&ip)),
        IpAddr::V6(ip) => INTERNAL_V6.iter().any(|network| network.contains(&ip)),
    };
    within && !METADATA.contains(&ip)
}

/// Internal hosts and networks that webhooks may be sent to. Rule 14.10 of docs/policy.md.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InternalHosts {
    /// In lower case and ASCII, without a final dot.
    names: Vec<String>,
    networks: Vec<Cidr>,
}

/// What names no internal host. Displays as the end of a sentence that began with the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInternalHost {
    /// An address or a range that can't be one.
    #[error("{0}")]
    Network(#[from] CidrError),
    /// Neither a name nor an address.
    #[error(
        "{0} is no host name, address or range: write one such as hooks.internal, 10.1.2.3 or 10.1.0.0/16"
    )]
    Name(String),
}

impl InternalHosts {
    /// Reads each of `texts` as a host name, an address or a range of addresses.
    ///
    /// # Errors
    /// Every text that is none.
    pub fn parse<'t>(
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, Vec<InvalidInternalHost>> {
        let (mut hosts, mut errors) = (Self::default(), Vec::new());
        for text in texts {
            let text = text.trim();
            if text.contains(['/', ':']) || text.parse::<IpAddr>().is_ok() {
                match Cidr::parse(text, &Limits::NONE) {
                    Ok(network) => hosts.networks.push(network),
                    Err(error) => errors.push(error.into()),
                }
                continue;
            }
            match Host::parse(text) {
                Ok(Host::Domain(name)) => hosts.names.push(without_dot(&name).to_owned()),
                // An address that is written as only browsers do, such as 127.1.
                Ok(_) | Err(_) => errors.push(InvalidInternalHost::Name(in_quotes(text))),
            }
        }
        if errors.is_empty() { Ok(hosts) } else { Err(errors) }
    }

    /// Whether a connection for a URL with this `host` may be made to `ip`. Rules 14.9 and 14.10 of docs/policy.md.
    ///
    /// # Errors
    /// The address is internal and not named; or `plaintext` would leave the internal network.
    pub fn admit(
        &self,
        host: &Host<&str>,
        ip: IpAddr,
        plaintext: bool,
    ) -> Result<(), RefusedAddress> {
        let ip = ip.to_canonical();
        if is_public(ip) {
            return if plaintext { Err(RefusedAddress::Public(ip)) } else { Ok(()) };
        }
        let named = self.names_address(ip) || (is_internal(ip) && self.names_domain(host));
        if named { Ok(()) } else { Err(RefusedAddress::Internal(ip)) }
    }

    fn names_domain(&self, host: &Host<&str>) -> bool {
        matches!(host, Host::Domain(name) if self.names.iter().any(|named| named == without_dot(name)))
    }

    fn names_address(&self, ip: IpAddr) -> bool {
        let ip = ClientAddr::from(ip.to_canonical());
        self.networks.iter().any(|network| network.contains(ip))
    }

    /// Whether the setting names this host, which messages may then be sent to without TLS.
    fn names(&self, host: &Host<&str>) -> bool {
        match *host {
            Host::Domain(_) => self.names_domain(host),
            Host::Ipv4(ip) => self.names_address(ip.into()),
            Host::Ipv6(ip) => self.names_address(ip.into()),
        }
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Why nothing is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    /// It is not public, and no setting names it.
    #[error(
        "{0} is no public address: if it is meant, name the host or its network in the server's setting --webhook-internal"
    )]
    Internal(IpAddr),
    /// An internal host was named, and has a public address.
    #[error(
        "{0} is a public address, and http:// would cross the Internet unencrypted: use https://"
    )]
    Public(IpAddr),
}

/// Why a URL is none that messages are sent to. Displays as the rest of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL with a host.
    #[error(
        "is no URL: write https://, a host and a path, such as https://hooks.example.com/portcullis"
    )]
    Malformed,
    /// Longer than [`MAX_URL`].
    #[error("is longer than {MAX_URL} bytes: shorten it")]
    TooLong,
    /// A user name or a password.
    #[error(
        "has a user name or a password, which would be shown with it: leave it out, messages are signed"
    )]
    Login,
    /// What follows a `#`.
    #[error("has a fragment, which is never sent: leave out the # and what follows it")]
    Fragment,
    /// Without TLS, to a host that the setting does not name.
    #[error(
        "is not https: write https://; http:// is for hosts that the server's setting --webhook-internal names"
    )]
    Plaintext,
    /// Its host is an address that nothing is sent to.
    #[error("names a host that is refused: {0}")]
    Refused(RefusedAddress),
}

impl InvalidUrl {
    /// A stable word in `UPPER_SNAKE`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "NOT_A_URL",
            Self::TooLong => "TOO_LONG",
            Self::Login => "LOGIN",
            Self::Fragment => "FRAGMENT",
            Self::Plaintext => "PLAINTEXT",
            Self::Refused(_) => "INTERNAL_ADDRESS",
        }
    }
}

/// Reads the URL that a webhook's messages are sent to. A host name is not resolved here: its addresses are judged at
/// each connection. Rule 14.8 of docs/policy.md.
///
/// # Errors
/// It is none, or nothing may be sent there.
pub fn url(text: &str, internal: &InternalHosts) -> Result<Url, InvalidUrl> {
    let text = text.trim();
    if text.len() > MAX_URL {
        return Err(InvalidUrl::TooLong);
    }
    let url = Url::parse(text).map_err(|_| InvalidUrl::Malformed)?;
    let host = url.host().ok_or(InvalidUrl::Malformed)?;
    let plaintext = match url.scheme() {
        "https" => false,
        "http" => true,
        _ => return Err(InvalidUrl::Malformed),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidUrl::Login);
    }
    if url.fragment().is_some() {
        return Err(InvalidUrl::Fragment);
    }
    if plaintext && !internal.names(&host) {
        return Err(InvalidUrl::Plaintext);
    }
    let address = match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
    };
    if let Some(ip) = address {
        internal.admit(&host, ip, plaintext).map_err(InvalidUrl::Refused)?;
    }
    // The parser escapes what it keeps, which may make it longer.
    if url.as_str().len() > MAX_URL { Err(InvalidUrl::TooLong) } else { Ok(url) }
}

/// A URL without its path and query, which may have a secret in them.
pub struct Origin<'u>(pub &'u str);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Url::parse(self.0) {
            Ok(url) => f.write_str(&url.origin().ascii_serialization()),
            Err(_) => f.write_str("an unreadable URL"),
        }
    }
}

#[cfg(test)]
mod tests;
