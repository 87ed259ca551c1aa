//! What is seen of a token's requests: how often it was used, from where, and what was denied.
//!
//! # Invariants
//! - An address is shown, never filled into a form or a link: it may be a thief's.

use std::collections::BTreeMap;

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{PageError, Result, page};
use super::form::{Id, PageQuery, Query, link};
use super::frame::{Frame, Place};
use super::session::Signed;
use super::token::find;
use super::view::{Pages, When, number, when};
use crate::model::{ActiveCatalog, Denial, SeenAddress};
use crate::policy::text::sentence;
use crate::policy::time::Timestamp;
use crate::service::activity::{DenialChange, DenialFix, DenialQuery, TokenUsage};
use crate::service::lists::{PageItem, Paging};

/// Days that the chart has at most: the latest.
const CHART_DAYS: i64 = 60;
/// How high a bar is at most, and how wide with the gap after it.
const BAR: (u64, i64) = (40, 10);
/// Lines of the table at most: the latest.
const MAX_LINES: usize = 100;
/// Denials on a page.
const SIZE: i32 = 50;

/// One day's bar.
pub(super) struct UseDay {
    pub(super) x: i64,
    pub(super) y: String,
    pub(super) height: String,
    /// `3 January 2027: 1,204`.
    pub(super) words: String,
}

/// How often a token was used, day by day.
pub(super) struct UseChart {
    /// Only those on which it was used.
    pub(super) days: Vec<UseDay>,
    pub(super) width: i64,
    /// What the chart shows, in words.
    pub(super) label: String,
    /// Day, scope and number, the latest day first.
    pub(super) lines: Vec<(String, String, String)>,
    pub(super) more: bool,
}

pub(super) fn chart(usage: &TokenUsage, now: Timestamp) -> UseChart {
    let last = now.day();
    let first = usage.since.day().max(last - CHART_DAYS + 1);
    let mut by_day = BTreeMap::<i64, u64>::new();
    for count in usage.counts.iter().filter(|count| (first..=last).contains(&count.day)) {
        *by_day.entry(count.day).or_default() += count.count;
    }
    let most = by_day.values().copied().max().unwrap_or(0);
    let total: u64 = by_day.values().sum();
    let days = by_day.into_iter().map(|(day, count)| {
        // A day on which it was used at all can be seen.
        let height = (BAR.0 as f64 * count as f64 / most.max(1) as f64).max(1.0);
        UseDay {
            x: (day - first) * BAR.1,
            y: format!("{:.1}", BAR.0 as f64 - height),
            height: format!("{height:.1}"),
            words: format!("{}: {}", Timestamp::of_day(day).to_day(), number(count)),
        }
    });
    let length = last - first + 1;
    let line = |count: &crate::model::UseCount| {
        let scope = usage.in_force.name_of(count.scope_id)?.to_string();
        Some((Timestamp::of_day(count.day).to_day(), scope, number(count.count)))
    };
    UseChart {
        days: days.collect(),
        width: length * BAR.1,
        label: format!(
            "{} allowed requests in {length} days, at most {} a day",
            number(total),
            number(most)
        ),
        lines: usage.counts.iter().filter_map(line).take(MAX_LINES).collect(),
        more: usage.counts.len() > MAX_LINES,
    }
}

/// An address that the token was used from.
pub(super) struct AddressLine {
    pub(super) address: String,
    pub(super) first: When,
    pub(super) last: When,
}

pub(super) fn address(seen: &SeenAddress, now: Timestamp) -> AddressLine {
    AddressLine {
        address: seen.address.to_string(),
        first: when(seen.first, now),
        last: when(seen.last, now),
    }
}

/// Denials of one hour that are alike.
struct DenialLine {
    what: String,
    address: String,
    operation: String,
    count: String,
    first: When,
    last: When,
    fix: String,
    /// Where the change can be made, in words and as a link; `None` where none would do.
    way: Option<(&'static str, String)>,
}

#[derive(Template)]
#[template(path = "page/denials.html")]
struct DenialsPage {
    frame: Frame,
    id: String,
    name: String,
    denials: Vec<DenialLine>,
    pages: Pages,
}

/// The denied requests of one token.
pub(super) async fn denials(
    signed: Signed,
    Id(id): Id,
    Query(PageQuery { page: number }): Query<PageQuery>,
) -> Result<Response> {
    let token = find(&signed, &id).await?.token;
    let id = token.id.to_string();
    let services = signed.services();
    let now = services.now();
    let query = DenialQuery {
        account_id: "",
        token_id: &id,
        paging: Paging { size: SIZE, token: &number },
    };
    let show = |denial: Denial, fix: DenialFix, in_force: &ActiveCatalog| {
        PageItem::unmeasured(line(denial, fix, in_force, now, token.is_live(now)))
    };
    let listed = services.list_denials(signed.caller(), query, show).await;
    let listed = listed.map_err(|error| PageError::from(error).at(&signed, Place::Tokens))?.page;
    let path = format!("/tokens/{id}/denials");
    let pages = Pages::onwards(&number, &listed.next, |page| link(&path, &[("page", page)]));
    let view = DenialsPage {
        frame: Frame {
            how: vec![format!("portcullis denials --token {id}")],
            ..signed.frame(format!("Denied requests of {}", token.name), Place::Tokens)
        },
        name: token.name.clone(),
        denials: listed.items,
        pages,
        id,
    };
    Ok(page(StatusCode::OK, &view))
}

fn line(
    denial: Denial,
    fix: DenialFix,
    in_force: &ActiveCatalog,
    now: Timestamp,
    live: bool,
) -> DenialLine {
    let denied = denial.denied;
    let id = denied.token_id;
    let scope = denied.scope_id.and_then(|scope| in_force.name_of(scope));
    let what = match denied.reason {
        Some(reason) => sentence(&reason.word().to_lowercase().replace('_', " ")),
        None => "Other requests, for any reason and from any address".to_owned(),
    };
    DenialLine {
        what: what.trim_end_matches('.').to_owned(),
        address: denied.address.map(|address| address.to_string()).unwrap_or_default(),
        operation: scope.map_or(denied.operation, ToString::to_string),
        count: number(denied.count),
        first: when(denied.first, now),
        last: when(denied.last, now),
        way: fix.change.filter(|_| live).map(|change| match change {
            DenialChange::AddAddress(_) => {
                ("Edit the whitelist", format!("/tokens/{id}/whitelist"))
            }
            DenialChange::ReplaceWithScope(_) => {
                let account = denied.account_id.to_string();
                ("New token", link("/tokens/new", &[("account", &account)]))
            }
        }),
        fix: fix.text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{StoredCatalog, UseCount};
    use crate::policy::id::TokenId;
    use crate::policy::scope::ScopeId;

    #[test]
    fn a_chart_has_a_bar_for_each_day_of_use_and_says_it_in_words() {
        let toml = "[[scope]]\nname = \"a.read\"\naccess = \"read\"\n".to_owned();
        let scope_ids = vec![("a.read".parse().unwrap(), ScopeId(1))];
        let stored = StoredCatalog { version: 1, toml, applied: Timestamp(0), scope_ids };
        let count = |day, count| UseCount {
            token_id: TokenId(uuid::Uuid::nil()),
            scope_id: ScopeId(1),
            day,
            count,
        };
        let usage = TokenUsage {
            counts: vec![count(99, 3000), count(97, 1), count(20, 7)],
            since: Timestamp::of_day(10),
            in_force: Arc::new(ActiveCatalog::read(stored).unwrap()),
        };
        let chart = chart(&usage, Timestamp::of_day(100));
        assert_eq!((chart.width, chart.days.len()), (600, 2));
        assert_eq!((chart.days[1].x, &*chart.days[1].height), (580, "40.0"));
        assert_eq!((chart.days[0].x, &*chart.days[0].height), (560, "1.0"));
        assert_eq!(chart.days[1].words, "10 April 1970: 3,000");
        assert_eq!(chart.label, "3,001 allowed requests in 60 days, at most 3,000 a day");
        assert_eq!((chart.lines.len(), chart.more), (3, false));
    }
}
