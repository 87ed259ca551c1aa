//! How the server stands, for operators: mails that don't get through, and replicas.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{Result, page};
use super::frame::{Frame, Place};
use super::session::Signed;
use super::view::{When, number, when};
use crate::policy::duration;
use crate::service::status::ReplicaStatus;

struct Failing {
    address: String,
    failure: String,
    since: When,
}

struct ReplicaItem {
    name: String,
    version: String,
    lifecycle: String,
    lease: String,
    behind: String,
    late: bool,
    at_odds: bool,
    own: bool,
}

/// How the mails stand.
struct Mails {
    failing: Vec<Failing>,
    waiting: String,
    oldest: Option<When>,
    read: When,
}

#[derive(Template)]
#[template(path = "page/status.html")]
struct StatusPage {
    frame: Frame,
    configured: bool,
    /// Whether mails are kept instead of being sent.
    kept: bool,
    mails: Option<Mails>,
    alone: bool,
    replicas: Option<Vec<ReplicaItem>>,
    decides: Option<&'static str>,
    deletions: String,
    downgrades: String,
}

pub(super) async fn show(signed: Signed) -> Result<Response> {
    signed.must_be_operator()?;
    let services = signed.services();
    let now = services.now();
    let known = services.lifecycle_status();
    let mails = known.as_ref().map(|known| Mails {
        failing: known
            .mails
            .failing
            .iter()
            .map(|failing| Failing {
                address: failing.address.clone(),
                failure: failing.failure.clone(),
                since: when(failing.since, now),
            })
            .collect(),
        waiting: number(known.mails.waiting),
        oldest: known.mails.oldest.map(|since| when(since, now)),
        read: when(known.read, now),
    });
    let replica = |seen: ReplicaStatus| ReplicaItem {
        name: seen.about.name,
        version: seen.about.version,
        lifecycle: seen.about.lifecycle,
        lease: duration::in_words(seen.lease),
        behind: number(seen.behind),
        late: seen.late,
        at_odds: seen.at_odds,
        own: seen.own,
    };
    let counts = known.as_ref().map(|known| known.pending).unwrap_or_default();
    let view = StatusPage {
        frame: Frame {
            how: vec![
                "portcullis pending".to_owned(),
                "curl http://HTTP_LISTEN/healthz".to_owned(),
                "curl http://HTTP_LISTEN/metrics".to_owned(),
            ],
            ..signed.frame("Status", Place::Status)
        },
        configured: services.outlook().mails,
        kept: services.keeps_mails(),
        mails,
        alone: services.is_alone(),
        replicas: services.replicas().map(|seen| seen.into_iter().map(replica).collect()),
        decides: services.can_decide().err(),
        deletions: number(counts.deletions),
        downgrades: number(counts.downgrades),
    };
    Ok(page(StatusCode::OK, &view))
}
