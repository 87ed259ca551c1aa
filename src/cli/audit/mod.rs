//! `portcullis audit`: the record as a list, exported, followed, and verified and compared without a server.

mod export;
mod format;
mod lost;
mod verify;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::{Map, Value};

use super::connect::Session;
use super::failure::Failure;
use super::output::{note, note_more, parse_time, print, table, when};
use super::paging::pages;
use super::{Common, proto};

pub(super) use export::{chain, event_line, page, previous};

/// What `audit` takes.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
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
    /// Stop after this many; after 100 unless set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Write events as JSON lines, the oldest first, in a form that `audit verify` checks
    ///
    /// For operators the first line says where the file begins, and the last one how far the chain goes: keep that
    /// line elsewhere, and compare later exports with it. Account admins get the events of their account, without
    /// hashes: nobody can verify the chain without the events of the other accounts.
    ///
    /// Examples:
    ///   portcullis audit export --file audit-2026.jsonl
    ///   portcullis audit export --since 2026-01-01T00:00:00Z --format ocsf
    #[command(verbatim_doc_comment)]
    Export(export::ExportArgs),
    /// Write new events as JSON lines as they come, until it is interrupted
    ///
    /// To continue, give --after the last revision that was written: no event is left out. For operators.
    ///
    /// Example:
    ///   portcullis audit follow --after 4711 >> audit.jsonl
    #[command(verbatim_doc_comment)]
    Follow(export::FollowArgs),
    /// Check an export without a server: which line is the first that is wrong, and why
    ///
    /// Finds events that were changed, removed, swapped or inserted. Whether the newest events were removed, or all
    /// hashes recomputed, is found by comparing with an earlier export: --anchor or --former.
    ///
    /// Exit codes: 0 sound, 1 not sound, 2 wrong usage or a file that can't be read.
    ///
    /// Examples:
    ///   portcullis audit verify audit.jsonl --former audit-of-january.jsonl
    ///   portcullis audit verify audit.jsonl --evidence evidence.json
    #[command(verbatim_doc_comment)]
    Verify(verify::VerifyArgs),
    /// List what a restored store lacks, by an export from before the restore, without a server
    ///
    /// Compares two exports of one installation: from the first event that differs on, what the former one has was lost.
    /// With --commands it prints a shell script that repeats what narrowed: deletions, revocations, expiries,
    /// whitelists, admins, suspensions and closures. Read it before you run it.
    ///
    /// Examples:
    ///   portcullis audit lost former.jsonl restored.jsonl
    ///   portcullis audit lost former.jsonl restored.jsonl --commands > repeat.sh
    #[command(verbatim_doc_comment)]
    Lost(lost::LostArgs),
}

pub(super) async fn run(args: AuditArgs) -> Result<(), Failure> {
    let Some(command) = args.command else { return list(args).await };
    if args.account.is_some()
        || args.token.is_some()
        || args.since.is_some()
        || args.until.is_some()
        || args.limit.is_some()
    {
        let text = "flags of the list don't go with export, follow, verify or lost: write --since and \
                    --until after export, and leave out the others";
        return Err(Failure::Usage(text.to_owned()));
    }
    match command {
        AuditCommand::Export(export) => {
            export::export(&Session::open(args.common).await?, export).await
        }
        AuditCommand::Follow(follow) => {
            export::follow(&Session::open(args.common).await?, follow).await
        }
        AuditCommand::Verify(verify) => verify::run(&verify, args.common.output.format),
        AuditCommand::Lost(lost) => lost::run(&lost, args.common.output.format),
    }
}

async fn list(args: AuditArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let filter = proto::ListAuditEventsRequest {
        account_id: args.account.unwrap_or_default(),
        token_id: args.token.unwrap_or_default(),
        start_time: args.since,
        end_time: args.until,
        ..Default::default()
    };
    let (audit_events, next_page_token) =
        pages(Some(args.limit.unwrap_or(100)), async |page_size, page_token| {
            let request = proto::ListAuditEventsRequest { page_size, page_token, ..filter.clone() };
            let page = page(&session, request).await?;
            Ok((page.audit_events, page.next_page_token))
        })
        .await?;
    let answer = proto::ListAuditEventsResponse { audit_events, next_page_token, chain: None };
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

/// The members that a change added, removed or gave another value: `name=after`, or `name=before→after`. Both texts are
/// JSON objects; one that is not counts as empty.
fn changed(before: &str, after: &str) -> String {
    let read = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (before, mut after) = (read(before), read(after));
    // `portcullis evidence` shows it; here it would hide the rest.
    after.remove("evidence");
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
            ("", r#"{"evidence":{"admins":[]},"state":"deleted"}"#, "state=deleted"),
            ("", "", ""),
        ] {
            assert_eq!(changed(before, after), shown);
        }
    }
}
