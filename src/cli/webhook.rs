//! `portcullis webhook`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, fields, note, note_more, print, print_secret, table, when, word};
use super::paging::{Limit, pages};
use super::{Common, missing, proto};
use crate::policy::duration;

/// What `webhook` takes.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// Create a webhook, and print its secret, this once
    ///
    /// The secret, with which the receiver checks signatures (Standard Webhooks 1.0), stands alone on standard
    /// output. The webhook is sent what happens from then on.
    ///
    /// Examples:
    ///   portcullis webhook create https://hooks.example.com/portcullis > webhook.secret
    ///   portcullis webhook create https://hooks.example.com/portcullis --event token.leaked \
    ///     --event account.suspended --name alerts > webhook.secret
    #[command(verbatim_doc_comment)]
    Create {
        /// Where events are sent: an https URL
        url: String,
        /// A type of event to send, such as token.leaked; repeat it for more. Without it: all of them
        #[arg(long = "event", value_name = "TYPE")]
        event_types: Vec<String>,
        /// A label for people
        #[arg(long)]
        name: Option<String>,
        /// Only check the URL and the types of events
        #[arg(long)]
        dry_run: bool,
    },
    /// List webhooks, the oldest first, and whether their receivers accept events
    List(Limit),
    /// Show a webhook: how far it has received events, and what is wrong where it does not
    Show(WebhookId),
    /// Change a webhook's URL, events or name
    ///
    /// Example:
    ///   portcullis webhook update whk_... --url https://hooks.example.com/new
    #[command(verbatim_doc_comment)]
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Update {
        #[command(flatten)]
        webhook: WebhookId,
        /// Where events are sent from now on
        #[arg(long, group = "what")]
        url: Option<String>,
        /// A type of event to send from now on, instead of those it has; repeat it for more
        #[arg(long = "event", value_name = "TYPE", group = "what")]
        event_types: Vec<String>,
        /// Send events of all types from now on, also those that later versions add
        #[arg(long, group = "what", conflicts_with = "event_types")]
        all_events: bool,
        /// The new name; empty for none
        #[arg(long, group = "what")]
        name: Option<String>,
    },
    /// Send nothing to a webhook until it is enabled
    Disable(WebhookId),
    /// Send to a webhook again what happens from now on
    Enable(WebhookId),
    /// Make another secret for a webhook, and print it, this once
    ///
    /// Messages are signed with the former secret too until the overlap is over, so that the receiver can
    /// change over meanwhile.
    RotateSecret {
        #[command(flatten)]
        webhook: WebhookId,
        /// How long messages are signed with the former secret too: at most 30d [default: 1d]
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        overlap: Option<Duration>,
    },
    /// Send a test message to a webhook, once, and say what became of it
    ///
    /// Where it is received, events that wait are sent at once. Exit code 1 where it is not.
    Test(WebhookId),
    /// Delete a webhook; what it has not received is not sent
    Delete(WebhookId),
}

#[derive(Debug, Args)]
struct WebhookId {
    /// The webhook, such as whk_...
    #[arg(value_name = "WEBHOOK")]
    webhook_id: String,
}

pub(super) async fn run(args: WebhookArgs) -> Result<u8, Failure> {
    let session = Session::open(args.common).await?;
    let mut client = session.webhooks();
    match args.command {
        WebhookCommand::Create { url, event_types, name, dry_run } => {
            let name = name.unwrap_or_default();
            let request =
                proto::CreateWebhookRequest { url, event_types, name, validate_only: dry_run };
            let answer = session.answer_as_text(client.create_webhook(request).await)?;
            let Some(answer) = answer else { return Ok(0) };
            let webhook = answer.webhook.ok_or_else(|| missing("webhook"))?;
            if dry_run {
                note(&format!("events would be sent to {}", clean(&webhook.url)));
                return Ok(0);
            }
            note(&format!("created {}; try it with `portcullis webhook test`", id(&webhook)));
            print_secret(&answer.secret)?;
        }
        WebhookCommand::List(Limit { limit }) => {
            let (webhooks, next_page_token) = pages(limit, async |page_size, page_token| {
                let request = proto::ListWebhooksRequest { page_size, page_token };
                let page = session.webhooks().list_webhooks(request).await;
                let page = page.map_err(|status| session.failure(status))?.into_inner();
                Ok((page.webhooks, page.next_page_token))
            })
            .await?;
            let answer = proto::ListWebhooksResponse { webhooks, next_page_token };
            if !session.print_json(&answer)? {
                list(&answer)?;
            }
        }
        WebhookCommand::Show(WebhookId { webhook_id }) => {
            let request = proto::GetWebhookRequest { webhook_id };
            let answer = session.answer_as_text(client.get_webhook(request).await)?;
            if let Some(answer) = answer {
                show(&answer.webhook.ok_or_else(|| missing("webhook"))?)?;
            }
        }
        WebhookCommand::Update { webhook, url, event_types, all_events, name } => {
            let names = event_types;
            let event_types =
                (all_events || !names.is_empty()).then_some(proto::EventTypes { names });
            let request = proto::UpdateWebhookRequest {
                webhook_id: webhook.webhook_id,
                url,
                event_types,
                name,
                enabled: None,
            };
            update(&session, request).await?;
        }
        WebhookCommand::Disable(webhook) => enable(&session, webhook, false).await?,
        WebhookCommand::Enable(webhook) => enable(&session, webhook, true).await?,
        WebhookCommand::RotateSecret { webhook, overlap } => {
            let overlap = overlap.map(prost_types::Duration::try_from).transpose();
            let overlap = overlap
                .map_err(|_| Failure::Usage("the duration of --overlap is too long".to_owned()))?;
            let webhook_id = webhook.webhook_id;
            let request = proto::RotateWebhookSecretRequest { webhook_id, overlap };
            let answer = session.answer_as_text(client.rotate_webhook_secret(request).await)?;
            let Some(answer) = answer else { return Ok(0) };
            let webhook = answer.webhook.ok_or_else(|| missing("webhook"))?;
            match &webhook.former_secret_expire_time {
                Some(until) => note(&format!(
                    "messages are signed with the former secret too until {}",
                    when(Some(until))
                )),
                None => note("messages are not signed with the former secret any more"),
            }
            print_secret(&answer.secret)?;
        }
        WebhookCommand::Test(WebhookId { webhook_id }) => {
            let request = proto::TestWebhookRequest { webhook_id };
            let answer = client.test_webhook(request).await;
            let answer = answer.map_err(|status| session.failure(status))?.into_inner();
            let code = u8::from(!answer.received);
            if !session.print_json(&answer)? {
                let message = clean(&answer.message_id);
                if answer.received {
                    note(&format!("{message} was received: the answer is {}", answer.status));
                } else {
                    note(&format!("{message} was not received: {}", clean(&answer.failure)));
                }
            }
            return Ok(code);
        }
        WebhookCommand::Delete(WebhookId { webhook_id }) => {
            let deleted = clean(&webhook_id).into_owned();
            let request = proto::DeleteWebhookRequest { webhook_id, allow_missing: false };
            let answer = session.answer_as_text(client.delete_webhook(request).await)?;
            if answer.is_some() {
                note(&format!("deleted {deleted}"));
            }
        }
    }
    Ok(0)
}

async fn enable(session: &Session, webhook: WebhookId, enabled: bool) -> Result<(), Failure> {
    let WebhookId { webhook_id } = webhook;
    let enabled = Some(enabled);
    let request = proto::UpdateWebhookRequest { webhook_id, enabled, ..Default::default() };
    update(session, request).await
}

async fn update(session: &Session, request: proto::UpdateWebhookRequest) -> Result<(), Failure> {
    let answer = session.answer_as_text(session.webhooks().update_webhook(request).await)?;
    let Some(answer) = answer else { return Ok(()) };
    show(&answer.webhook.ok_or_else(|| missing("webhook"))?)
}

fn id(webhook: &proto::Webhook) -> String {
    clean(&webhook.webhook_id).into_owned()
}

/// In one word: whether its receiver accepts events.
fn state(webhook: &proto::Webhook) -> String {
    let failing =
        webhook.delivery.as_ref().is_some_and(|delivery| delivery.failing_start_time.is_some());
    match webhook.state() {
        proto::WebhookState::Enabled if failing => "failing".to_owned(),
        state => word(state.as_str_name(), "WEBHOOK_STATE_"),
    }
}

fn events(webhook: &proto::Webhook) -> String {
    if webhook.event_types.is_empty() { "all".to_owned() } else { webhook.event_types.join(" ") }
}

fn list(answer: &proto::ListWebhooksResponse) -> Result<(), Failure> {
    if answer.webhooks.is_empty() {
        note("no webhooks");
        return Ok(());
    }
    let row = |webhook: &proto::Webhook| {
        let delivery = webhook.delivery.clone().unwrap_or_default();
        [
            webhook.webhook_id.clone(),
            state(webhook),
            webhook.name.clone(),
            webhook.url.clone(),
            events(webhook),
            when(delivery.last_success_time.as_ref()),
            delivery.delivered_count.to_string(),
            delivery.skipped_count.to_string(),
        ]
    };
    let rows: Vec<_> = answer.webhooks.iter().map(row).collect();
    print(&table(
        ["WEBHOOK", "STATE", "NAME", "URL", "EVENTS", "LAST SUCCESS", "DELIVERED", "SKIPPED"],
        &rows,
    ))?;
    note_more(&answer.next_page_token);
    Ok(())
}

fn show(webhook: &proto::Webhook) -> Result<(), Failure> {
    let delivery = webhook.delivery.clone().unwrap_or_default();
    let mut shown = vec![
        ("webhook", webhook.webhook_id.clone()),
        ("state", state(webhook)),
        ("name", webhook.name.clone()),
        ("url", webhook.url.clone()),
        ("events", events(webhook)),
        ("created", when(webhook.create_time.as_ref())),
        (
            "received",
            format!("{} events, up to revision {}", delivery.delivered_count, delivery.revision),
        ),
        ("given up", format!("{} events", delivery.skipped_count)),
        ("last success", when(delivery.last_success_time.as_ref())),
        ("last failure", when(delivery.last_failure_time.as_ref())),
        ("why", delivery.last_failure.clone()),
    ];
    if delivery.failing_start_time.is_some() {
        shown.push(("failing since", when(delivery.failing_start_time.as_ref())));
        shown.push(("next attempt", when(delivery.next_attempt_time.as_ref())));
    }
    if webhook.former_secret_expire_time.is_some() {
        let until = when(webhook.former_secret_expire_time.as_ref());
        shown.push(("former secret until", until));
    }
    print(&fields(&shown))
}
