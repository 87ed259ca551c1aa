//! `SelfService`: what the bearer of a token asks with its secret. The gate has checked that the secret was made here.

use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use tokio::runtime::Handle;

use super::convert::{action_type, kind, propagation, time, token_state};
use super::proto as pb;
use super::status::{code_name, status};
use crate::service::bearer::{Bearer, BearerCall, SelfPendingAction, SelfToken};
use crate::service::{Error, Result, Services};
use crate::telemetry::request_id;

/// The largest request, in bytes: both are empty, and later versions may add a little.
pub(super) const MAX_MESSAGE: usize = 1 << 10;

/// The method of that name, if there is one.
pub(super) fn named(method: &str) -> Option<BearerCall> {
    [BearerCall::Get, BearerCall::Revoke].into_iter().find(|call| name(*call) == method)
}

fn name(call: BearerCall) -> &'static str {
    match call {
        BearerCall::Get => "GetSelf",
        BearerCall::Revoke => "RevokeSelf",
    }
}

/// Answers a call of `bearer`. It runs to its end on `runtime`, also where the caller goes away meanwhile.
///
/// # Errors
/// Where the message is malformed; those of the call.
pub(super) async fn answer(
    services: Arc<Services>,
    runtime: Handle,
    bearer: Bearer,
    call: BearerCall,
    message: Bytes,
) -> Result<Vec<u8>> {
    let metrics = services.metrics().clone();
    let decoded = match call {
        BearerCall::Get => decode::<pb::GetSelfRequest>(message).map(drop),
        BearerCall::Revoke => decode::<pb::RevokeSelfRequest>(message).map(drop),
    };
    let admitted = match decoded {
        Ok(()) => services.admit_bearer(bearer, call).await,
        Err(error) => Err(error),
    };
    let work = async move {
        let bearer = admitted?;
        match call {
            BearerCall::Get => {
                let token = services.get_self(&bearer).await?;
                let answer = pb::GetSelfResponse { token: Some(self_token(token)) };
                Ok(answer.encode_to_vec())
            }
            BearerCall::Revoke => {
                let (token, propagated) = services.revoke_self(&bearer).await?;
                let answer = pb::RevokeSelfResponse {
                    token: Some(self_token(token)),
                    propagation: Some(propagation(propagated)),
                };
                Ok(answer.encode_to_vec())
            }
        }
    };
    let answer = runtime.spawn(request_id::carry(work)).await.unwrap_or_else(|panic| {
        tracing::error!(call = name(call), %panic, "a call panicked");
        Err(Error::Internal)
    });
    let code = answer.as_ref().map_or_else(|error| status(error).code(), |_| tonic::Code::Ok);
    metrics.called(name(call), code_name(code));
    answer
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M> {
    let malformed = |error| {
        Error::invalid("", "MALFORMED_MESSAGE", format!("the request is no message: {error}"))
    };
    M::decode(message).map_err(malformed)
}

fn self_token(token: SelfToken) -> pb::SelfToken {
    let (state, deleted) = token_state(token.state);
    pb::SelfToken {
        token_id: token.id.to_string(),
        name: token.name,
        kind: kind(token.kind).into(),
        state: state.into(),
        granted_scopes: token.scopes,
        delete_time: deleted.map(time),
        pending_actions: token.pending.into_iter().map(self_pending_action).collect(),
        expire_time: token.expires.map(time),
    }
}

fn self_pending_action(action: SelfPendingAction) -> pb::SelfPendingAction {
    pb::SelfPendingAction {
        r#type: action_type(action.action).into(),
        scopes_taken: action.taken,
        effective_time: Some(time(action.effective)),
        why: action.why,
        how_to_keep: action.how_to_keep,
    }
}
