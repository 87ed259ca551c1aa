//! Reports that secrets leaked: by operators, and by publishers of alerts (docs/policy.md, section 11).
//!
//! # Invariants
//! - A reported secret goes no further than its digest: it stands in no answer, log line, mail or audit event.
//! - No report records a use.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;

#[cfg(doc)]
use super::Error;
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Propagation, Result, Services, wait_unless};
use crate::model::{
    Actor, Context, Invalidation, LeakLocation, LeakOutcome, LeakedCredential, SecretOwner,
};
use crate::policy::text;
use crate::secret::{self, Digest};

/// The most secrets and digests of one call.
pub const MAX_REPORTED: usize = 100;
/// The longest secret that can be reported, in bytes: no header carries more.
pub const MAX_SECRET: usize = 4 << 10;
/// The longest source and the longest address of a location, in characters.
const MAX_SOURCE: usize = 200;
const MAX_URL: usize = 2_000;
/// So often an address may have been percent-encoded.
const MAX_ENCODINGS: usize = 3;
/// So many letters and digits behind an underscore are taken for a secret.
const SHAPED: usize = 40;
/// What stands in the place of a secret in an address.
const REMOVED: &str = "(secret)";

/// What an operator reports.
#[derive(Debug, Clone, Copy)]
pub struct ReportLeaks<'a> {
    /// Secrets, each with or without `secret-token:`.
    pub secrets: &'a [String],
    /// SHA-256 of other secrets, 32 bytes each.
    pub secret_sha256s: &'a [Vec<u8>],
    /// What kind of place they were found in; may be empty.
    pub source: &'a str,
    /// Its address; may be empty.
    pub url: &'a str,
    /// Answer before it has propagated.
    pub no_wait: bool,
}

/// One secret that was found.
#[derive(Debug, Clone)]
pub struct FoundSecret {
    /// Digests of the forms that may have been issued; one of them is enough.
    digests: Vec<Digest>,
    location: LeakLocation,
}

impl FoundSecret {
    /// A secret as it was found, at a place of [`location`]. Rule 11.51 of docs/policy.md.
    pub fn new(secret: &str, location: LeakLocation) -> Self {
        Self { digests: digests(secret), location }
    }
}

/// Of a secret as it was found, and with and without a prefix: who knows one of these forms can present the others.
fn digests(secret: &str) -> Vec<Digest> {
    let bare = bare(secret);
    let marked = format!("secret-token:{bare}");
    let mut forms = vec![secret, bare, &marked];
    forms.dedup();
    forms.iter().map(|form| secret::digest(form.as_bytes())).collect()
}

/// A secret without the prefix that scanners find it by.
fn bare(secret: &str) -> &str {
    // The prefix is ASCII, so a character begins behind it.
    &secret[secret.len() - secret::without_mark(secret.as_bytes()).len()..]
}

/// A place where secrets were found, without any of `secrets`, which are all that are reported with it, and without
/// what looks like a secret of Portcullis: many places have secrets in their address, and the place is shown to the
/// owners of all of them.
pub fn location<'s>(
    secrets: impl IntoIterator<Item = &'s str>,
    source: &str,
    url: &str,
) -> LeakLocation {
    let mut secrets: Vec<_> =
        secrets.into_iter().map(bare).filter(|secret| !secret.is_empty()).collect();
    // One may be a part of another.
    secrets.sort_unstable_by_key(|secret| Reverse(secret.len()));
    let cleared = |text: &str| {
        let replaced = |text: String, secret: &&str| text.replace(secret, REMOVED);
        without_secrets(&secrets.iter().fold(text.to_owned(), replaced))
    };
    let shown = |text: &str, most| {
        let text = text.trim();
        let decoded = percent_decoded(text);
        // An address stays as it was reported, unless a secret stands in it percent-encoded.
        let decoded = Some(cleared(&decoded)).filter(|cleared| *cleared != decoded);
        let shown = decoded.unwrap_or_else(|| cleared(text));
        text::escape(&shown).chars().take(most).collect()
    };
    LeakLocation { source: shown(source, MAX_SOURCE), url: shown(url, MAX_URL) }
}

/// A text with its percent-encoding undone (RFC 3986, section 2.1), also where one was encoded several times.
fn percent_decoded(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..MAX_ENCODINGS {
        match percent_decode_str(&text).decode_utf8_lossy() {
            Cow::Borrowed(_) => break,
            Cow::Owned(decoded) => text = decoded,
        }
    }
    text
}

/// A text without the parts that have the shape of a secret of Portcullis: a prefix, an underscore, and many letters
/// and digits.
fn without_secrets(text: &str) -> String {
    let other = |character: char| !character.is_ascii_alphanumeric() && character != '_';
    let has_shape = |run: &str| run.rsplit_once('_').is_some_and(|(_, body)| body.len() >= SHAPED);
    let clear = |part: &str| {
        let (run, rest) = part.split_at(part.find(other).unwrap_or(part.len()));
        if has_shape(run) { format!("{REMOVED}{rest}") } else { part.to_owned() }
    };
    text.split_inclusive(other).map(clear).collect()
}

/// What became of reports, in their order.
#[derive(Debug)]
pub struct ReportedLeaks {
    /// One for each.
    pub outcomes: Vec<LeakOutcome>,
    /// How far the revocations have propagated; `None` where no secret was one that is known here.
    pub propagation: Option<Propagation>,
}

impl Services {
    /// Revokes what leaked secrets open; with `no_wait`, answers before that has propagated. Rule 11.51 of
    /// docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no secrets, too many, or bad ones; [`Error::NotPropagatedYet`]; the store's. What was
    /// revoked before stays so, and repeating the call is safe.
    pub async fn report_leaked_tokens(
        &self,
        caller: &Caller,
        request: ReportLeaks<'_>,
    ) -> Result<Changed<ReportedLeaks>> {
        let found = found_secrets(&request)?;
        let context = || caller.context(self.clock.now());
        self.report(&found, context, request.no_wait).await
    }

    /// The same for what the publisher of alerts found; waits for the propagation. Rule 11.56 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Unavailable`] on a replica without a lease; as of [`Self::report_leaked_tokens`] otherwise.
    pub async fn report_alerts(
        &self,
        found: &[FoundSecret],
        client: Option<std::net::IpAddr>,
    ) -> Result<Vec<LeakOutcome>> {
        self.ready().await?;
        let context = || Context::new(Actor::SecretScanning, self.clock.now(), client);
        Ok(self.report(found, context, false).await?.value.outcomes)
    }

    async fn report(
        &self,
        found: &[FoundSecret],
        context: impl Fn() -> Context,
        no_wait: bool,
    ) -> Result<Changed<ReportedLeaks>> {
        let digests: Vec<_> = found.iter().flat_map(|found| found.digests.clone()).collect();
        let owners = self.read("secret_owners", self.store.secret_owners(&digests)).await?;
        let mut owners_of: HashMap<Digest, Vec<SecretOwner>> = HashMap::new();
        for (digest, owner) in owners {
            owners_of.entry(digest).or_default().push(owner);
        }
        let mut outcomes = Vec::with_capacity(found.len());
        let mut revision = 0;
        for FoundSecret { digests, location } in found {
            // Several forms of a secret may have been issued, or one to several: all of them end.
            let mut outcome = LeakOutcome::Unknown;
            let mut owners = Vec::new();
            for digest in digests {
                owners.extend(owners_of.get(digest).into_iter().flatten().copied());
            }
            for owner in owners {
                let ctx = context();
                let ended = self.revoke_leaked(&ctx, owner, location).await?;
                revision = revision.max(ctx.revision());
                if outcome == LeakOutcome::Unknown || word(&ended) == REVOKED {
                    outcome = ended;
                }
            }
            self.metrics.leak_reported(word(&outcome));
            outcomes.push(outcome);
        }
        // Rule 11.55 of docs/policy.md.
        let known = outcomes.iter().any(|outcome| *outcome != LeakOutcome::Unknown);
        let propagation =
            if known { Some(self.propagation(wait_unless(no_wait)).await?) } else { None };
        Ok(Changed { value: ReportedLeaks { outcomes, propagation }, revision })
    }

    async fn revoke_leaked(
        &self,
        ctx: &Context,
        owner: SecretOwner,
        location: &LeakLocation,
    ) -> Result<LeakOutcome> {
        let changed = match owner {
            SecretOwner::Token(id) => Invalidation::Token(id),
            SecretOwner::Credential(id) => Invalidation::Credential(id),
        };
        let revoke = self.store.revoke_leaked(ctx, owner, location);
        let outcome = self.writes.commit("revoke_leaked", changed, ctx, revoke).await?;
        self.outbox_wakeup.notify_one();
        if let LeakOutcome::Credential { id, outcome: LeakedCredential::LastOperator, .. } = outcome
        {
            // Rule 11.54 of docs/policy.md.
            tracing::error!(
                credential = %id,
                "the last operator credential was reported as leaked and stays valid: create another one and revoke it"
            );
        }
        Ok(outcome)
    }
}

/// What ended with this report.
const REVOKED: &str = "revoked";

/// As metrics name it.
fn word(outcome: &LeakOutcome) -> &'static str {
    match outcome {
        LeakOutcome::Unknown => "unknown",
        LeakOutcome::Token { revoked: true, .. } => REVOKED,
        LeakOutcome::Token { revoked: false, .. } => "already_ended",
        LeakOutcome::Credential { outcome, .. } => match outcome {
            LeakedCredential::Revoked => REVOKED,
            LeakedCredential::RevokedBefore => "already_ended",
            LeakedCredential::LastOperator => "last_operator",
        },
    }
}

fn found_secrets(request: &ReportLeaks<'_>) -> Result<Vec<FoundSecret>> {
    let ReportLeaks { secrets, secret_sha256s, source, url, .. } = *request;
    let mut errors = FieldErrors::default();
    match secrets.len() + secret_sha256s.len() {
        0 => errors.add("secrets", "REQUIRED", "is required where there are no secret_sha256s"),
        count if count > MAX_REPORTED => {
            let text = format_args!(
                "has {count} items with secret_sha256s; the most is {MAX_REPORTED}: send them in several calls"
            );
            errors.add("secrets", "TOO_MANY", text);
        }
        _ => {}
    }
    errors.take(validate::remark("source", source, MAX_SOURCE));
    errors.take(validate::remark("url", url, MAX_URL));
    let mut found = Vec::new();
    for (at, secret) in secrets.iter().take(MAX_REPORTED).enumerate() {
        match secret.len() {
            0 => errors.add(format!("secrets[{at}]"), "REQUIRED", "is empty: name a secret"),
            count if count > MAX_SECRET => {
                let text =
                    format_args!("has {count} bytes, and no secret has more than {MAX_SECRET}");
                errors.add(format!("secrets[{at}]"), "TOO_LONG", text);
            }
            _ => found.push(digests(secret)),
        }
    }
    for (at, bytes) in secret_sha256s.iter().take(MAX_REPORTED).enumerate() {
        match Digest::try_from(bytes.as_slice()) {
            Ok(digest) => found.push(vec![digest]),
            Err(_) => {
                let text = format_args!("has {} bytes; a SHA-256 has 32", bytes.len());
                errors.add(format!("secret_sha256s[{at}]"), "NOT_A_DIGEST", text);
            }
        }
    }
    errors.into_result()?;
    let location = location(secrets.iter().map(String::as_str), source, url);
    let found_at = |digests| FoundSecret { digests, location: location.clone() };
    Ok(found.into_iter().map(found_at).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 11.51.
    #[test]
    fn a_secret_is_known_by_its_digest_with_and_without_its_scheme() {
        let digest = |text: &str| secret::digest(text.as_bytes());
        let digests = |text| FoundSecret::new(text, location([], "", "")).digests;
        let both = [digest("abc"), digest("secret-token:abc")];
        assert_eq!(digests("abc"), both);
        for marked in ["secret-token:abc", "Secret-Token:abc"] {
            assert_eq!(digests(marked)[0], digest(marked));
            assert!(both.iter().all(|form| digests(marked).contains(form)), "{marked}");
        }
    }

    #[test]
    fn a_location_has_no_secret_and_nothing_hidden() {
        let of = |secret| location([secret], "com\u{202e}mit", "https://x.example/?token=abcdef");
        for secret in ["abcdef", "secret-token:abcdef", "Secret-Token:abcdef"] {
            let LeakLocation { source, url } = of(secret);
            assert_eq!((&*source, &*url), ("com<U+202E>mit", "https://x.example/?token=(secret)"));
        }
        // Percent-encoded, once and twice; another escape alone changes nothing.
        let encoded = "https://x.example/?t=a%62c%2Fd&u=a%2562c%252Fd";
        assert_eq!(
            location(["abc/d"], "", encoded).url,
            "https://x.example/?t=(secret)&u=(secret)"
        );
        let own = format!("https://x.example/?t=pcl%5Ft1%5F{}", "a".repeat(60));
        assert_eq!(location([], "", &own).url, "https://x.example/?t=(secret)");
        assert_eq!(location(["abc"], "", "https://x.example/a%20b").url, "https://x.example/a%20b");
        let long = location(["abc"], &"s".repeat(900), &"u".repeat(9_000));
        assert_eq!((long.source.len(), long.url.len()), (MAX_SOURCE, MAX_URL));
        assert_eq!(location(["secret-token:"], "commit", "").source, "commit");
        // Those of others that are reported with it, and those of which there is the digest alone.
        let url = "https://x.example/?a=abc&b=abcdef";
        assert_eq!(
            location(["abc", "abcdef"], "", url).url,
            "https://x.example/?a=(secret)&b=(secret)"
        );
        let url = format!("https://x.example/pclop_{}#L1", "a1".repeat(24));
        assert_eq!(location([], "", &url).url, "https://x.example/(secret)#L1");
    }
}
