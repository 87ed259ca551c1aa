//! What a draft of a whitelist comes to: each entry understood, or refused with its cure, and the list as it
//! would be. Changes nothing.

use askama::Template;

use super::super::answer::{PageError, Result};
use super::super::frame::Place;
use super::super::view::{count, listed};
use super::{Editor, WhitelistDraft};
use crate::policy::network::{Cidr, TooMany, nested};
use crate::policy::text::sentence;
use crate::service::Error;
use crate::service::error::Violation;
use crate::service::whitelists::ManageWhitelist;

/// An entry as it was pasted.
struct Item {
    text: String,
    /// `new`, `present`, `covered` or `refused`.
    tone: &'static str,
    words: String,
}

/// What a draft comes to.
#[derive(Default, Template)]
#[template(path = "page/review.html")]
pub(super) struct Review {
    items: Vec<Item>,
    removed: Vec<String>,
    /// The list as it would be; `None` where the draft is refused.
    result: Option<Vec<String>>,
    /// What still covers something that is removed; empty for nothing.
    covering: String,
    errors: Vec<String>,
}

impl Editor {
    /// What a draft comes to, on the whitelist as it is now.
    pub(super) async fn review(&self, draft: &WhitelistDraft) -> Result<Review> {
        let services = self.signed.services();
        let current = self.described.token.whitelist.entries();
        let pasted = services.read_entries(&draft.add);
        let refused = pasted.refused;
        let mut review = Review { removed: draft.remove.clone(), ..Review::default() };
        if let Some(TooMany { count, max }) = pasted.too_many {
            review.errors.push(format!(
                "You add {count} different entries, and a whitelist has at most {max} (the server's \
                 setting --whitelist-max-entries): nothing is saved. Name ranges instead of their \
                 addresses."
            ));
            return Ok(review);
        }
        let ended = pasted.ended;
        let add = pasted.texts();
        let nested = nested(current.iter().copied().chain(pasted.read()).collect());
        review.items = pasted
            .entries
            .into_iter()
            .map(|(text, entry)| match entry {
                Err(cure) => Item { text, tone: "refused", words: sentence(&cure) },
                Ok(entry) => judged(text, entry, current, &nested),
            })
            .collect();
        if refused > 0 {
            let were = if refused == 1 { "was" } else { "were" };
            let rest = if ended { ", and what follows was not read" } else { "" };
            review.errors.push(format!(
                "{} {were} refused{rest}: nothing is saved until each is corrected or removed.",
                count(refused, "entry")
            ));
            return Ok(review);
        }
        let request = ManageWhitelist { validate_only: true, ..self.request(draft, &add) };
        if add.is_empty() && draft.remove.is_empty() {
            return Ok(review);
        }
        match services.manage_whitelist(self.signed.caller(), request).await {
            Ok(managed) => {
                let entries = |entries: &[Cidr]| entries.iter().map(ToString::to_string).collect();
                review.result = Some(entries(managed.outcome.whitelist.entries()));
                review.covering = listed(&entries(&managed.outcome.still_covered_by));
            }
            Err(error) => review.errors = self.words(error)?,
        }
        Ok(review)
    }

    /// A refusal in the words of this page; what is none goes on as it is.
    pub(super) fn words(&self, error: Error) -> Result<Vec<String>> {
        let violations = match error {
            Error::Invalid(violations) | Error::Refused(_, violations)
                if !violations.is_empty() =>
            {
                violations
            }
            Error::Aborted(text) => return Ok(vec![sentence(&text)]),
            other => {
                let way = format!("/tokens/{}/whitelist", self.id);
                let error = PageError::of_change(other).at(&self.signed, Place::Tokens);
                return Err(error.with_way(way, "The whitelist as it is"));
            }
        };
        let words = |violation: &Violation| {
            match violation.reason {
            "WHITELIST_REQUIRED" => "This token may do what needs a whitelist, so it can't be without \
                 one: keep at least one entry, or add the addresses that it will be used from before \
                 you remove the last. A token that is not to be used any more is better deleted."
                .to_owned(),
            "WOULD_REMOVE_LAST" => "This would remove the last entry, and let the token be used from \
                 any address. If that is meant, use \u{201c}Allow any address\u{201d} below."
                .to_owned(),
            _ => sentence(&violation.description),
        }
        };
        Ok(violations.iter().map(words).collect())
    }
}

/// How an entry that can be read stands to the list, and to what was pasted with it.
fn judged(text: String, entry: Cidr, current: &[Cidr], nested: &[(Cidr, Option<Cidr>)]) -> Item {
    let reads =
        if text == entry.to_string() { String::new() } else { format!("Reads as {entry}. ") };
    if current.binary_search(&entry).is_ok() {
        return Item { text, tone: "present", words: format!("{reads}Is in the list already.") };
    }
    let place = nested.binary_search_by_key(&entry, |&(entry, _)| entry);
    match place.ok().and_then(|place| nested[place].1) {
        Some(wider) => Item {
            text,
            tone: "covered",
            words: format!("{reads}Is added, though {wider} covers it."),
        },
        None => Item { text, tone: "new", words: format!("{reads}Is added.") },
    }
}
