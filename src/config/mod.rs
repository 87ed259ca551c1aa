//! Every setting. Architecture invariant: nothing outside this module reads the environment (`env`
//! attributes of clap count as reading it here).

#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]

pub mod client;
pub mod server;

/// Whether colours are wanted where output goes to a terminal: not with `NO_COLOR` set to anything
/// (<https://no-color.org>).
pub fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The error to plant, in a build that can (`crate::failpoint`).
#[cfg(feature = "failpoints")]
pub fn failpoint() -> Option<String> {
    std::env::var("FAILPOINT").ok()
}

/// What every variable of Portcullis begins with.
pub const VARIABLE_PREFIX: &str = "PORTCULLIS_";

/// Which of `vars` begin with `PORTCULLIS_` and are not in `known`: a sentence for each, sorted by
/// name, with the known name that it was most likely meant to be. Values are never looked at. Variables that
/// Kubernetes sets for a Service named `portcullis` are passed over.
pub fn unknown_variables(known: &[&str], vars: impl Iterator<Item = String>) -> Vec<String> {
    let mut unknown: Vec<String> = vars
        .filter(|name| name.starts_with(VARIABLE_PREFIX) && !known.contains(&name.as_str()))
        .filter(|name| !is_of_own_service(name))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown
        .iter()
        .map(|name| match nearest(known.iter().copied(), name, name.len() - VARIABLE_PREFIX.len()) {
            _ if is_of_a_service(name) => format!(
                "{name} is not a setting; Kubernetes sets variables of this form for a Service: rename \
                 the Service, or set enableServiceLinks: false in the pod's spec"
            ),
            Some(meant) => format!("{name} is not a setting; did you mean {meant}?"),
            None => format!("{name} is not a setting"),
        })
        .collect()
}

/// Whether the kubelet sets `name` in every pod beside a Service named `portcullis`: `PORTCULLIS_PORT`,
/// `PORTCULLIS_PORT_50051_TCP_ADDR`, `PORTCULLIS_SERVICE_HOST`, `PORTCULLIS_SERVICE_PORT_GRPC` and the like.
/// No setting's name may begin like this.
fn is_of_own_service(name: &str) -> bool {
    name == "PORTCULLIS_PORT"
        || ["PORTCULLIS_PORT_", "PORTCULLIS_SERVICE_"].iter().any(|start| name.starts_with(start))
}

/// Whether `name` is one that the kubelet makes of a Service's name, such as `portcullis-http`.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_PORT")
        || ["_SERVICE_HOST", "_SERVICE_PORT_"].iter().any(|part| name.contains(part))
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            let port = name.split_once("_PORT_").map_or("", |(_, rest)| rest);
            port.contains(protocol) && port.starts_with(|c: char| c.is_ascii_digit())
        })
}

/// The known name that differs least from `name`, unless even that one differs in more than a third of `length`,
/// which leaves out a prefix that all names have: a far-fetched guess is worse than none.
fn nearest<'a>(known: impl Iterator<Item = &'a str>, name: &str, length: usize) -> Option<&'a str> {
    let bound = length.div_ceil(3);
    known
        .map(|candidate| (strsim::damerau_levenshtein(candidate, name), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["PORTCULLIS_LISTEN", "PORTCULLIS_HTTP_LISTEN", "PORTCULLIS_SERVER"];

    fn unknown(names: &[&str]) -> Vec<String> {
        unknown_variables(&KNOWN, names.iter().map(ToString::to_string))
    }

    #[test]
    fn known_and_foreign_variables_pass() {
        assert!(unknown(&["PORTCULLIS_LISTEN", "PATH", "portcullis_x"]).is_empty());
    }

    #[test]
    fn a_slip_is_told_with_what_was_meant() {
        assert_eq!(
            unknown(&["PORTCULLIS_SERVRE", "PORTCULLIS_LISTNE", "PORTCULLIS_LISTNE"]),
            [
                "PORTCULLIS_LISTNE is not a setting; did you mean PORTCULLIS_LISTEN?",
                "PORTCULLIS_SERVRE is not a setting; did you mean PORTCULLIS_SERVER?",
            ]
        );
    }

    #[test]
    fn variables_of_a_service_named_portcullis_are_ignored() {
        for name in [
            "PORTCULLIS_PORT",
            "PORTCULLIS_PORT_50051_TCP",
            "PORTCULLIS_PORT_50051_TCP_PROTO",
            "PORTCULLIS_PORT_50051_TCP_PORT",
            "PORTCULLIS_PORT_50051_TCP_ADDR",
            "PORTCULLIS_PORT_53_UDP_ADDR",
            "PORTCULLIS_PORT_7_SCTP",
            "PORTCULLIS_SERVICE_HOST",
            "PORTCULLIS_SERVICE_PORT",
            "PORTCULLIS_SERVICE_PORT_GRPC_WEB",
        ] {
            assert_eq!(unknown(&[name]), [""; 0], "{name}");
        }
    }

    #[test]
    fn variables_of_another_service_are_refused_with_the_cure() {
        for name in [
            "PORTCULLIS_HTTP_PORT",
            "PORTCULLIS_HTTP_PORT_8080_TCP",
            "PORTCULLIS_HTTP_PORT_8080_TCP_ADDR",
            "PORTCULLIS_HTTP_SERVICE_HOST",
            "PORTCULLIS_HTTP_SERVICE_PORT",
            "PORTCULLIS_HTTP_SERVICE_PORT_HTTP",
        ] {
            let message = unknown(&[name]).join("");
            assert!(
                message.contains(name) && message.contains("enableServiceLinks: false"),
                "{message}"
            );
        }
        for name in ["PORTCULLIS_PORTS", "PORTCULLIS_SERVICES", "PORTCULLIS_", "PORTCULLIS_XPORT"] {
            let message = unknown(&[name]).join("");
            assert!(
                message.contains("is not a setting") && !message.contains("Kubernetes"),
                "{message}"
            );
        }
    }

    #[test]
    fn far_off_names_get_no_guess() {
        assert_eq!(
            unknown(&["PORTCULLIS_COLOUR", "PORTCULLIS_"]),
            ["PORTCULLIS_ is not a setting", "PORTCULLIS_COLOUR is not a setting"]
        );
    }
}
