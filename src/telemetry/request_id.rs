//! The id of the request that a thread works on: in its log lines, its errors and its answer.
//!
//! It stands in a variable of the thread for as long as a future of the request is polled, and not in a span of the log:
//! most decisions log nothing, and a span would cost them more than deciding does.
//!
//! # Invariants
//! - A caller's own id is used if it has 1 to [`MAX_REQUEST_ID`] printable ASCII characters and resembles no secret; else
//!   one is made, once, when something first needs it.
//! - Work that a request hands to another task takes the id along, and the span of its trace ([`carry`]).

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;
use pin_project_lite::pin_project;
use tracing::Span;

use crate::secret;

/// The header with a request's id, of requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static(NAME);
/// Its name, for metadata of gRPC.
pub const NAME: &str = "x-request-id";
/// The longest id that is taken from a caller.
pub const MAX_REQUEST_ID: usize = 128;

thread_local! {
    /// Of the request that this thread works on; `None` where it works on none.
    static CURRENT: Cell<Option<RequestId>> = const { Cell::new(None) };
}

/// The id of a request: the caller's own, or one that is made when it is first needed. Behind a pointer: each poll of a
/// request moves it, and most requests have none.
#[derive(Debug, Clone, Default)]
pub struct RequestId(Option<Box<HeaderValue>>);

impl RequestId {
    /// The caller's own among `headers`, where that can be used.
    pub fn read(headers: &HeaderMap) -> Self {
        // Made once, not for each request.
        static NAME: HeaderName = REQUEST_ID;
        let id = headers.get(&NAME).filter(|id| is_usable(id.as_bytes()));
        Self(id.cloned().map(Box::new))
    }

    /// The id; it is made where there is none yet.
    pub fn value(&mut self) -> &HeaderValue {
        self.0.get_or_insert_with(|| Box::new(make()))
    }

    /// Does `work` as work of this request.
    pub fn scope<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let _entered = Entered::new(self);
        work()
    }

    /// The id, where the caller sent one or one was made.
    pub fn known(&self) -> Option<&HeaderValue> {
        self.0.as_deref()
    }

    /// A future of this request.
    pub fn of<F>(self, inner: F) -> InRequest<F> {
        InRequest { id: Some(self), span: Span::none(), inner }
    }
}

/// The id of the request that this thread works on, which is made where there is none yet; `None` outside requests.
pub fn current() -> Option<HeaderValue> {
    let current = CURRENT.try_with(|current| {
        let mut id = current.take()?;
        let value = id.value().clone();
        current.set(Some(id));
        Some(value)
    });
    // A thread that ends works on no request.
    current.unwrap_or_default()
}

/// The same where the caller sent one, or one was made before.
pub fn known() -> Option<HeaderValue> {
    let current = CURRENT.try_with(|current| {
        let id = current.take();
        let value = id.as_ref().and_then(RequestId::known).cloned();
        current.set(id);
        value
    });
    current.unwrap_or_default()
}

/// Takes over an id from within the message of a request which has none of its own.
pub fn adopt(id: &[u8]) {
    let adopted = CURRENT.try_with(|current| {
        let mut own = current.take();
        if let Some(RequestId(own @ None)) = &mut own
            && is_usable(id)
        {
            *own = HeaderValue::from_bytes(id).ok().map(Box::new);
        }
        current.set(own);
    });
    // A thread that ends works on no request.
    adopted.unwrap_or_default();
}

/// `work` as a part of the request that this thread works on, if it works on one, for another task.
pub fn carry<F>(work: F) -> InRequest<F> {
    let id = current().map(|id| RequestId(Some(Box::new(id))));
    InRequest { id, span: Span::current(), inner: work }
}

/// Whether a caller's own id can be used. Rule 15.1 of docs/policy.md.
pub fn is_usable(id: &[u8]) -> bool {
    let is_printable = |byte: &u8| (b' '..=b'~').contains(byte);
    let usable = (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(is_printable);
    // It goes to logs and traces.
    usable && !secret::resembles_secret(&percent_decode(id).decode_utf8_lossy())
}

/// A new id, random as a hash table is: ids are no secrets, and a call of the system for each would cost more.
fn make() -> HeaderValue {
    let random = RandomState::new();
    let bytes = (u128::from(random.hash_one(0_u8)) << 64) | u128::from(random.hash_one(1_u8));
    let id = uuid::Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid();
    // Hexadecimal digits and hyphens.
    HeaderValue::try_from(id.to_string()).unwrap_or(HeaderValue::from_static("none"))
}

/// While it lives, the thread works on a request; also where the work panics, it ends with it.
struct Entered<'a> {
    own: &'a mut RequestId,
    outer: Option<RequestId>,
}

impl<'a> Entered<'a> {
    fn new(own: &'a mut RequestId) -> Self {
        let outer = CURRENT.replace(Some(std::mem::take(own)));
        Self { own, outer }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.own = CURRENT.replace(self.outer.take()).unwrap_or_default();
    }
}

pin_project! {
    /// A future or a stream, as a part of a request if it belongs to one.
    #[derive(Debug)]
    pub struct InRequest<F> {
        id: Option<RequestId>,
        span: Span,
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for InRequest<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        match this.id {
            Some(id) => id.scope(|| this.inner.poll(cx)),
            None => this.inner.poll(cx),
        }
    }
}

impl<S: Stream> Stream for InRequest<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let _entered = this.span.enter();
        match this.id {
            Some(id) => id.scope(|| this.inner.poll_next(cx)),
            None => this.inner.poll_next(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
        RequestId::read(&headers)
    }

    /// Rule 15.1.
    #[test]
    fn own_ids_are_used_if_they_are_short_and_printable() {
        for own in [&b"a"[..], b" ~\"", &[b'x'; MAX_REQUEST_ID]] {
            assert_eq!(read(own).value().as_bytes(), own);
        }
        let (secret, escaped) = (b"pcl_t1_0123456789abcdef", b"pcl%5ft1_0123456789abcdef");
        let long = [b'x'; MAX_REQUEST_ID + 1];
        for odd in [&b""[..], b"a\tb", "ä".as_bytes(), &long, secret, escaped] {
            let mut id = read(odd);
            assert!(id.0.is_none(), "{odd:?}");
            let made = id.value().clone();
            assert_eq!(made.len(), 36, "{made:?}");
            assert_eq!(id.value(), made, "it is made once");
            assert_ne!(RequestId::default().value(), made, "another request has another");
        }
    }

    #[test]
    fn work_has_the_id_of_its_request_and_nothing_else_has() {
        assert_eq!((current(), known()), (None, None));
        let (mut outer, mut inner) = (read(b"outer"), RequestId::default());
        outer.scope(|| {
            assert_eq!(current().unwrap(), "outer");
            let made = inner.scope(|| {
                adopt(b"not\tprintable");
                assert_eq!(known(), None);
                let made = current().unwrap();
                assert_eq!(known(), Some(made.clone()));
                made
            });
            assert_eq!(inner.known(), Some(&made), "what was made stays");
            adopt(b"late");
            assert_eq!(current().unwrap(), "outer");
            assert_eq!(
                RequestId::default().scope(|| (adopt(b"adopted"), current())).1.unwrap(),
                "adopted"
            );
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            outer.scope(|| panic!("as work may"));
        }));
        assert!(panicked.is_err());
        assert_eq!(current(), None);
        assert_eq!(outer.value(), "outer");
    }

    #[tokio::test]
    async fn another_task_carries_the_id_on() {
        let id = || async { current() };
        let work = async move {
            let made = current();
            let spawned = tokio::task::JoinSet::from_iter([carry(id())]);
            assert_eq!(spawned.join_all().await.pop(), Some(made.clone()));
            made
        };
        assert!(RequestId::default().of(work).await.is_some());
        assert_eq!(carry(id()).await, None, "work outside requests has none");
    }
}
