//! `portcullis pending --preview`: what is due today, and a calendar of what follows.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::connect::Session;
use super::failure::Failure;
use super::output::{note, print, table, when, word};
use super::proto;
use crate::policy::duration;

/// How long a bar is at most.
const BAR: i64 = 24;

/// Asks and prints.
pub(super) async fn run(session: &Session, account_id: String) -> Result<(), Failure> {
    let request = proto::PreviewLifecycleRequest { account_id };
    let answer = session.answer_as_text(session.tokens().preview_lifecycle(request).await)?;
    let Some(preview) = answer else { return Ok(()) };
    note(&assumptions(&preview));
    let rows = due(&preview);
    let mut text = String::new();
    if !rows.is_empty() {
        text += &table(["TODAY", "TOKEN", "NAME", "TYPE", "EFFECTIVE", "REMOVES"], &rows);
        if let Some(more) = unnamed(&preview) {
            text = text + &more + "\n";
        }
        text.push('\n');
    }
    let days: Vec<_> = preview.days.iter().filter(|day| total(day) > 0).collect();
    if days.is_empty() {
        note(&format!("nothing happens on any of the next {} days", preview.days.len()));
    } else if io::stdout().is_terminal() {
        text += &chart(&days);
    } else {
        text += &calendar(&days);
    }
    print(&text)
}

/// What all of it rests on.
fn assumptions(preview: &proto::PreviewLifecycleResponse) -> String {
    let length = |length: Option<&prost_types::Duration>| {
        let length = length.and_then(|length| Duration::try_from(*length).ok());
        duration::print(length.unwrap_or_default())
    };
    let mode = match preview.mode() {
        proto::LifecycleMode::Observe => {
            "The lifecycle only observes: none of this happens unless it is switched to enforce."
        }
        _ => "The lifecycle enforces: this happens.",
    };
    format!(
        "{mode}\nAs of {}, over {} live token(s), with a window of {} and a notice of {}, if nobody \
         uses anything and every notice is accepted at once. Days are those of UTC.\n",
        when(preview.time.as_ref()),
        preview.token_count,
        length(preview.window.as_ref()),
        length(preview.notice.as_ref()),
    )
}

fn due(preview: &proto::PreviewLifecycleResponse) -> Vec<[String; 6]> {
    let of = |what: &'static str, today: &Option<proto::PreviewedActions>| -> Vec<[String; 6]> {
        let actions = today.iter().flat_map(|today| &today.actions);
        actions.map(|action| row(what, action)).collect()
    };
    [of("carry out", &preview.carried_out_today), of("announce", &preview.announced_today)].concat()
}

fn row(what: &str, action: &proto::PreviewedAction) -> [String; 6] {
    let takes = match action.r#type() {
        proto::PendingActionType::Deletion => "the token".to_owned(),
        _ => action.scopes_taken.join(", "),
    };
    [
        what.to_owned(),
        action.token_id.clone(),
        action.token_name.clone(),
        word(action.r#type().as_str_name(), "PENDING_ACTION_TYPE_"),
        when(action.effective_time.as_ref()),
        takes,
    ]
}

/// How many of today the answer counts and does not name.
fn unnamed(preview: &proto::PreviewLifecycleResponse) -> Option<String> {
    let more = |today: &Option<proto::PreviewedActions>| {
        let today = today.as_ref()?;
        let all = today.deletions.saturating_add(today.downgrades);
        let named = i64::try_from(today.actions.len()).ok()?;
        (all > named).then_some(all - named)
    };
    match (more(&preview.carried_out_today), more(&preview.announced_today)) {
        (None, None) => None,
        (done, announced) => Some(format!(
            "and {} more to carry out, {} more to announce",
            done.unwrap_or(0),
            announced.unwrap_or(0)
        )),
    }
}

fn total(day: &proto::PreviewedDay) -> i64 {
    noticed(day).saturating_add(carried_out(day))
}

fn noticed(day: &proto::PreviewedDay) -> i64 {
    day.deletions_noticed.saturating_add(day.downgrades_noticed)
}

fn carried_out(day: &proto::PreviewedDay) -> i64 {
    day.deletions_carried_out.saturating_add(day.downgrades_carried_out)
}

/// `2026-01-31`.
fn date(day: &proto::PreviewedDay) -> String {
    when(day.start_time.as_ref()).split('T').next().unwrap_or_default().to_owned()
}

/// The days on which something happens, for programs and files.
fn calendar(days: &[&proto::PreviewedDay]) -> String {
    let row = |day: &&proto::PreviewedDay| {
        [
            date(day),
            day.deletions_noticed.to_string(),
            day.downgrades_noticed.to_string(),
            day.deletions_carried_out.to_string(),
            day.downgrades_carried_out.to_string(),
        ]
    };
    let rows: Vec<_> = days.iter().map(row).collect();
    let header =
        ["DAY", "DELETIONS NOTICED", "DOWNGRADES NOTICED", "TOKENS DELETED", "TOKENS DOWNGRADED"];
    table(header, &rows)
}

/// The same as bars, for people.
fn chart(days: &[&proto::PreviewedDay]) -> String {
    let most = days.iter().map(|day| noticed(day).max(carried_out(day))).max().unwrap_or(1).max(1);
    let cells: Vec<_> = days
        .iter()
        .map(|day| {
            [
                date(day),
                bar(day.deletions_noticed, day.downgrades_noticed, most),
                bar(day.deletions_carried_out, day.downgrades_carried_out, most),
            ]
        })
        .collect();
    let mut text = table(["DAY", "ANNOUNCED", "CARRIED OUT"], &cells);
    // Writing to a string can't fail.
    let _ = writeln!(text, "\n{:12}█ deletions  ░ downgrades", "");
    text
}

/// A bar of deletions and downgrades with their number; whatever is not nothing has a block.
fn bar(deletions: i64, downgrades: i64, most: i64) -> String {
    let blocks = |count: i64| match count.max(0) {
        0 => 0,
        count => usize::try_from(i128::from(count) * i128::from(BAR) / i128::from(most))
            .unwrap_or_default()
            .max(1),
    };
    let number = match (deletions, downgrades) {
        (0, 0) => " ".to_owned(),
        (deletions, downgrades) => format!(" {}", deletions.saturating_add(downgrades)),
    };
    format!("{}{}{number}", "█".repeat(blocks(deletions)), "░".repeat(blocks(downgrades)))
}

#[cfg(test)]
mod tests {
    use super::super::output::parse_time;
    use super::*;

    fn day(date: &str, numbers: [i64; 4]) -> proto::PreviewedDay {
        proto::PreviewedDay {
            start_time: Some(parse_time(&format!("{date}T00:00:00Z")).unwrap()),
            deletions_noticed: numbers[0],
            downgrades_noticed: numbers[1],
            deletions_carried_out: numbers[2],
            downgrades_carried_out: numbers[3],
        }
    }

    #[test]
    fn a_calendar_is_a_table_or_a_chart() {
        let days = [
            day("2026-11-22", [40, 8, 0, 0]),
            day("2026-11-29", [0, 0, 40, 8]),
            day("2026-12-01", [1, 0, 0, 0]),
        ];
        let days: Vec<_> = days.iter().collect();
        insta::assert_snapshot!(format!("{}\n{}", calendar(&days), chart(&days)));
    }

    #[test]
    fn what_is_not_named_is_counted() {
        let today = |deletions, named| {
            Some(proto::PreviewedActions {
                deletions,
                downgrades: 0,
                actions: vec![proto::PreviewedAction::default(); named],
            })
        };
        let mut preview = proto::PreviewLifecycleResponse {
            announced_today: today(250, 100),
            carried_out_today: today(3, 3),
            ..Default::default()
        };
        assert_eq!(unnamed(&preview).unwrap(), "and 0 more to carry out, 150 more to announce");
        assert_eq!(due(&preview).len(), 103);
        preview.announced_today = None;
        assert_eq!(unnamed(&preview), None);
    }
}
