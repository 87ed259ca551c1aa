//! `AuthorizationService`: what a decision costs is spent here, so nothing here waits, spawns or
//! locks for a token that is in memory.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, future};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::Status as ItemStatus;

use super::convert;
use super::gate::Presented;
use super::proto as pb;
use super::proto::authorization_service_server::AuthorizationService;
use super::status::status;
use crate::policy::decide::{Decision, Verdict};
use crate::policy::network::Entry;
use crate::service::access::Audience;
use crate::service::decisions::{Asked, MAX_BATCH, Question};
use crate::service::{Error, Services};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    services: Arc<Services>,
    stop: CancellationToken,
}

impl Authorization {
    /// Answers from `services`; streams end when `stop` is cancelled.
    pub(crate) fn new(services: Arc<Services>, stop: CancellationToken) -> Self {
        Self { services, stop }
    }
}

/// The question that a message asks.
fn question(request: &pb::AuthorizeRequest) -> Question<'_> {
    use pb::authorize_request::Operation;
    let operation = match &request.operation {
        None => Asked::Nothing,
        Some(Operation::Scope(name)) => Asked::Scope(name),
        Some(Operation::Http(http)) => Asked::Http { method: &http.method, path: &http.path },
    };
    Question { token: &request.token, client_ip: &request.client_ip, operation }
}

fn response(services: &Services, decision: &Decision<'_>) -> pb::AuthorizeResponse {
    let (answer, matched) = match decision.verdict {
        Verdict::Allow(entry) => (pb::Decision::Allow, entry),
        Verdict::Deny(_) => (pb::Decision::Deny, None),
    };
    let token = decision.token;
    let upcoming = token
        .filter(|token| !token.announced.is_empty())
        .and_then(|token| token.upcoming(&services.calendar()));
    pb::AuthorizeResponse {
        decision: answer.into(),
        reason: convert::reason(decision.verdict.reason()).into(),
        message: decision.message(),
        token_id: token.map(|token| token.id.text()).unwrap_or_default(),
        account_id: token.map(|token| token.account_id.text()).unwrap_or_default(),
        required_scope: decision
            .required
            .map(|scope| scope.name.as_str().to_owned())
            .unwrap_or_default(),
        matched_entry: matched.map(entry_text).unwrap_or_default(),
        pending_action: upcoming.map(|action| pb::UpcomingAction {
            pending_action_id: action.id.to_string(),
            r#type: convert::action_type(action.action).into(),
            effective_time: Some(convert::time(action.effective)),
        }),
    }
}

/// A whitelist entry's text; room for any IPv4 range at once.
fn entry_text(entry: Entry) -> String {
    let mut text = String::with_capacity(18);
    // Writing to a String can't fail.
    let _ = write!(text, "{entry}");
    text
}

/// An error of one item: the same code, message and details that the call would have ended with.
fn item_error(error: &Status) -> ItemStatus {
    use prost::Message as _;
    let details = error.details();
    // The details of a status are a whole `google.rpc.Status`.
    ItemStatus::decode(details).ok().filter(|_| !details.is_empty()).unwrap_or_else(|| ItemStatus {
        code: error.code().into(),
        message: error.message().to_owned(),
        details: Vec::new(),
    })
}

#[tonic::async_trait]
impl AuthorizationService for Authorization {
    async fn authorize(
        &self,
        request: Request<pb::AuthorizeRequest>,
    ) -> Result<Response<pb::AuthorizeResponse>, Status> {
        let services = &*self.services;
        let response = |decision: &Decision<'_>| response(services, decision);
        match services.decide(&question(request.get_ref()), response).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(status(&error)),
        }
    }

    async fn batch_authorize(
        &self,
        request: Request<pb::BatchAuthorizeRequest>,
    ) -> Result<Response<pb::BatchAuthorizeResponse>, Status> {
        use pb::batch_authorize_result::Result as Item;
        let requests = request.into_inner().requests;
        if requests.is_empty() {
            let error = Error::invalid("requests", "REQUIRED", "is empty: send at least one");
            return Err(status(&error));
        }
        if requests.len() > MAX_BATCH {
            let text = format!("has {} items; the most is {MAX_BATCH}", requests.len());
            return Err(status(&Error::invalid("requests", "TOO_MANY", text)));
        }
        let services = &*self.services;
        let response = |decision: &Decision<'_>| response(services, decision);
        let item = |decided: Result<pb::AuthorizeResponse, Error>| pb::BatchAuthorizeResult {
            result: Some(match decided {
                Ok(response) => Item::Response(Box::new(response)),
                Err(error) => Item::Error(item_error(&status(&error))),
            }),
        };
        let mut missing = Vec::new();
        let mut results = Vec::with_capacity(requests.len());
        for (place, request) in requests.iter().enumerate() {
            let decided = services.decide_from_memory(&question(request), response);
            if decided.is_none() {
                missing.push(place);
            }
            // What is missing stays without a result, which allows nothing, until it is read below.
            results.push(decided.map_or_else(pb::BatchAuthorizeResult::default, item));
        }
        // All at once, so that tokens which must be read are read together.
        let read = missing.into_iter().map(async |place| {
            (place, item(services.decide(&question(&requests[place]), response).await))
        });
        for (place, result) in future::join_all(read).await {
            results[place] = result;
        }
        Ok(Response::new(pb::BatchAuthorizeResponse { results }))
    }

    type StreamAuthorizeStream =
        Pin<Box<dyn Stream<Item = Result<pb::StreamAuthorizeResponse, Status>> + Send>>;

    async fn stream_authorize(
        &self,
        request: Request<Streaming<pb::StreamAuthorizeRequest>>,
    ) -> Result<Response<Self::StreamAuthorizeStream>, Status> {
        use pb::stream_authorize_response::Result as Item;
        // The gate puts it there; without it nobody is known, so nothing is decided.
        let Some(&presented) = request.extensions().get::<Presented>() else {
            return Err(status(&Error::Unauthenticated("no caller is known")));
        };
        let services = self.services.clone();
        let answers = request.into_inner().then(move |item| {
            let services = services.clone();
            async move {
                let item = item?;
                // A credential that was revoked meanwhile decides nothing more.
                presented
                    .role(&services)
                    .and_then(|role| Audience::Decisions.admit(role))
                    .map_err(|error| status(&error))?;
                let response = |decision: &Decision<'_>| response(&services, decision);
                let result = match &item.request {
                    Some(request) => services.decide(&question(request), response).await,
                    None => {
                        services.metrics.undecided.inc();
                        Err(Error::invalid("request", "REQUIRED", "is required"))
                    }
                };
                let result = match result {
                    Ok(response) => Item::Response(response),
                    Err(error) => Item::Error(item_error(&status(&error))),
                };
                Ok(pb::StreamAuthorizeResponse { result: Some(result) })
            }
        });
        // A stream ends after its first error, and when the server stops.
        let answers = answers.scan(false, |failed, answer| {
            let go_on = !*failed;
            *failed = answer.is_err();
            future::ready(go_on.then_some(answer))
        });
        let stop = self.stop.clone();
        let answers = answers.take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(answers)))
    }
}
