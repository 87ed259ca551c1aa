//! Where gRPC and gateways are served: addresses, and Unix sockets.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::errors::ConfigErrors;
use crate::policy::text::in_quotes;

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenSetting {
    /// At the first of these addresses that the host has. Never empty.
    Tcp(Vec<SocketAddr>),
    /// At a path of this host.
    Unix {
        /// The socket's absolute path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The permission bits of a socket unless the setting says otherwise: its owner alone.
const MODE: u32 = 0o600;
/// Bytes that the path of a Unix socket has at most: `sun_path` of Linux, less the zero at its end.
const MAX_PATH: usize = 107;

const FORM: &str = "write unix: and an absolute path, such as unix:/run/portcullis/grpc.sock or \
                    unix:/run/portcullis/grpc.sock?mode=0660";

impl ConfigErrors {
    /// The listeners that the values `texts` of `flag` stand for; `None` where one of them is invalid.
    pub(super) fn listeners(&mut self, flag: &str, texts: &[String]) -> Option<Vec<ListenSetting>> {
        let mut listeners: Vec<ListenSetting> = Vec::with_capacity(texts.len());
        let mut complete = true;
        for text in texts.iter().map(|text| text.trim()) {
            let listener = match text.strip_prefix("unix:") {
                Some(rest) => self.unix_socket(flag, text, rest),
                None => self.addresses(flag, text).map(ListenSetting::Tcp),
            };
            match listener {
                None => complete = false,
                Some(listener) if listeners.iter().any(|other| other.is_same_place(&listener)) => {
                    complete = false;
                    self.add(format!("--{flag}: {} is named twice", in_quotes(text)));
                }
                Some(listener) => listeners.push(listener),
            }
        }
        complete.then_some(listeners)
    }

    fn unix_socket(&mut self, flag: &str, text: &str, rest: &str) -> Option<ListenSetting> {
        let (path, parameters) =
            rest.split_once('?').map_or((rest, None), |(path, after)| (path, Some(after)));
        // Written as a URL with an empty host.
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        if !path.starts_with('/') || path.starts_with("//") || path.ends_with('/') {
            self.add(format!("--{flag}: {} is no Unix socket: {FORM}", in_quotes(text)));
            return None;
        }
        if path.len() > MAX_PATH {
            self.add(format!(
                "--{flag}: the path in {} has {} bytes; a Unix socket's has at most {MAX_PATH}",
                in_quotes(text),
                path.len()
            ));
            return None;
        }
        let mode = match parameters {
            None => Some(MODE),
            Some(parameters) => parameters.strip_prefix("mode=").and_then(parse_mode),
        };
        let Some(mode) = mode else {
            self.add(format!(
                "--{flag}: {} has no valid mode: write ?mode= and permission bits in octal, from 0600 to \
                 0777",
                in_quotes(text)
            ));
            return None;
        };
        Some(ListenSetting::Unix { path: path.into(), mode })
    }
}

impl ListenSetting {
    /// The addresses; `None` for a Unix socket.
    pub fn addresses(&self) -> Option<&[SocketAddr]> {
        match self {
            Self::Tcp(addresses) => Some(addresses),
            Self::Unix { .. } => None,
        }
    }

    fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            (Self::Tcp(addresses), Self::Tcp(others)) => {
                addresses == others && addresses.iter().all(|address| address.port() != 0)
            }
            _ => false,
        }
    }
}

/// Permission bits in octal. The owner can always connect: without that nobody could.
fn parse_mode(text: &str) -> Option<u32> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits)?;
    (mode <= 0o777 && mode & MODE == MODE).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(texts: &[&str]) -> Result<Vec<ListenSetting>, String> {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        let mut errors = ConfigErrors::default();
        let listeners = errors.listeners("listen", &texts);
        errors.into_result(|| listeners).map_err(|error| error.to_string())
    }

    fn unix(path: &str, mode: u32) -> ListenSetting {
        ListenSetting::Unix { path: path.into(), mode }
    }

    #[test]
    fn a_socket_has_a_path_and_a_mode() {
        let longest = format!("/{}", "x".repeat(MAX_PATH - 1));
        for (text, wanted) in [
            ("unix:/run/p.sock", unix("/run/p.sock", 0o600)),
            ("unix:///run/p.sock", unix("/run/p.sock", 0o600)),
            (" unix:/run/p.sock?mode=0660 ", unix("/run/p.sock", 0o660)),
            ("unix:/run/p.sock?mode=666", unix("/run/p.sock", 0o666)),
            (&format!("unix:{longest}"), unix(&longest, 0o600)),
        ] {
            assert_eq!(listeners(&[text]).unwrap(), [wanted], "{text}");
        }
        let too_long = format!("unix:{longest}x");
        for (text, part) in [
            ("unix:", "is no Unix socket"),
            ("unix:p.sock", "is no Unix socket: write unix: and an absolute path"),
            ("unix://host/p.sock", "is no Unix socket"),
            ("unix:@abstract", "is no Unix socket"),
            ("unix:/run/", "is no Unix socket"),
            (&too_long, "has 108 bytes; a Unix socket's has at most 107"),
            ("unix:/p?mode=", "has no valid mode"),
            ("unix:/p?mode=0o660", "has no valid mode"),
            ("unix:/p?mode=1660", "has no valid mode"),
            ("unix:/p?mode=0060", "has no valid mode"),
            ("unix:/p?mode=0680", "has no valid mode"),
            ("unix:/p?mode=0660&x=y", "has no valid mode"),
            ("unix:/p?Mode=0660", "has no valid mode"),
        ] {
            let error = listeners(&[text]).unwrap_err();
            assert!(error.contains("--listen: ") && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn every_invalid_listener_is_named() {
        let error = listeners(&["unix:x", "here", "127.0.0.1:1"]).unwrap_err();
        assert!(error.contains("unix:x") && error.contains("\"here\" is not"), "{error}");
        for twice in [["unix:/p", "unix:///p?mode=0660"], ["127.0.0.1:1", "127.0.0.1:1"]] {
            assert!(listeners(&twice).unwrap_err().contains("is named twice"), "{twice:?}");
        }
        assert_eq!(listeners(&["127.0.0.1:0", "127.0.0.1:0", "unix:/p"]).unwrap().len(), 3);
    }
}
