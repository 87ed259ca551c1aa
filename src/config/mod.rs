//! Every setting. Architecture invariant: nothing outside this module reads the environment (`env`
//! attributes of clap count as reading it here).

#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]

pub mod client;
pub mod duration;
pub mod server;

/// What every variable of Portcullis begins with.
pub const VARIABLE_PREFIX: &str = "PORTCULLIS_";

/// Which of `vars` begin with `PORTCULLIS_` and are not in `known`: a sentence for each, sorted by
/// name, with the known name that it was most likely meant to be. Values are never looked at.
pub fn unknown_variables(known: &[&str], vars: impl Iterator<Item = String>) -> Vec<String> {
    let mut unknown: Vec<String> = vars
        .filter(|name| name.starts_with(VARIABLE_PREFIX) && !known.contains(&name.as_str()))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown
        .iter()
        .map(|name| match nearest(known, name) {
            Some(meant) => format!("{name} is not a setting; did you mean {meant}?"),
            None => format!("{name} is not a setting"),
        })
        .collect()
}

/// The known name that differs least from `name`, unless even that one differs in more than a third
/// of what follows the prefix: a far-fetched guess is worse than none.
fn nearest<'a>(known: &[&'a str], name: &str) -> Option<&'a str> {
    let bound = (name.len() - VARIABLE_PREFIX.len()).div_ceil(3);
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(candidate, name), *candidate))
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
    fn far_off_names_get_no_guess() {
        assert_eq!(
            unknown(&["PORTCULLIS_COLOUR", "PORTCULLIS_"]),
            ["PORTCULLIS_ is not a setting", "PORTCULLIS_COLOUR is not a setting"]
        );
    }
}
