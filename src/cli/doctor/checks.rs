//! What is sent, and what is wrong with what reached the service (rules 9.4 to 9.14 of docs/policy.md).

use http::HeaderMap;
use serde_json::{Value, json};

use super::probe::{Expectation, Probe, Sent};

/// What Portcullis adds to each request that is allowed (Rule 9.14 of docs/policy.md).
const IDENTITY: [&str; 6] = [
    "Portcullis-Token-Id",
    "Portcullis-Account-Id",
    "Portcullis-Scope",
    "Portcullis-Reason",
    "Portcullis-Pending-Action",
    "Portcullis-Token-Expires",
];
/// What is written where a client is not to be believed.
const FORGED: &str = "forged-by-portcullis-doctor";
/// An address that no client has (RFC 5737).
const FORGED_ADDRESS: &str = "192.0.2.77";

/// Headers that name a method for some services (rules 9.10 and 9.11).
const METHODS: [&str; 5] = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Forwarded-Method",
    "X-Original-Method",
];
/// Headers that name a path for some services.
const PATHS: [&str; 4] = ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Original-URI"];
/// Headers that name an address for some services, beside `X-Forwarded-For`.
const ADDRESSES: [&str; 7] = [
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
    "True-Client-IP",
    "CF-Connecting-IP",
];

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// What survives harms only a service that believes it.
    Warn,
    Fail,
}

/// One check and how it ended.
#[derive(Debug)]
pub(super) struct Finding {
    check: String,
    sent: String,
    pub(super) verdict: Verdict,
    detail: String,
    status: u16,
}

impl Finding {
    /// A row of the table.
    pub(super) fn row(&self) -> [String; 4] {
        [self.word().to_owned(), self.check.clone(), self.sent.clone(), self.detail.clone()]
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Self { check, sent, detail, status, .. } = self;
        json!({ "check": check, "sent": sent, "result": self.word(), "detail": detail, "status": status })
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// Every probe beside the first, about 150.
pub(super) fn probes(token: &str) -> Vec<Probe> {
    let mut probes = vec![
        Probe::new("no token", &[], Expectation::Denied),
        Probe::new("an unknown token", &[], Expectation::Denied).with_token(FORGED),
        Probe::new("the token twice", &[], Expectation::Denied).with_token(token).with_token(token),
        Probe::new("another token beside it", &[], Expectation::Denied)
            .with_token(token)
            .with_token(FORGED),
    ];
    let mut add = |check: &str, name: &str, value: &str, expectation: Expectation| {
        for spelling in spellings(name) {
            let header = (spelling.as_str(), value);
            for headers in [&[header][..], &[header, header]] {
                probes.push(Probe::new(check, headers, expectation).with_token(token));
            }
        }
    };
    for name in IDENTITY {
        add("a forged identity", name, FORGED, Expectation::OwnValue);
    }
    add("a forged credential", "Portcullis-Credential", FORGED, Expectation::Removed);
    add("a forged address", "X-Forwarded-For", FORGED_ADDRESS, Expectation::NotLast);
    for name in ADDRESSES {
        add("a forged address", name, FORGED_ADDRESS, Expectation::NotForgedOrWarned);
    }
    for name in METHODS {
        add("another method", name, "DELETE", Expectation::NotForged);
    }
    for name in PATHS {
        add("another path", name, "/forged-by-portcullis-doctor", Expectation::NotForged);
    }
    let forwarded = format!("for={FORGED_ADDRESS}");
    let headers = [("Forwarded", forwarded.as_str())];
    probes.push(
        Probe::new("a forged address", &headers, Expectation::NotForgedOrWarned).with_token(token),
    );
    for name in IDENTITY {
        let headers = [("Connection", name)];
        probes.push(
            Probe::new("an identity that the gateway is to remove", &headers, Expectation::Allowed)
                .with_token(token),
        );
    }
    probes
}

/// The name as it is, and with underscores, which many servers read as hyphens.
fn spellings(name: &str) -> [String; 2] {
    [name.to_owned(), name.replace('-', "_")]
}

/// What is to be said of a probe.
pub(super) fn judge(probe: &Probe, sent: &Sent) -> Finding {
    let (verdict, detail) = match &sent.received {
        None => {
            let reason =
                sent.reason.as_deref().map_or(String::new(), |reason| format!(" {reason}"));
            (Verdict::Pass, format!("refused with {}{reason}", sent.status))
        }
        Some(received) => judge_received(probe, received),
    };
    let written = probe.shown.iter().map(|(name, value)| format!("{name}: {value}"));
    Finding {
        check: probe.check.clone(),
        sent: written.collect::<Vec<_>>().join(", "),
        verdict,
        detail,
        status: sent.status,
    }
}

fn judge_received(probe: &Probe, received: &HeaderMap) -> (Verdict, String) {
    let pass = |detail: &str| (Verdict::Pass, detail.to_owned());
    let fail = |detail: String| (Verdict::Fail, detail);
    let Some((name, forged)) = probe.shown.first() else {
        return match probe.expectation {
            Expectation::Allowed => has_identity(received),
            _ => fail(
                "it reaches the service: the gateway does not ask Portcullis, or lets requests \
                       pass without its answer"
                    .to_owned(),
            ),
        };
    };
    let values = read_as(received, name);
    let survives = values.iter().any(|value| value.contains(forged.as_str()));
    match probe.expectation {
        Expectation::Allowed => has_identity(received),
        Expectation::Denied => fail("it reaches the service".to_owned()),
        Expectation::OwnValue if survives => fail("the forged value reaches the service".to_owned()),
        Expectation::OwnValue if values.len() != 1 => {
            fail(format!("the service gets the header {} times, and must get it once", values.len()))
        }
        Expectation::Removed if !values.is_empty() => {
            fail("the header reaches the service".to_owned())
        }
        Expectation::NotForged if survives => fail(
            "the forged value reaches the service, which may follow it: it is another request than \
             the one that was decided on".to_owned(),
        ),
        Expectation::NotForgedOrWarned if survives => (
            Verdict::Warn,
            "the forged value reaches the service: neither it nor Portcullis may read the client's address \
             there".to_owned(),
        ),
        Expectation::NotLast => match values.last() {
            Some(last) if last.rsplit(',').next().is_some_and(|last| last.trim() == forged) => {
                fail("the forged value is the last element, where Portcullis begins to read".to_owned())
            }
            _ if survives => pass("the forged value is left of the gateway's own"),
            _ => pass("the gateway replaced it"),
        },
        Expectation::OwnValue => pass("the gateway replaced it"),
        Expectation::Removed | Expectation::NotForged | Expectation::NotForgedOrWarned => {
            pass("the gateway removed it")
        }
    }
}

/// That every header of Portcullis is there, once.
fn has_identity(received: &HeaderMap) -> (Verdict, String) {
    let wrong: Vec<_> =
        IDENTITY.into_iter().filter(|name| read_as(received, name).len() != 1).collect();
    if wrong.is_empty() {
        return (
            Verdict::Pass,
            "it reaches the service with every header of Portcullis".to_owned(),
        );
    }
    let names = wrong.join(", ");
    (Verdict::Fail, format!("the service does not get each of these once: {names}"))
}

/// The values of all headers that a service may take for `name`.
fn read_as(received: &HeaderMap, name: &str) -> Vec<String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let name = plain(name);
    let headers = received.iter().filter(|(known, _)| plain(known.as_str()) == name);
    headers.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(headers: &[(&str, &str)]) -> Sent {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        Sent { status: 200, reason: None, received: Some(map) }
    }

    fn verdict(check: (&str, &str, Expectation), headers: &[(&str, &str)]) -> Verdict {
        let (name, value, expectation) = check;
        let probe = Probe::new("x", &[(name, value)], expectation).with_token("t");
        judge(&probe, &received(headers)).verdict
    }

    #[test]
    fn what_is_refused_passes() {
        let denied = Sent { status: 403, reason: Some("X".to_owned()), received: None };
        for probe in probes("t") {
            let finding = judge(&probe, &denied);
            assert_eq!(finding.verdict, Verdict::Pass, "{finding:?}");
            assert_eq!(finding.detail, "refused with 403 X");
        }
    }

    #[test]
    fn no_probe_shows_the_token() {
        for probe in probes("s3cret") {
            assert!(!format!("{:?}", probe.shown).contains("s3cret"));
            assert!(!format!("{probe:?}").contains("s3cret"), "{probe:?}");
        }
        assert!(probes("t").len() < 200);
    }

    #[test]
    fn a_request_that_must_be_denied_fails_where_it_arrives() {
        let token = Probe::new("no token", &[], Expectation::Denied);
        assert_eq!(judge(&token, &received(&[])).verdict, Verdict::Fail);
    }

    #[test]
    fn an_identity_must_be_the_gateways_own() {
        let check = ("Portcullis-Scope", "forged", Expectation::OwnValue);
        assert_eq!(verdict(check, &[("portcullis-scope", "a.read")]), Verdict::Pass);
        assert_eq!(verdict(check, &[("portcullis-scope", "forged")]), Verdict::Fail);
        assert_eq!(verdict(check, &[("portcullis-scope", "a.read, forged")]), Verdict::Fail);
        assert_eq!(verdict(check, &[]), Verdict::Fail);
        let twice = [("portcullis-scope", "a.read"), ("portcullis_scope", "forged")];
        assert_eq!(verdict(check, &twice), Verdict::Fail);
    }

    #[test]
    fn an_address_may_only_be_left_of_the_gateways_own() {
        let check = ("X-Forwarded-For", "192.0.2.77", Expectation::NotLast);
        let with = |value| verdict(check, &[("x-forwarded-for", value)]);
        assert_eq!(with("192.0.2.77, 10.0.0.1"), Verdict::Pass);
        assert_eq!(with("10.0.0.1"), Verdict::Pass);
        assert_eq!(with("10.0.0.1, 192.0.2.77"), Verdict::Fail);
        assert_eq!(with("192.0.2.77"), Verdict::Fail);
        let check = ("X-Real-IP", "192.0.2.77", Expectation::NotForgedOrWarned);
        assert_eq!(verdict(check, &[("x_real_ip", "192.0.2.77")]), Verdict::Warn);
        assert_eq!(verdict(check, &[]), Verdict::Pass);
    }

    #[test]
    fn another_method_or_path_must_not_arrive() {
        let check = ("X-HTTP-Method-Override", "DELETE", Expectation::NotForged);
        assert_eq!(verdict(check, &[("x-http-method_override", "DELETE")]), Verdict::Fail);
        assert_eq!(verdict(check, &[]), Verdict::Pass);
        let check = ("Portcullis-Credential", "forged", Expectation::Removed);
        assert_eq!(verdict(check, &[("portcullis-credential", "own")]), Verdict::Fail);
    }

    #[test]
    fn every_identity_must_arrive() {
        let all: Vec<_> = IDENTITY.iter().map(|&name| (name, "none")).collect();
        let probe = Probe::allowed("t");
        assert_eq!(judge(&probe, &received(&all)).verdict, Verdict::Pass);
        assert_eq!(judge(&probe, &received(&all[1..])).verdict, Verdict::Fail);
    }
}
