//! `portcullis audit`.

use clap::Args;
use prost_types::Timestamp;

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
            ]
        })
        .collect();
    print(&table(["TIME", "ACTION", "ACTOR", "ROLE", "ADDRESS", "ACCOUNT", "TOKEN"], &rows))?;
    note_more(&answer.next_page_token);
    Ok(())
}
