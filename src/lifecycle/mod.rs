//! What becomes of what is not used: announced, mailed, carried out, forgotten. The rules are
//! `policy::lifecycle`, the transactions are the store's; here is what drives them.
//!
//! Must stay true: all of it may run in several processes at once, may stop at any instant, and goes
//! on from what the store says.

mod facts;
mod outbox;
mod status;
mod sweeper;

pub use outbox::{CLAIM, Outbox, Retries, Transport};
pub use status::{LifecycleStatus, REFRESH, StatusSnapshot};
pub use sweeper::{SweepReport, Sweeper};
