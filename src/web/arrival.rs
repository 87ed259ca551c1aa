//! Forms as they arrive: read whole before a request takes a place, so that a slow one takes nobody's.
//!
//! Must stay true: what of unfinished forms is in memory is bounded, for each subscriber and in all, whatever
//! a client declares, sends or withholds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::StreamExt as _;

use super::answer::PageError;
use crate::net::{Limiter, Permit};
use crate::service::Error;

/// How long a form may take to arrive, from the end of its request's head.
const ARRIVAL: Duration = Duration::from_secs(10);
/// What each form may have in memory in any case, in bytes: the form to sign in fits. As many arrive at once as
/// there are connections, which have their own bounds.
const SMALL: usize = 4 << 10;
/// What is beyond that takes a place for each piece of so many bytes.
const PIECE: usize = 16 << 10;
/// Pieces of one subscriber that may be in memory: 1 MiB, or one form where that is larger; in all four times as
/// many.
const PIECES: usize = 64;

/// Where forms arrive.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Bytes that a form may have.
    largest: usize,
    pieces: Arc<Limiter>,
}

/// A form that arrived whole, and its places, which are for as long as it is in memory.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) form: Bytes,
    pub(super) places: Vec<Permit>,
}

impl Arrivals {
    /// For forms of at most `largest` bytes.
    pub(super) fn new(largest: usize) -> Self {
        let share = PIECES.max(largest.div_ceil(PIECE));
        Self { largest, pieces: Limiter::new(4 * share, share) }
    }

    /// Reads a form to its end.
    ///
    /// # Errors
    /// It is too large, too slow or cut off, or there is no room for it.
    pub(super) async fn read(&self, form: Body, from: IpAddr) -> Result<Arrived, PageError> {
        tokio::time::timeout(ARRIVAL, self.read_all(form, from)).await.unwrap_or_else(|_| {
            let text = "The form did not arrive within 10 seconds.";
            Err(PageError::new(StatusCode::REQUEST_TIMEOUT, "Too slow", text))
        })
    }

    async fn read_all(&self, form: Body, from: IpAddr) -> Result<Arrived, PageError> {
        let unreadable =
            |status, text: &str| PageError::new(status, "That can't be read", text.to_owned());
        let (mut whole, mut places) = (Vec::new(), Vec::new());
        let mut chunks = form.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|_| unreadable(StatusCode::BAD_REQUEST, "The form was cut off."))?;
            let length = whole.len() + chunk.len();
            if length > self.largest {
                let text = format!(
                    "The form is larger than {} bytes, which is the most: send less at a time.",
                    self.largest
                );
                return Err(unreadable(StatusCode::PAYLOAD_TOO_LARGE, &text));
            }
            while SMALL + places.len() * PIECE < length {
                places.push(self.pieces.take(from, 1).ok_or(Error::Overloaded)?);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Arrived { form: whole.into(), places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn large_forms_have_a_share_and_small_ones_always_fit() {
        const LARGEST: usize = 256 << 10;
        let arrivals = Arrivals::new(LARGEST);
        let (thief, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let form = |length: usize| Body::from(vec![b'x'; length]);
        let mut kept = Vec::new();
        let refused = loop {
            match arrivals.read(form(LARGEST), thief).await {
                Ok(arrived) => kept.push(arrived),
                Err(error) => break error,
            }
            assert!(kept.len() <= PIECES, "there is no end");
        };
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(kept.len(), PIECES / (LARGEST / PIECE));
        assert_eq!(arrivals.read(form(SMALL), thief).await.unwrap().form.len(), SMALL);
        assert_eq!(arrivals.read(form(LARGEST), other).await.unwrap().form.len(), LARGEST);
        kept.pop();
        arrivals.read(form(LARGEST), thief).await.unwrap();
        let large = arrivals.read(form(LARGEST + 1), other).await.unwrap_err();
        assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
