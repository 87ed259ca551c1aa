//! `portcullis pending`.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use prost_types::Timestamp;

use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, note, note_more, parse_time, print, table, when, word};
use super::paging::{Limit, pages};
use super::{Common, preview, proto};

/// What `pending` takes.
#[derive(Debug, Args)]
pub struct PendingArgs {
    /// Only those of this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only those of this token
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Only those of this type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    action_type: Option<ActionType>,
    /// Only those that take effect before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<Timestamp>,
    /// Show what is due today and a calendar of what follows, announced or not
    #[arg(long, conflicts_with_all = ["token", "action_type", "before", "limit"])]
    preview: bool,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What a pending action takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActionType {
    /// Some of what the token may do
    Downgrade,
    /// The token
    Deletion,
}

pub(super) async fn run(args: PendingArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    if args.preview {
        return preview::run(&session, args.account.unwrap_or_default()).await;
    }
    let mut client = session.tokens();
    let filter = proto::ListPendingActionsRequest {
        account_id: args.account.unwrap_or_default(),
        token_id: args.token.unwrap_or_default(),
        r#type: match args.action_type {
            None => proto::PendingActionType::Unspecified,
            Some(ActionType::Downgrade) => proto::PendingActionType::Downgrade,
            Some(ActionType::Deletion) => proto::PendingActionType::Deletion,
        }
        .into(),
        effective_before: args.before,
        ..Default::default()
    };
    let (pending_actions, next_page_token) =
        pages(args.limit.limit, async |page_size, page_token| {
            let request =
                proto::ListPendingActionsRequest { page_size, page_token, ..filter.clone() };
            let page = client.list_pending_actions(request).await;
            let page = page.map_err(|s| session.failure(s))?.into_inner();
            Ok((page.pending_actions, page.next_page_token))
        })
        .await?;
    let answer = proto::ListPendingActionsResponse { pending_actions, next_page_token };
    if session.print_json(&answer)? {
        return Ok(());
    }
    if answer.pending_actions.is_empty() {
        note("nothing is pending");
        return Ok(());
    }
    let rows: Vec<_> = answer.pending_actions.iter().map(row).collect();
    print(&table(["ACTION", "TOKEN", "TYPE", "EFFECTIVE", "NOTICES", "REMOVES"], &rows))?;
    held(&answer.pending_actions).iter().for_each(|held| note(held));
    note_more(&answer.next_page_token);
    Ok(())
}

fn row(action: &proto::PendingAction) -> [String; 6] {
    let takes = match action.r#type() {
        proto::PendingActionType::Deletion => "the token".to_owned(),
        _ => action.scopes_taken.join(", "),
    };
    [
        action.pending_action_id.clone(),
        action.token_id.clone(),
        word(action.r#type().as_str_name(), "PENDING_ACTION_TYPE_"),
        when(action.effective_time.as_ref()),
        notices(&action.notices),
        takes,
    ]
}

/// How far they got.
pub(super) fn notices(notices: &[proto::Notice]) -> String {
    let count = |state| notices.iter().filter(|notice| notice.state() == state).count();
    let accepted = count(proto::NoticeState::Accepted);
    let mut text = format!("{accepted} of {} accepted", notices.len());
    match count(proto::NoticeState::Failing) {
        0 => {}
        // Writing to a string can't fail.
        failing => drop(write!(text, ", {failing} failing")),
    }
    text
}

/// What holds actions back, each cause once: it is often the same.
fn held(actions: &[proto::PendingAction]) -> Vec<String> {
    let mut causes: Vec<(&str, Vec<&str>)> = Vec::new();
    for action in actions.iter().filter(|action| !action.held_because.is_empty()) {
        let id = action.pending_action_id.as_str();
        match causes.iter_mut().find(|(cause, _)| *cause == action.held_because) {
            Some((_, ids)) => ids.push(id),
            None => causes.push((&action.held_because, vec![id])),
        }
    }
    let sentence = |(cause, ids): (&str, Vec<&str>)| match ids.as_slice() {
        [id] => format!("{} is held back: {}", clean(id), clean(cause)),
        ids => format!("{} actions are held back: {}", ids.len(), clean(cause)),
    };
    causes.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_notices_and_what_holds_back_is_told_once() {
        let notice = |email: &str, state: proto::NoticeState, failure: &str| proto::Notice {
            email: email.to_owned(),
            state: state.into(),
            accept_time: None,
            failure: failure.to_owned(),
        };
        let action = proto::PendingAction {
            pending_action_id: "act_1".to_owned(),
            token_id: "tok_1".to_owned(),
            r#type: proto::PendingActionType::Downgrade.into(),
            scopes_taken: vec!["a.write".to_owned(), "b.write".to_owned()],
            effective_time: Some(parse_time("2026-02-15T00:00:00Z").unwrap()),
            notices: vec![
                notice("a@x.example", proto::NoticeState::Accepted, ""),
                notice("b@x.example", proto::NoticeState::Failing, "550 no such user"),
            ],
            ..Default::default()
        };
        assert_eq!(
            row(&action),
            [
                "act_1",
                "tok_1",
                "downgrade",
                "2026-02-15T00:00:00Z",
                "1 of 2 accepted, 1 failing",
                "a.write, b.write"
            ]
        );
        let cause = "b@x.example is refused";
        let held_by = |id: &str, cause: &str| proto::PendingAction {
            pending_action_id: id.to_owned(),
            held_because: cause.to_owned(),
            ..action.clone()
        };
        let actions =
            [held_by("act_1", cause), held_by("act_2", "x"), held_by("act_3", "x"), action];
        assert_eq!(
            held(&actions),
            ["act_1 is held back: b@x.example is refused", "2 actions are held back: x"]
        );
    }
}
