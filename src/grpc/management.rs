//! What the management services have in common: who calls, where the work runs, and how it is
//! answered and counted.

use std::future::Future;
use std::sync::Arc;

use prost::Message;
use tokio::runtime::Handle;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};

use super::answer::AnswerLength;
use super::body::Room;
use super::status::{code_name, status};
use crate::service::{Caller, Error, Result, Services};
use crate::telemetry::request_id;
use crate::telemetry::traces::{self, HeaderOrigin, TraceHeaders, TracedRequest};

/// One of the management services. See the module.
#[derive(Debug, Clone)]
pub(crate) struct Management {
    services: Arc<Services>,
    runtime: Handle,
}

impl Management {
    /// Answers from `services`, whose work runs on `runtime`.
    pub(crate) fn new(services: Arc<Services>, runtime: Handle) -> Self {
        Self { services, runtime }
    }

    /// Runs one call to its end, also where the caller goes away meanwhile: a change that was
    /// committed must reach memory.
    pub(super) async fn run<Q, A, F>(
        &self,
        call: &'static str,
        request: Request<Q>,
        work: impl FnOnce(Arc<Services>, Caller, Q) -> F,
    ) -> std::result::Result<Response<A>, Status>
    where
        A: Message + 'static,
        F: Future<Output = Result<A>> + Send + 'static,
    {
        // The gate puts it there; without it nobody is known, so nothing is allowed.
        let Some(&caller) = request.extensions().get::<Caller>() else {
            return Err(status(&Error::Unauthenticated("no caller is known")));
        };
        let room = request.extensions().get::<Room>().cloned();
        let span = self.services.traces().and_then(|traces| {
            let header = |name: &str| Some(request.metadata().get(name)?.as_bytes());
            let headers = TraceHeaders::read(header);
            traces.begin(TracedRequest::Call(call), headers, HeaderOrigin::Caller)
        });
        let span = span.unwrap_or_else(Span::none);
        let work = work(self.services.clone(), caller, request.into_inner());
        let work = async move {
            // What the message takes in memory is given back when the work is done.
            let _room = room;
            work.await
        };
        // The task that called this, of `gate.rs`, is aborted where the caller goes away; this one is not.
        let work = request_id::carry(work.instrument(span.clone()));
        let answer = match self.runtime.spawn(work).await {
            Ok(answer) => answer.map_err(|error| status(&error)),
            Err(panic) => {
                tracing::error!(call, %panic, "a call panicked");
                Err(status(&Error::Internal))
            }
        };
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.services.metrics().called(call, code_name(code));
        traces::ended_with_code(&span, code.into());
        let answer = answer?;
        let length = AnswerLength(answer.encoded_len());
        let mut answer = Response::new(answer);
        answer.extensions_mut().insert(length);
        Ok(answer)
    }
}
