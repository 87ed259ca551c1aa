//! What a header may be named for: the one list of names that have another meaning, with the reason of each group.
//!
//! Asked of what callers and operators name, and never of what is stored already: the list grows, and a credential
//! that was created before must stay readable.

use super::header_name::{HeaderName, HeaderNameError};

/// What a header is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It has the client's address.
    Address,
    /// It has the client's token.
    Token,
    /// It has the method of the client's request.
    Method,
    /// It has the path and query of the client's request.
    Uri,
    /// Services take a method or a path from it instead of the request's own (Rule 9.11 of docs/policy.md).
    Override,
}

impl Purpose {
    /// A name that gateways use for it.
    fn example(self) -> &'static str {
        match self {
            Self::Address => "X-Forwarded-For",
            Self::Token => "Authorization or X-Api-Key",
            Self::Method => "X-Forwarded-Method",
            Self::Uri => "X-Forwarded-Uri",
            Self::Override => "X-HTTP-Method-Override",
        }
    }
}

/// Names with one meaning among those that matter here, and the purposes that they may have.
const FAMILIAR: [(&[&str], &[Purpose]); 5] = [
    (&["authorization", "api-key", "x-api-key", "x-auth-token"], &[Purpose::Token]),
    (
        &[
            "cf-connecting-ip",
            "fastly-client-ip",
            "forwarded",
            "true-client-ip",
            "x-client-ip",
            "x-envoy-external-address",
            "x-forwarded-for",
            "x-real-ip",
        ],
        &[Purpose::Address],
    ),
    (&["x-forwarded-method", "x-original-method"], &[Purpose::Method, Purpose::Override]),
    (&["x-forwarded-uri", "x-original-uri", "x-original-url"], &[Purpose::Uri, Purpose::Override]),
    (
        // With these a client would choose what is decided on.
        &["x-http-method", "x-http-method-override", "x-method-override", "x-rewrite-url"],
        &[Purpose::Override],
    ),
];

/// Names that have another meaning, by whole name or by the beginning of the name.
struct Group {
    names: &'static [&'static str],
    beginnings: &'static [&'static str],
    /// The end of "which ...".
    meaning: &'static str,
}

const GROUPS: [Group; 9] = [
    Group {
        names: &[],
        beginnings: &["portcullis-"],
        meaning: "Portcullis itself reads or writes",
    },
    // RFC 9110, sections 7.2, 7.6 and 10.1.1; RFC 9112, section 6; RFC 9113, section 8.2.2.
    Group {
        names: &[
            "connection",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "max-forwards",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "via",
        ],
        beginnings: &["proxy-"],
        meaning: "each proxy handles, removes or replaces for its own connection",
    },
    // RFC 9110, section 8; RFC 9530.
    Group {
        names: &["date", "digest", "repr-digest"],
        beginnings: &["content-", "want-"],
        meaning: "describes the body of a message",
    },
    // RFC 9110, sections 12.5, 13.1 and 14.2; RFC 9111, section 5; RFC 7240.
    Group {
        names: &["cache-control", "pragma", "prefer", "priority", "range"],
        beginnings: &["accept", "if-"],
        meaning: "a client sets to choose an answer",
    },
    // RFC 6265; Fetch; RFC 9110, section 10.1.
    Group {
        names: &["cookie", "cookie2", "dnt", "from", "origin", "referer", "user-agent"],
        beginnings: &["access-control-", "sec-", "upgrade-insecure-"],
        meaning: "browsers set by themselves",
    },
    Group {
        names: &[
            "age",
            "allow",
            "alt-svc",
            "authentication-info",
            "etag",
            "expires",
            "last-modified",
            "link",
            "location",
            "retry-after",
            "server",
            "set-cookie",
            "set-cookie2",
            "strict-transport-security",
            "vary",
            "www-authenticate",
        ],
        beginnings: &[],
        meaning: "is for answers, not for requests",
    },
    Group { names: &[], beginnings: &["grpc-"], meaning: "belongs to gRPC" },
    // W3C Trace Context and Baggage, B3, and those of the clouds.
    Group {
        names: &[
            "b3",
            "baggage",
            "traceparent",
            "tracestate",
            "uber-trace-id",
            "x-amzn-trace-id",
            "x-cloud-trace-context",
            "x-correlation-id",
            "x-request-id",
        ],
        beginnings: &["x-b3-"],
        meaning: "identifies a request in traces and logs",
    },
    Group {
        names: &[
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-forwarded-scheme",
            "x-forwarded-server",
            "x-forwarded-ssl",
            "x-scheme",
        ],
        beginnings: &["x-envoy-"],
        meaning: "proxies use for something else",
    },
];

impl HeaderName {
    /// Whether it can be named for `purpose` (Rules 9.2 and 9.11 of docs/policy.md).
    ///
    /// # Errors
    /// [`HeaderNameError::Reserved`] with what it means instead, and a name that would do.
    pub fn check(&self, purpose: Purpose) -> Result<(), HeaderNameError> {
        let name = self.as_str();
        let reserved = |meaning| {
            Err(HeaderNameError::Reserved {
                name: self.clone(),
                meaning,
                example: purpose.example(),
            })
        };
        let familiar = FAMILIAR.iter().find(|(names, _)| names.contains(&name));
        if let Some((_, purposes)) = familiar {
            return match purposes.contains(&purpose) {
                true => Ok(()),
                false => reserved("gateways or clients use for something else"),
            };
        }
        let is_in = |group: &&Group| {
            group.names.contains(&name)
                || group.beginnings.iter().any(|beginning| name.starts_with(beginning))
        };
        match GROUPS.iter().find(is_in) {
            None => Ok(()),
            Some(group) => reserved(group.meaning),
        }
    }
}
