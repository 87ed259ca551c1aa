//! Waiting for what a server does by itself.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use portcullis::clock::Stopwatch;

/// Longer than any of it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is as wanted.
///
/// # Panics
/// With the last answer, where it is not in a minute.
#[track_caller]
pub fn until<T: Debug>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let begun = Stopwatch::start();
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "still {answer:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The same for what is asked without blocking the thread.
///
/// # Panics
/// With the last answer, where it is not in a minute.
pub async fn until_async<T: Debug>(
    mut ask: impl AsyncFnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let begun = Stopwatch::start();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "still {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
