//! The span of a request whose caller turns out to be known only while it is worked on, as for a page, whose session is
//! read from the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::Span;

/// A place for a span that begins later than the work within it.
#[derive(Debug, Clone, Default)]
pub struct LateSpan(Arc<OnceLock<Span>>);

impl LateSpan {
    /// Puts `span` in. The work goes on within it from its next poll, for which the caller of this yields.
    pub async fn begin(&self, span: Span) {
        if self.0.set(span).is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// The span, if there is one by now.
    pub fn get(&self) -> Option<&Span> {
        self.0.get()
    }

    /// `work` within the span, once there is one.
    pub fn within<F>(&self, work: F) -> WithinLateSpan<F> {
        WithinLateSpan { span: self.clone(), work }
    }
}

pin_project! {
    /// A future that is polled within a span as soon as there is one.
    #[derive(Debug)]
    pub struct WithinLateSpan<F> {
        span: LateSpan,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for WithinLateSpan<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.get().map(Span::enter);
        this.work.poll(cx)
    }
}
