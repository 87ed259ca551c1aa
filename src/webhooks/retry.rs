//! When a webhook is tried again, and when events are given up: pure.
//!
//! Rules 14.13 and 14.15 of docs/policy.md.

use std::time::Duration;

use crate::model::{Delivery, Event, Failing};
use crate::policy::id::WebhookId;
use crate::policy::time::Timestamp;

/// After so many refusals of one event as invalid it is given up.
const MAX_REFUSALS: u32 = 10;

/// How often and for how long events are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How long after the first failure.
    pub initial: Duration,
    /// At most; each further failure doubles the wait up to here.
    pub max: Duration,
    /// How long a receiver fails before events that are as old are given up.
    pub give_up: Duration,
}

impl Retries {
    /// How long to wait after so many failures, from 1 up: between half and the whole of the doubled wait, so that
    /// webhooks that failed together are not tried again together.
    fn after(&self, id: WebhookId, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let doubled = self.initial.saturating_mul(1 << doublings).min(self.max);
        let jitter = (id.0.as_u128() >> (attempts % 32)) as u8;
        doubled / 2 + doubled / 2 * u32::from(jitter) / u32::from(u8::MAX)
    }

    /// Notes that the first of `events`, which wait for `id` in order, was not received at `now`. How many of them are
    /// given up: the first one, where the receiver has `refused` it too often; where nothing was received for long, all
    /// that are as old. Rule 14.15 of docs/policy.md.
    pub(super) fn failed(
        &self,
        delivery: &mut Delivery,
        id: WebhookId,
        events: &[Event],
        refused: bool,
        why: String,
        now: Timestamp,
    ) -> usize {
        let Some(first) = events.first() else { return 0 };
        delivery.attempts = delivery.attempts.saturating_add(1);
        delivery.last_failure = Some((now, why));
        delivery.next_attempt = now.plus(self.after(id, delivery.attempts));
        let since = delivery.failing.map_or(now, |failing| failing.since);
        let old = now.minus(self.give_up);
        let given_up = if since <= old {
            events.iter().take_while(|event| event.time <= old).count()
        } else {
            usize::from(refused && delivery.attempts >= MAX_REFUSALS)
        };
        let next = events.get(given_up);
        delivery.failing = Some(Failing { since, event_time: next.unwrap_or(first).time });
        if let Some(last) = events[..given_up].last() {
            delivery.position = last.revision;
            delivery.skipped += given_up as u64;
            // The next event has its own chances.
            (delivery.attempts, delivery.next_attempt) = (0, now);
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::EventType;

    const RETRIES: Retries = Retries {
        initial: Duration::from_secs(5),
        max: Duration::from_secs(3_600),
        give_up: Duration::from_secs(3 * 86_400),
    };
    const ID: WebhookId = WebhookId(Uuid::from_u128(0x1234_5678_9abc_def0));

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn event(revision: i64, seconds: i64) -> Event {
        Event {
            revision,
            time: at(seconds),
            kind: EventType::TokenLeaked,
            account_id: None,
            token_id: None,
            credential_id: None,
            webhook_id: None,
            actions: Vec::new(),
            successor: None,
        }
    }

    fn failed(delivery: &mut Delivery, events: &[Event], refused: bool, now: Timestamp) -> usize {
        RETRIES.failed(delivery, ID, events, refused, "the answer is 500".to_owned(), now)
    }

    /// Rule 14.13.
    #[test]
    fn waits_double_up_to_the_longest() {
        let mut delivery = Delivery::default();
        let mut now = at(0);
        for attempt in 1..=40_u32 {
            assert_eq!(failed(&mut delivery, &[event(1, 0)], false, now), 0);
            assert_eq!(delivery.attempts, attempt);
            let wait = delivery.next_attempt.0 - now.0;
            let doubled = (5_i64 << (attempt - 1).min(20)).min(3_600) * 1_000_000;
            assert!((doubled / 2..=doubled).contains(&wait), "{attempt}: {wait}");
            now = delivery.next_attempt;
        }
        assert_eq!(delivery.failing, Some(Failing { since: at(0), event_time: at(0) }));
        assert_eq!(delivery.position, 0);
    }

    /// Rule 14.15.
    #[test]
    fn what_a_receiver_refuses_as_invalid_holds_up_the_others_for_ten_attempts() {
        let events = [event(3, 0), event(9, 1)];
        let mut delivery = Delivery::default();
        for attempt in 1..=9 {
            assert_eq!(failed(&mut delivery, &events, true, at(attempt)), 0);
        }
        assert_eq!(failed(&mut delivery, &events, true, at(10)), 1);
        assert_eq!((delivery.position, delivery.skipped, delivery.attempts), (3, 1, 0));
        assert_eq!(delivery.next_attempt, at(10));
        let mut other = Delivery::default();
        for attempt in 1..=20 {
            assert_eq!(failed(&mut other, &events, false, at(attempt)), 0);
        }
    }

    /// Rule 14.15.
    #[test]
    fn old_events_are_given_up_only_where_nothing_was_received_for_as_long() {
        let day = 86_400;
        let events = [event(1, 0), event(2, day), event(3, 4 * day)];
        // The server was stopped for days: the first failure gives up nothing.
        let mut delivery = Delivery::default();
        assert_eq!(failed(&mut delivery, &events, false, at(10 * day)), 0);
        // The receiver was.
        let mut delivery = Delivery::default();
        assert_eq!(failed(&mut delivery, &events, false, at(0)), 0);
        assert_eq!(failed(&mut delivery, &events, false, at(3 * day - 1)), 0);
        assert_eq!(failed(&mut delivery, &events, false, at(4 * day + 1)), 2);
        assert_eq!((delivery.position, delivery.skipped), (2, 2));
        let failing = delivery.failing.unwrap();
        assert_eq!((failing.since, failing.event_time), (at(0), at(4 * day)));
        assert_eq!(failed(&mut delivery, &events[2..], false, at(4 * day + 2)), 0);
    }
}
