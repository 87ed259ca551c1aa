//! `portcullis evidence`: what an action was based on, and its place in the chain over audit events.

use clap::Args;
use serde_json::Value;

use super::audit::{chain, event_line, page, previous};
use super::connect::Session;
use super::failure::Failure;
use super::output::{fields, note, print, print_line, table};
use super::paging::pages;
use super::{Common, proto};
use crate::audit::{Evidence, EvidenceEvent};

/// What `evidence` takes.
#[derive(Debug, Args)]
pub struct EvidenceArgs {
    /// The id of the action, as mails, `pending` and the audit record have it
    #[arg(value_name = "ACTION")]
    action_id: String,
    #[command(flatten)]
    pub(super) common: Common,
}

pub(super) async fn run(args: EvidenceArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let evidence = collect(&session, args.action_id).await?;
    if let Err(fault) = evidence.check() {
        // It is shown all the same, since it helps to find what was changed.
        note(&format!("This proves nothing: {fault}."));
    }
    if session.is_json() {
        let text = serde_json::to_string_pretty(&evidence);
        return print_line(&text.map_err(|error| Failure::Output(error.into()))?);
    }
    print(&shown(&evidence))
}

async fn collect(session: &Session, action_id: String) -> Result<Evidence, Failure> {
    let filter = proto::ListAuditEventsRequest {
        pending_action_id: action_id.clone(),
        oldest_first: true,
        ..Default::default()
    };
    let mut of = None;
    let (found, _) = pages(None, async |page_size, page_token| {
        let request = proto::ListAuditEventsRequest { page_size, page_token, ..filter.clone() };
        let answer = page(session, request).await?;
        if of.is_none() {
            of = chain(&answer)?;
        }
        Ok((answer.audit_events, answer.next_page_token))
    })
    .await?;
    let Some(chain) = of else {
        return Err(Failure::Refused(
            "only operators can have evidence: it is proven by the chain over the events of all \
             accounts"
                .to_owned(),
        ));
    };
    if found.is_empty() {
        return Err(Failure::Refused(format!(
            "the audit record has no event of {action_id}: it is of another server, or was pruned"
        )));
    }
    let mut events = Vec::with_capacity(found.len());
    for event in &found {
        let before = match event.revision - 1 {
            before if before == chain.begin.revision => chain.begin,
            before => previous(session, before).await?,
        };
        events.push(EvidenceEvent { previous_hash: before.hash, event: event_line(event)? });
    }
    Ok(Evidence::new(action_id, chain.installation_id, events))
}

/// As text.
fn shown(evidence: &Evidence) -> String {
    let basis = &evidence.basis;
    let text = |name: &str| basis[name].as_str().unwrap_or_default().to_owned();
    let used = |name: &str| match (basis, basis[name].as_str()) {
        (Value::Null, _) => String::new(),
        (_, None) => "never".to_owned(),
        (_, Some(time)) => time.to_owned(),
    };
    let event = evidence.carried_out();
    let of =
        |field: fn(&crate::audit::EventLine) -> &String| event.map_or("", |e| field(e)).to_owned();
    let settings = &basis["settings"];
    let setting = |name: &str| settings[name].as_str().map(|value| format!("{name} {value}"));
    let mut shown = fields(&[
        ("action", evidence.pending_action_id.clone()),
        ("done", event.map_or("nothing was carried out", |e| &e.action).to_owned()),
        ("carried out", of(|event| &event.time)),
        ("token", of(|event| &event.token_id)),
        ("account", of(|event| &event.account_id)),
        ("announced", text("announce_time")),
        ("unused since", text("basis_time")),
        ("last use", used("last_use_time")),
        ("last write", used("last_write_time")),
        ("every admin notified", text("accepted_time")),
        (
            "settings",
            [setting("window"), setting("notice")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("installation", evidence.installation_id.clone()),
    ]);
    let list = |name: &str| basis[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let cell = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    if !list("scope_uses").is_empty() {
        let rows: Vec<_> = list("scope_uses")
            .iter()
            .map(|used| [cell(used, "scope"), cell(used, "last_use_time")])
            .collect();
        shown.push_str(&format!("\n{}", table(["SCOPE", "LAST USE"], &rows)));
    }
    if !list("notices").is_empty() {
        let admins = list("admins");
        let rows: Vec<_> = list("notices")
            .iter()
            .map(|notice| {
                let is_admin = admins.contains(&notice["recipient"]);
                [
                    cell(notice, "recipient"),
                    if is_admin { "yes" } else { "no" }.to_owned(),
                    cell(notice, "accept_time"),
                    cell(notice, "mail_id"),
                    cell(notice, "answer"),
                ]
            })
            .collect();
        let header = ["NOTICE TO", "ADMIN THEN", "ACCEPTED", "MAIL", "ANSWER"];
        shown.push_str(&format!("\n{}", table(header, &rows)));
    }
    let rows: Vec<_> = evidence
        .events
        .iter()
        .map(|EvidenceEvent { event, .. }| {
            [
                event.revision.to_string(),
                event.time.clone(),
                event.action.clone(),
                event.token_id.clone(),
                event.hash.to_string(),
            ]
        })
        .collect();
    let header = ["REVISION", "TIME", "EVENT", "TOKEN", "HASH"];
    shown.push_str(&format!("\n{}", table(header, &rows)));
    shown
}
