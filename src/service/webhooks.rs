//! Webhooks: whom events are sent to. Rules: docs/policy.md, section 14.

use std::time::Duration;

use super::lists::{Cursor, PageItem, Paged, Paging};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Result, Services};
use crate::clock::id_at;
use crate::model::{
    Delivery, EventType, Invalidation, SecretVersion, Webhook, WebhookState, WebhookUpdate,
};
use crate::policy::destination;
use crate::policy::id::WebhookId;
use crate::secret::Secret;
use crate::store::MAX_WEBHOOKS;
pub use crate::webhooks::Tried;

/// The longest time for which messages are signed with a former secret too.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 86_400);
/// How long they are unless the caller says otherwise.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(86_400);
/// The most types that a request names: more than there are.
const MAX_EVENT_TYPES: usize = 100;

/// A webhook as a caller asks for it.
#[derive(Debug, Clone, Copy)]
pub struct CreateWebhook<'a> {
    /// A label; may be empty.
    pub name: &'a str,
    /// Where events are sent.
    pub url: &'a str,
    /// Which; empty for all of them.
    pub event_types: &'a [String],
    /// Only check the fields.
    pub validate_only: bool,
}

/// What `UpdateWebhook` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct UpdateWebhook<'a> {
    /// The webhook.
    pub webhook_id: &'a str,
    /// Its name from now on; `None` to leave it.
    pub name: Option<&'a str>,
    /// Where events are sent from now on; `None` to leave it.
    pub url: Option<&'a str>,
    /// Which, from now on; empty for all of them, `None` to leave it.
    pub event_types: Option<&'a [String]>,
    /// Whether events are sent; `None` to leave it.
    pub enabled: Option<bool>,
}

impl Services {
    /// Creates a webhook; with its secret, which there is none of where the fields were only checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::Refused`] where there are as many as there can be; the store's.
    pub async fn create_webhook(
        &self,
        caller: &Caller,
        create: CreateWebhook<'_>,
    ) -> Result<Changed<(Webhook, Option<Secret>)>> {
        let mut errors = FieldErrors::default();
        let name = errors.take(validate::name(create.name, false));
        let url = errors.take(self.webhook_url(create.url));
        let event_types = errors.take(event_types("event_types", create.event_types));
        errors.into_result()?;
        let now = self.clock.now();
        let key = self.cache.keys().newest();
        let webhook = Webhook {
            id: WebhookId(id_at(now)),
            name: name.ok_or(Error::Internal)?,
            url: url.ok_or(Error::Internal)?,
            event_types: event_types.ok_or(Error::Internal)?,
            created: now,
            secret: SecretVersion { key, version: 1 },
            former_secret: None,
            state: WebhookState::Enabled,
            delivery: Delivery::default(),
        };
        let ctx = caller.context(now);
        if create.validate_only {
            return Ok(Changed::new((webhook, None), &ctx));
        }
        let create = self.store.create_webhook(&ctx, &webhook);
        let nothing = Invalidation::Nothing;
        if !self.writes.commit("create_webhook", nothing, &ctx, create).await? {
            let text = format!(
                "there are {MAX_WEBHOOKS} webhooks, and there can be no more: delete one first"
            );
            return Err(Error::refused("TOO_MANY_WEBHOOKS", "webhooks", text));
        }
        let secret = self.webhook_secret(&webhook)?;
        let stored = self.find_webhook(webhook.id).await?;
        Ok(Changed::new((stored, Some(secret)), &ctx))
    }

    /// One webhook.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no id, [`Error::NotFound`] for no such webhook; the store's.
    pub async fn get_webhook(&self, id: &str) -> Result<Webhook> {
        self.find_webhook(validate::id("webhook_id", id)?).await
    }

    async fn find_webhook(&self, id: WebhookId) -> Result<Webhook> {
        let found = self.read("webhook", self.store.webhook(id)).await?;
        found.ok_or_else(|| no_webhook(id))
    }

    /// Lists webhooks, the oldest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad paging; the store's.
    pub async fn list_webhooks<U>(
        &self,
        paging: Paging<'_>,
        show: impl FnMut(Webhook) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let cursor = Cursor::new(paging, "webhooks".to_owned(), self.page_keys())?;
        let read = |page| self.read("webhooks", self.store.webhooks(page));
        cursor.collect(read, |webhook| webhook.id, show).await
    }

    /// Changes a webhook.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::NotFound`] for no such webhook; the store's.
    pub async fn update_webhook(
        &self,
        caller: &Caller,
        request: UpdateWebhook<'_>,
    ) -> Result<Changed<Webhook>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<WebhookId>("webhook_id", request.webhook_id));
        let name = request.name.and_then(|name| errors.take(validate::name(name, false)));
        let url = request.url.and_then(|url| errors.take(self.webhook_url(url)));
        let types = request
            .event_types
            .and_then(|names| errors.take(event_types("event_types.names", names)));
        let asked = [request.name.is_some(), request.url.is_some(), request.enabled.is_some()];
        if !asked.contains(&true) && request.event_types.is_none() {
            let text = "is required where nothing else is to be changed: set name, url, event_types or enabled";
            for field in ["name", "url", "event_types", "enabled"] {
                errors.add(field, "REQUIRED", text);
            }
        }
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let update = WebhookUpdate { name, url, event_types: types, enabled: request.enabled };
        let ctx = caller.context(self.clock.now());
        let work = self.store.update_webhook(&ctx, id, &update);
        let nothing = Invalidation::Nothing;
        let updated = self.writes.commit("update_webhook", nothing, &ctx, work).await?;
        Ok(Changed::new(updated.ok_or_else(|| no_webhook(id))?, &ctx))
    }

    /// Makes another secret for a webhook. Messages are signed with the former one too for `overlap`; `None` for a day.
    /// Rule 14.6 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::NotFound`] for no such webhook; the store's.
    pub async fn rotate_webhook_secret(
        &self,
        caller: &Caller,
        id: &str,
        overlap: Option<Duration>,
    ) -> Result<Changed<(Webhook, Secret)>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<WebhookId>("webhook_id", id));
        let overlap = overlap.unwrap_or(DEFAULT_OVERLAP);
        if overlap > MAX_OVERLAP {
            errors.add("overlap.seconds", "TOO_LONG", "is more than 30 days: shorten it");
        }
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let now = self.clock.now();
        let until = (!overlap.is_zero()).then(|| now.plus(overlap));
        let ctx = caller.context(now);
        let key = self.cache.keys().newest();
        let work = self.store.rotate_webhook_secret(&ctx, id, key, until);
        let nothing = Invalidation::Nothing;
        let rotated = self.writes.commit("rotate_webhook_secret", nothing, &ctx, work).await?;
        let webhook = rotated.ok_or_else(|| no_webhook(id))?;
        let secret = self.webhook_secret(&webhook)?;
        Ok(Changed::new((webhook, secret), &ctx))
    }

    /// Sends a test message to a webhook. Where it is received, events that wait are tried at once. Rule 14.16 of
    /// docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no id, [`Error::NotFound`] for no such webhook; the store's.
    pub async fn test_webhook(&self, id: &str) -> Result<Tried> {
        let webhook = self.get_webhook(id).await?;
        let tried = self.webhook_sender.try_out(&webhook, &self.cache, self.clock.now()).await;
        let tried = tried.ok_or(UNKNOWN_KEY)?;
        if tried.outcome.is_ok() {
            self.read("retry_webhook", self.store.retry_webhook(webhook.id)).await?;
        }
        Ok(tried)
    }

    /// Deletes a webhook.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no id, [`Error::NotFound`] for no such webhook unless one may be missing; the store's.
    pub async fn delete_webhook(
        &self,
        caller: &Caller,
        id: &str,
        allow_missing: bool,
    ) -> Result<Changed<()>> {
        let id: WebhookId = validate::id("webhook_id", id)?;
        let ctx = caller.context(self.clock.now());
        let work = self.store.delete_webhook(&ctx, id);
        let nothing = Invalidation::Nothing;
        let deleted = self.writes.commit("delete_webhook", nothing, &ctx, work).await?;
        if !deleted && !allow_missing {
            return Err(no_webhook(id));
        }
        Ok(Changed::new((), &ctx))
    }

    /// Rule 14.5 of docs/policy.md.
    fn webhook_secret(&self, webhook: &Webhook) -> Result<Secret> {
        let SecretVersion { key, version } = webhook.secret;
        let secret = self.cache.keys().webhook_secret(key, webhook.id, version);
        Ok(secret.ok_or(UNKNOWN_KEY)?.text())
    }

    /// Rule 14.8 of docs/policy.md.
    fn webhook_url(&self, text: &str) -> Result<String> {
        if text.trim().is_empty() {
            return Err(Error::invalid("url", "REQUIRED", "is required"));
        }
        let url = destination::url(text, self.webhook_sender.internal());
        let url = url.map_err(|error| Error::invalid("url", error.reason(), error))?;
        Ok(url.into())
    }
}

/// Another replica has made a key, of which this one learns in a moment.
const UNKNOWN_KEY: Error = Error::Unavailable {
    why: "this replica does not have the key of the webhook's secret yet; try again",
    retry: Duration::from_secs(1),
};

fn no_webhook(id: WebhookId) -> Error {
    Error::NotFound { kind: "webhook", id: id.to_string() }
}

/// The types with these names, sorted, each once; `None` for no name. Rule 14.2 of docs/policy.md.
fn event_types(field: &str, names: &[String]) -> Result<Option<Vec<EventType>>> {
    if names.len() > MAX_EVENT_TYPES {
        let text = format!("has {} types, and {MAX_EVENT_TYPES} is the most", names.len());
        return Err(Error::invalid(field, "TOO_MANY", text));
    }
    let mut errors = FieldErrors::default();
    let mut types = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        match EventType::parse(name.trim()) {
            Some(event) => types.push(event),
            None => {
                let known: Vec<_> = EventType::ALL.iter().map(|event| event.as_str()).collect();
                let text = format!("is no type of event: those are {}", known.join(", "));
                errors.add(format!("{field}[{at}]"), "NOT_AN_EVENT_TYPE", text);
            }
        }
    }
    errors.into_result()?;
    types.sort_unstable();
    types.dedup();
    Ok((!types.is_empty()).then_some(types))
}
