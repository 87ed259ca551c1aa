//! What pages show of domain values: words, dates, and the bar of a window.

use std::time::Duration;

use crate::model::{ActiveCatalog, Notice, NoticeState, PendingAction, Token};
use crate::policy::duration;
use crate::policy::lifecycle::Calendar;
use crate::policy::network::Whitelist;
use crate::policy::time::Timestamp;
use crate::policy::token::{PendingActionType, TokenKind, TokenState};
use crate::service::LifecycleView;
use crate::service::explain::{PendingActionView, describe};

/// An instant, as people read it and as machines do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct When {
    /// RFC 3339.
    pub(super) iso: String,
    /// `3 January 2027, 14:05 UTC`.
    pub(super) minute: String,
    /// `3 days ago`, `in 6 days`.
    pub(super) relative: String,
}

pub(super) fn when(at: Timestamp, now: Timestamp) -> When {
    let seconds = (at.0 - now.0).div_euclid(1_000_000);
    let length = about(seconds.abs());
    let relative = match seconds {
        _ if length.is_empty() && seconds >= 0 => "in a moment".to_owned(),
        _ if length.is_empty() => "just now".to_owned(),
        0.. => format!("in {length}"),
        _ => format!("{length} ago"),
    };
    When { iso: at.to_string(), minute: at.to_minute(), relative }
}

/// A length in its largest unit, cut off; empty for seconds that are few.
fn about(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds @ 5..) => duration::about(Duration::from_secs(seconds)),
        _ => String::new(),
    }
}

/// How much of the window has passed since something was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar {
    /// From 0 to 100.
    pub(super) percent: String,
    /// Where the notice falls due, of 100.
    pub(super) notice: String,
    /// `calm`, `due` once the notice is, `over` at the end.
    pub(super) tone: &'static str,
    /// In words: `Unused for 12 of 45 days`.
    pub(super) label: String,
}

pub(super) fn bar(basis: Timestamp, calendar: &Calendar) -> Bar {
    let window = calendar.settings.window();
    let share = |length: f64| 100.0 * length / window.as_secs_f64();
    let idle = ((calendar.now.0 - basis.0) as f64 / 1e6).max(0.0);
    let notice = share((window - calendar.settings.notice()).as_secs_f64());
    let percent = share(idle).clamp(0.0, 100.0);
    let tone = match percent {
        _ if percent >= 100.0 => "over",
        _ if percent >= notice => "due",
        _ => "calm",
    };
    let idle = about(idle as i64);
    let idle = if idle.is_empty() { "a moment".to_owned() } else { idle };
    Bar {
        percent: format!("{percent:.1}"),
        notice: format!("{notice:.1}"),
        tone,
        label: format!("Unused for {idle}, of {}", duration::in_words(window)),
    }
}

pub(super) fn kind_words(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::ReadOnly => "Read only",
        TokenKind::ReadWrite => "Read and write",
        TokenKind::Custom => "Custom",
    }
}

/// `1 scope`, `2 scopes`, `2 days`, `2 entries`.
pub(super) fn count(number: usize, what: &str) -> String {
    match what.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        _ if number == 1 => format!("1 {what}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {what}s"),
    }
}

/// The first of some entries, and how many more there are: what explains them must not be longer than a
/// whitelist may be.
pub(super) fn listed<T: AsRef<str>>(entries: &[T]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<_> = entries.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match entries.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What a token may do, in some words.
pub(super) fn may_words(token: &Token) -> String {
    match token.kind {
        TokenKind::ReadOnly if token.downgraded.is_some() => {
            "Read only, since a downgrade".to_owned()
        }
        TokenKind::Custom => format!("Custom: {}", count(token.scopes.len(), "scope")),
        kind => kind_words(kind).to_owned(),
    }
}

/// From where it may be used: two entries at most, one where there are more than two.
#[derive(Debug, Clone)]
pub(super) struct FromWhere {
    /// None: from any address.
    pub(super) entries: Vec<String>,
    /// How many more there are.
    pub(super) more: usize,
}

pub(super) fn from_where(whitelist: &Whitelist) -> FromWhere {
    let all = whitelist.entries();
    let shown = if all.len() > 2 { 1 } else { all.len() };
    let entries = all.iter().take(shown).map(ToString::to_string).collect();
    FromWhere { entries, more: all.len() - shown }
}

/// When it ended, if it has by `now`, and what happened then.
pub(super) fn ended(token: &Token, now: Timestamp) -> Option<(Timestamp, &'static str)> {
    match token.state {
        TokenState::Active => token.expired(now).map(|at| (at, "Expired")),
        TokenState::Deleted { at } => Some((at, "Deleted")),
        TokenState::DeletedUnused { at } => Some((at, "Deleted, as it was not used")),
        TokenState::RevokedLeaked { at } => Some((at, "Revoked: leaked")),
    }
}

/// An admin's notice.
#[derive(Debug, Clone)]
pub(super) struct NoticeView {
    pub(super) email: String,
    /// `accepted`, `queued`, `failing`.
    pub(super) tone: &'static str,
    pub(super) words: String,
}

/// A pending action.
#[derive(Debug, Clone)]
pub(super) struct PendingView {
    pub(super) token_id: String,
    pub(super) token_name: String,
    pub(super) account_id: String,
    /// `Deletion`, `Downgrade`.
    pub(super) kind: &'static str,
    /// What will happen: `Will be deleted`.
    pub(super) what: String,
    /// When, at the earliest.
    pub(super) effective: When,
    /// What is left, as a badge says it: `6 days left`.
    pub(super) left: String,
    pub(super) bar: Bar,
    pub(super) description: PendingActionView,
    pub(super) notices: Vec<NoticeView>,
}

pub(super) fn pending(
    action: &PendingAction,
    in_force: &ActiveCatalog,
    outlook: &LifecycleView,
) -> PendingView {
    let now = outlook.calendar.now;
    let description = describe(action, in_force, outlook);
    let (kind, what) = match action.action() {
        PendingActionType::Deletion => ("Deletion", "Will be deleted".to_owned()),
        PendingActionType::Downgrade => {
            ("Downgrade", format!("Will lose {}", count(description.taken.len(), "scope")))
        }
    };
    let left = about((description.effective.0 - now.0).div_euclid(1_000_000));
    let left = match (&description.held_because, left.as_str()) {
        (Some(_), _) => "Held back".to_owned(),
        (None, "") => "Now".to_owned(),
        (None, left) => format!("{left} left"),
    };
    PendingView {
        token_id: action.token_id.to_string(),
        token_name: action.token_name.clone(),
        account_id: action.account_id.to_string(),
        kind,
        what,
        effective: when(description.effective, now),
        left,
        bar: bar(action.basis, &outlook.calendar),
        notices: notices(&action.notices),
        description,
    }
}

/// How far each admin's notice got.
pub(super) fn notices(notices: &[Notice]) -> Vec<NoticeView> {
    let view = |notice: &Notice| {
        let (tone, words) = match &notice.state {
            NoticeState::Queued => ("queued", "not accepted by the mail server yet".to_owned()),
            NoticeState::Accepted(at) => ("accepted", format!("accepted {}", at.to_minute())),
            NoticeState::Failing(why) => {
                ("failing", format!("not accepted by the mail server: {why}"))
            }
        };
        NoticeView { email: notice.email.clone(), tone, words }
    };
    notices.iter().map(view).collect()
}

/// A token's pending actions, the first to take effect first.
pub(super) fn pending_of(
    token: &Token,
    in_force: &ActiveCatalog,
    outlook: &LifecycleView,
) -> Vec<PendingView> {
    let mut views: Vec<_> =
        token.pending.iter().map(|action| pending(action, in_force, outlook)).collect();
    views.sort_by_key(|view| view.description.effective);
    views
}

/// The pages of a list.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    /// `26 to 50 of 10,000`; empty where that is not known.
    pub(super) words: String,
    /// Paths of the first page, where it is another one, and of those before and after; empty for none.
    pub(super) first: String,
    pub(super) previous: String,
    pub(super) next: String,
}

impl Pages {
    /// Of a list that is read onwards: `asked` for a page, it gave `next`, both by their page tokens;
    /// `link` leads to one.
    pub(super) fn onwards(asked: &str, next: &str, link: impl Fn(&str) -> String) -> Self {
        Self {
            first: if asked.is_empty() { String::new() } else { link("") },
            next: if next.is_empty() { String::new() } else { link(next) },
            ..Self::default()
        }
    }

    /// Whether this is the first one.
    pub(super) fn is_first(&self) -> bool {
        self.first.is_empty() && self.previous.is_empty()
    }
}

/// A number with a comma after each thousand.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lifecycle::Settings;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn instants_in_words() {
        let now = at(100 * DAY);
        for (seconds, words) in [
            (0, "in a moment"),
            (-2, "just now"),
            (-5, "5 seconds ago"),
            (-90, "1 minute ago"),
            (-3 * HOUR, "3 hours ago"),
            (-2 * DAY - HOUR, "2 days ago"),
            (6 * DAY + 1, "in 6 days"),
        ] {
            assert_eq!(when(at(100 * DAY + seconds), now).relative, words);
        }
    }

    #[test]
    fn bars_show_the_window() {
        let calendar = Calendar { settings: Settings::default(), now: at(100 * DAY) };
        let of = |days: i64| bar(at((100 - days) * DAY), &calendar);
        assert_eq!((of(0).percent.as_str(), of(0).tone), ("0.0", "calm"));
        assert_eq!(
            (of(9).percent.as_str(), of(9).label.as_str()),
            ("20.0", "Unused for 9 days, of 45 days")
        );
        assert_eq!((of(38).tone, of(45).tone, of(90).percent.as_str()), ("due", "over", "100.0"));
        assert_eq!(of(-1).percent, "0.0");
    }

    #[test]
    fn every_page_of_a_list_keeps_what_was_asked_for() {
        let link = |page: &str| format!("/pending?type=DELETION{page}");
        let first = Pages::onwards("", "b", link);
        assert!(first.is_first());
        assert_eq!((first.first.as_str(), first.next.as_str()), ("", "/pending?type=DELETIONb"));
        let last = Pages::onwards("b", "", link);
        assert!(!last.is_first());
        assert_eq!((last.first.as_str(), last.next.as_str()), ("/pending?type=DELETION", ""));
    }

    #[test]
    fn numbers() {
        assert_eq!((count(1, "entry"), count(2, "entry")), ("1 entry".into(), "2 entries".into()));
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(n), text);
        }
    }
}
