//! One time: the store's, carried forward by a monotonic clock. The machine's own wall clock decides
//! nothing. This is the only file that reads a clock.
//!
//! Rule: docs/policy.md, rule 4.1.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use crate::lease::MonotonicInstant;
use crate::policy::time::Timestamp;

/// It runs while the machine sleeps: a lease ends also for who sleeps through its end.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MONOTONIC: ClockId = ClockId::Boottime;
/// Elsewhere this one does.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// The store's time as this process knows it.
#[derive(Debug)]
pub struct Clock {
    origin: Stopwatch,
    /// What to add to the microseconds since `origin`.
    offset: AtomicI64,
    /// Whether time passes by itself; a simulated clock stands still until it is moved.
    runs: bool,
}

impl Clock {
    /// A clock that shows `now` and runs from there.
    pub fn starting_at(now: Timestamp) -> Self {
        Self { origin: Stopwatch::start(), offset: AtomicI64::new(now.0), runs: true }
    }

    /// A clock for tests, which shows `now` until it is moved.
    pub fn simulated(now: Timestamp) -> Self {
        Self { runs: false, ..Self::starting_at(now) }
    }

    /// The store's time now.
    pub fn now(&self) -> Timestamp {
        self.at(Stopwatch::start())
    }

    /// The store's time when `watch` was started, which spares looking at the clock once more.
    pub fn at(&self, watch: Stopwatch) -> Timestamp {
        let elapsed = if self.runs {
            let elapsed = watch.0.saturating_sub(self.origin.0) / 1_000;
            i64::try_from(elapsed).unwrap_or(i64::MAX)
        } else {
            0
        };
        Timestamp(elapsed.saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Takes over what the store just said, having been `asked` then. It read its time somewhere in
    /// between: only what that proves wrong is put right, so a slow answer sets nothing back.
    pub fn learn(&self, now: Timestamp, asked: Stopwatch) {
        let before = self.at(asked).0;
        let after = self.now().0;
        // How far this clock is behind, at most and at least.
        let (most, least) = (now.0.saturating_sub(before), now.0.saturating_sub(after));
        self.offset.fetch_add(0.clamp(least, most), Ordering::Relaxed);
    }

    /// Moves a simulated clock on.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.offset.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A new id (UUID version 7) of something that is made at `now`: ids sort by the store's time, and no
/// two are alike.
pub fn id_at(now: Timestamp) -> Uuid {
    let (seconds, nanos) = now.to_seconds_nanos();
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos.unsigned_abs()))
}

/// This host's own time, which decides nothing: to compare it with the store's.
pub fn system_time() -> Timestamp {
    let now = clock_gettime(ClockId::Realtime);
    Timestamp(now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000))
}

/// Measures how long something took.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(u64);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the one place that reads a clock")]
        let now = clock_gettime(MONOTONIC);
        let whole = u64::try_from(now.tv_sec).unwrap_or(0);
        Self(whole * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// Since its start.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(Self::start().0.saturating_sub(self.0))
    }

    /// When it was started, as leases reckon.
    pub fn moment(self) -> MonotonicInstant {
        MonotonicInstant(self.0 / 1_000)
    }
}

/// Now, as leases reckon.
pub fn moment() -> MonotonicInstant {
    Stopwatch::start().moment()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_stands_still_until_moved() {
        let clock = Clock::simulated(Timestamp(1_000));
        assert_eq!(clock.now(), Timestamp(1_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), Timestamp(1_001_000));
    }

    /// Rule 4.1.
    #[test]
    fn a_running_clock_follows_what_it_learns() {
        let clock = Clock::starting_at(Timestamp(0));
        for learned in [5_000_000_000, 1_000_000_000] {
            clock.learn(Timestamp(learned), Stopwatch::start());
            let now = clock.now().0;
            assert!(now >= learned && now < learned + 100_000_000, "{now}");
        }
    }

    #[test]
    fn an_answer_under_way_for_long_moves_nothing() {
        let clock = Clock::starting_at(Timestamp(0));
        let asked = Stopwatch::start();
        let said = clock.now();
        while clock.now() < said.plus(Duration::from_millis(50)) {
            std::thread::yield_now();
        }
        let before = clock.offset.load(Ordering::Relaxed);
        // Whether the store read it at once, or at the very end.
        clock.learn(said.plus(Duration::from_millis(1)), asked);
        clock.learn(said.plus(Duration::from_millis(49)), asked);
        assert_eq!(clock.offset.load(Ordering::Relaxed), before);
    }
}
