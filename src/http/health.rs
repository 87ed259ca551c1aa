//! `/healthz`: that the process answers, and a line for each thing that operators must know.
//!
//! Must stay true: it is 200 and begins with `ok` for as long as the process answers, so that what
//! restarts processes restarts none for a mail server's sake; it reads no store.

use std::fmt::Write as _;
use std::time::Duration;

use crate::policy::lifecycle::Mode;
use crate::service::status::{Health, REFRESH, Trouble};

/// A mail waits for longer than it takes to send one: worth a line.
const LATE: Duration = Duration::from_secs(60);

/// What is said.
pub(super) fn text(health: &Health) -> String {
    lifecycle_lines(health)
        + &store_lines(&health.troubles)
        + &reload_lines(&health.failing_reloads)
}

/// A line for each group of files that can't be used as they are now.
fn reload_lines(groups: &[&str]) -> String {
    groups.iter().fold(String::new(), |mut text, group| {
        // Writing to a String can't fail. Operators alone learn which file; anybody may read this.
        let _ = writeln!(
            text,
            "reload: {group}: its files can't be used, and what was read before is in force: the log names the \
             file, the cause and the cure"
        );
        text
    })
}

fn lifecycle_lines(Health { outlook, lifecycle, has_lease, replicas, .. }: &Health) -> String {
    let mut text = "ok\n".to_owned();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{words}");
    };
    let now = outlook.calendar.now;
    if !has_lease {
        line(format_args!(
            "lease: run out: the store is out of reach, and nothing is decided until it is back"
        ));
    }
    if replicas.late > 0 {
        line(format_args!(
            "replicas: {} of {} do not renew their leases: changes wait until those run out",
            replicas.late, replicas.count
        ));
    }
    if replicas.at_odds > 0 {
        line(format_args!(
            "lifecycle: stopped: replicas with other lifecycle settings: {}; the log names them",
            replicas.at_odds
        ));
    }
    if outlook.calendar.settings.mode == Mode::Observe {
        line(format_args!(
            "lifecycle: observe: nothing is announced, mailed or removed; see `portcullis pending \
             --preview`"
        ));
    }
    let Some(known) = lifecycle else {
        line(format_args!("lifecycle: not known yet: the store was not read"));
        return text;
    };
    if known.read.plus(REFRESH * 4) < now {
        line(format_args!("lifecycle: the store could not be read since {}", known.read));
    }
    let pending = known.pending.deletions + known.pending.downgrades;
    if !outlook.mails && pending > 0 {
        line(format_args!(
            "mail: no mail server is configured: actions announced and held: {pending}; set \
             PORTCULLIS_SMTP_URL and --mail-from"
        ));
    }
    let failing = known.mails.failing.len();
    if failing > 0 {
        // Operators alone learn which ones; anybody may read this.
        line(format_args!(
            "mail: addresses that mails do not reach: {failing}: `portcullis pending` and the log name them"
        ));
    }
    if let Some(since) = known.mails.oldest.filter(|since| since.plus(LATE) < now) {
        line(format_args!("mail: waiting to be sent: {}, since {since}", known.mails.waiting));
    }
    text
}

/// A line for each thing that ails the store, and for how long.
fn store_lines(troubles: &[(Trouble, Duration)]) -> String {
    troubles.iter().fold(String::new(), |mut text, (trouble, time)| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "store: {trouble}, for {} s: {}", time.as_secs(), trouble.cure());
        text
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{FailingAddress, MailState, PendingCounts};
    use crate::policy::lifecycle::{Calendar, Settings};
    use crate::policy::time::Timestamp;
    use crate::service::LifecycleView;
    use crate::service::status::{ClusterSummary, StatusSnapshot};

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn outlook(mode: Mode, mails: bool, now: i64) -> LifecycleView {
        let rules = Settings::default();
        let settings = Settings::new(mode, rules.window(), rules.notice()).unwrap();
        LifecycleView { calendar: Calendar { settings, now: at(now) }, mails }
    }

    fn known(pending: u64, failing: usize, oldest: Option<i64>) -> StatusSnapshot {
        let failing = (0..failing).map(|n| FailingAddress {
            address: format!("a{n}@acme.test"),
            failure: "550 no".to_owned(),
            since: at(0),
        });
        StatusSnapshot {
            pending: PendingCounts { deletions: pending, downgrades: 0 },
            mails: MailState {
                failing: failing.collect(),
                waiting: u64::from(oldest.is_some()),
                oldest: oldest.map(at),
            },
            read: at(1_000),
        }
    }

    #[test]
    fn a_line_for_each_trouble_of_the_store() {
        assert_eq!(store_lines(&[]), "");
        let seconds = Duration::from_secs;
        insta::assert_snapshot!(
            store_lines(&[(Trouble::DiskFull, seconds(0)), (Trouble::Locked, seconds(61))]),
            @r"
        store: disk full, for 0 s: make room on the disk of the database, or raise the quota or the limit of file sizes
        store: locked, for 61 s: find the session that holds the lock (pg_locks, pg_blocking_pids) and end it
        "
        );
    }

    #[test]
    fn a_line_for_each_thing_to_know() {
        let health = |mode, mails, now, lifecycle: Option<StatusSnapshot>| Health {
            outlook: outlook(mode, mails, now),
            lifecycle: lifecycle.map(Arc::new),
            has_lease: true,
            replicas: ClusterSummary::default(),
            troubles: Vec::new(),
            failing_reloads: Vec::new(),
        };
        let shown = |mode, mails, now, known| text(&health(mode, mails, now, Some(known)));
        let ill = ClusterSummary { count: 3, late: 1, at_odds: 2 };
        let ill = Health {
            has_lease: false,
            replicas: ill,
            failing_reloads: vec!["tls"],
            ..health(Mode::Enforce, true, 0, None)
        };
        assert_eq!(shown(Mode::Enforce, true, 1_000, known(5, 0, Some(990))), "ok\n");
        assert_eq!(shown(Mode::Enforce, false, 1_000, known(0, 0, None)), "ok\n");
        insta::assert_snapshot!(
            [
                text(&health(Mode::Enforce, true, 0, None)),
                text(&ill),
                shown(Mode::Observe, true, 1_000, known(0, 0, None)),
                shown(Mode::Enforce, false, 1_100, known(2, 5, Some(10))),
            ]
            .join("\n")
        );
    }
}
