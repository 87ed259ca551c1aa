//! `portcullis audit`.

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Map, Value};

use super::connect::Session;
use super::failure::Failure;
use super::output::{note, note_more, parse_time, print, table, when};
use super::paging::pages;
use super::{Common, proto};

/// What `audit` takes.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only events that concern this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only events that concern this token
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Only events at this time or after it, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only events before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Stop after this many
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    pub(super) common: Common,
}

pub(super) async fn run(args: AuditArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let mut client = session.tokens();
    let filter = proto::ListAuditEventsRequest {
        account_id: args.account.unwrap_or_default(),
        token_id: args.token.unwrap_or_default(),
        start_time: args.since,
        end_time: args.until,
        ..Default::default()
    };
    let (audit_events, next_page_token) = pages(Some(args.limit), async |page_size, page_token| {
        let request = proto::ListAuditEventsRequest { page_size, page_token, ..filter.clone() };
        let page = client.list_audit_events(request).await.map_err(|s| session.failure(s))?;
        let page = page.into_inner();
        Ok((page.audit_events, page.next_page_token))
    })
    .await?;
    let answer = proto::ListAuditEventsResponse { audit_events, next_page_token };
    if session.print_json(&answer)? {
        return Ok(());
    }
    if answer.audit_events.is_empty() {
        note("no events");
        return Ok(());
    }
    let rows: Vec<_> = answer
        .audit_events
        .iter()
        .map(|event| {
            [
                when(event.time.as_ref()),
                event.action.clone(),
                event.actor.clone(),
                event.actor_role.clone(),
                event.client_address.clone(),
                event.account_id.clone(),
                event.token_id.clone(),
                changed(&event.before_json, &event.after_json),
            ]
        })
        .collect();
    let header = ["TIME", "ACTION", "ACTOR", "ROLE", "ADDRESS", "ACCOUNT", "TOKEN", "CHANGE"];
    print(&table(header, &rows))?;
    note_more(&answer.next_page_token);
    Ok(())
}

/// What is after a change and was not before it, or was otherwise: `name=after`, or
/// `name=before→after`. Both are objects in JSON; where one is none, there is nothing of it.
fn changed(before: &str, after: &str) -> String {
    let read = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (before, after) = (read(before), read(after));
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let gone = gone.map(|(name, was)| format!("{name}={}→", short(was)));
    let nothing = |value: &Value| matches!(value, Value::Null) || value == &Value::Array(vec![]);
    let here =
        after.iter().filter(|(name, is)| before.get(*name).map_or(!nothing(is), |was| was != *is));
    let here = here.map(|(name, is)| match before.get(name) {
        None | Some(Value::Null) => format!("{name}={}", short(is)),
        Some(was) => format!("{name}={}→{}", short(was), short(is)),
    });
    gone.chain(here).collect::<Vec<_>>().join(" ")
}

/// A text without its quotes where it is clear without them.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains(['"', ' ', '→']) => {
            text.clone()
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn change_shows_only_what_differs() {
        for (before, after, shown) in [
            (
                "",
                r#"{"kind":"CUSTOM","name":"a b","routes":[],"scopes":["x","y"]}"#,
                r#"kind=CUSTOM name="a b" scopes=["x","y"]"#,
            ),
            (
                r#"{"entries":["192.0.2.1"],"version":1}"#,
                r#"{"entries":[],"version":1}"#,
                r#"entries=["192.0.2.1"]→[]"#,
            ),
            (
                r#"{"delete_time":null,"name":"a"}"#,
                r#"{"delete_time":"2026-01-01","name":"a"}"#,
                "delete_time=2026-01-01",
            ),
            (r#"{"name":"a","role":"pep"}"#, "", "name=a→ role=pep→"),
            ("", "", ""),
        ] {
            assert_eq!(changed(before, after), shown);
        }
    }
}
