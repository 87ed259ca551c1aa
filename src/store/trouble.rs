//! What ails the database, by kind: for callers, for `/healthz` and for the log.
//!
//! Must stay true: no text here holds anything that the database said; what a caller may know of it is the
//! kind. Noting a success costs nothing, since decisions come by.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::SqliteError;

use super::{Result, StoreError};
use crate::clock::Stopwatch;

/// A kind of failure of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or no answer in time.
    OutOfReach,
    /// No connection of this process was free in time.
    Busy,
    /// The database takes no more connections.
    NoConnection,
    /// A row or a table is locked by another session for too long.
    Locked,
    /// The file of an embedded store is locked by another program for too long.
    FileLocked,
    /// A statement took longer than it may.
    Slow,
    /// It takes no changes, as a standby.
    ReadOnly,
    /// The disk is full, or a quota or the limit of a file's size is reached.
    DiskFull,
    /// The disk can't be read or written.
    DiskFails,
    /// Out of memory, or of another resource.
    NoResource,
    /// What is stored is damaged.
    Damaged,
}

impl Trouble {
    /// What `error` is a case of. `None` for an error of a statement.
    pub(super) fn of(error: &sqlx::Error) -> Option<Self> {
        use sqlx::Error;
        match error {
            Error::Io(_) | Error::Tls(_) | Error::PoolClosed | Error::WorkerCrashed => {
                Some(Self::OutOfReach)
            }
            Error::PoolTimedOut => Some(Self::Busy),
            Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                if error.try_downcast_ref::<SqliteError>().is_some() {
                    Self::of_sqlite(&code)
                } else {
                    Self::of_postgres(&code)
                }
            }
            _ => None,
        }
    }

    /// By result code (<https://sqlite.org/rescode.html>), the extended one where there is one.
    fn of_sqlite(code: &str) -> Option<Self> {
        let code: u32 = code.parse().ok()?;
        Some(match code & 0xff {
            5 | 6 => Self::FileLocked,
            7 => Self::NoResource,
            8 => Self::ReadOnly,
            // SQLite calls only ENOSPC a full disk. A write, a truncation or a mapping that fails for another
            // reason (778, 1546, 4874, 5386) is mostly a quota or a limit of the file's size.
            10 if [778, 1_546, 4_874, 5_386].contains(&code) => Self::DiskFull,
            10 => Self::DiskFails,
            11 | 26 => Self::Damaged,
            13 => Self::DiskFull,
            14 => Self::OutOfReach,
            _ => return None,
        })
    }

    /// By SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    fn of_postgres(code: &str) -> Option<Self> {
        Some(match code {
            "25006" => Self::ReadOnly,
            // A statement's time limit; a transaction that stood still, as when this process was paused.
            "57014" | "25P03" => Self::Slow,
            // A lock not had in time; conflicts.
            "55P03" | "40001" | "40P01" => Self::Locked,
            "53100" => Self::DiskFull,
            "53300" => Self::NoConnection,
            "58030" => Self::DiskFails,
            "XX001" | "XX002" => Self::Damaged,
            _ if code.starts_with("53") => Self::NoResource,
            // Lost connections; a server that stops or starts.
            _ if code.starts_with("08") || code.starts_with("57") => Self::OutOfReach,
            _ => return None,
        })
    }

    /// Whether trying again later makes sense: what is damaged stays so.
    pub(super) fn passes(self) -> bool {
        self != Self::Damaged
    }

    /// Every [`Self::name`].
    pub const KINDS: [&str; 10] = [
        "out of reach",
        "busy",
        "out of connections",
        "locked",
        "slow",
        "read-only",
        "disk full",
        "disk fails",
        "out of memory",
        "damaged",
    ];

    /// A word for each, as the log and `docs/operations.md` have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfReach => "out of reach",
            Self::Busy => "busy",
            Self::NoConnection => "out of connections",
            Self::Locked | Self::FileLocked => "locked",
            Self::Slow => "slow",
            Self::ReadOnly => "read-only",
            Self::DiskFull => "disk full",
            Self::DiskFails => "disk fails",
            Self::NoResource => "out of memory",
            Self::Damaged => "damaged",
        }
    }

    /// What operators should do.
    pub fn cure(self) -> &'static str {
        match self {
            Self::OutOfReach => "check that the database runs, and the network to it",
            Self::Busy => {
                "raise --database-connections, start fewer clients at once, or see what the database is \
                 slow with"
            }
            Self::NoConnection => {
                "raise max_connections of the database or the limit of its user, or lower \
                 --database-connections"
            }
            Self::Locked => {
                "find the session that holds the lock (pg_locks, pg_blocking_pids) and end it"
            }
            Self::FileLocked => {
                "find the program that has the database file open (lsof, fuser) and end it"
            }
            Self::Slow => "see what the database is busy with, and whether a lock is waited for",
            Self::ReadOnly => {
                "let the URL lead to the primary; in a failover, wait until it has ended"
            }
            Self::DiskFull => {
                "make room on the disk of the database, or raise the quota or the limit of file sizes"
            }
            Self::DiskFails => "check the disk of the database and the system's log",
            Self::NoResource => {
                "give the database more memory, or raise the limit that its log names"
            }
            Self::Damaged => "restore a backup",
        }
    }

    /// What callers are answered who may try again.
    pub fn for_callers(self) -> &'static str {
        match self {
            Self::OutOfReach => "the store is out of reach or too slow; try again",
            Self::Busy => "all connections to the store are in use; try again",
            Self::NoConnection => {
                "the store takes no more connections; try again, and if it stays so its operator must \
                 allow more"
            }
            Self::Locked => {
                "another session of the store holds a lock that this needs; try again, and if it stays so \
                 the store's operator must end that session"
            }
            Self::FileLocked => {
                "another program holds a lock on the store's file; try again, and if it stays so the \
                 store's operator must end that program"
            }
            Self::Slow => {
                "the store took too long; try again, and if it stays so its operator must see what it is \
                 busy with"
            }
            Self::ReadOnly => {
                "the store is read-only and takes no changes, as in a failover; try again, and if it stays \
                 so its operator must act"
            }
            Self::DiskFull => {
                "the disk of the store is full, so it takes no changes; try again once its operator has \
                 made room"
            }
            Self::DiskFails => {
                "the disk of the store fails; try again once its operator has looked at it"
            }
            Self::NoResource => {
                "the store is out of memory or at another of its limits; try again, and if it stays so its \
                 operator must act"
            }
            Self::Damaged => "the store is damaged: its operator must restore it",
        }
    }

    /// Whether a change that was made shows that it is over, when it was seen so long ago for the last time.
    /// On a full disk a small change may still fit where a larger one doesn't.
    fn ends_with_a_change(self, ago: Duration) -> bool {
        match self {
            Self::OutOfReach | Self::ReadOnly => true,
            Self::DiskFull => ago >= FULL_DISK_LASTS,
            _ => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind, for the log: its lines show an error and not what lies behind it.
pub(super) fn in_brackets(error: &sqlx::Error) -> String {
    Trouble::of(error).map(|trouble| format!(" ({trouble})")).unwrap_or_default()
}

impl StoreError {
    /// What ails the database, where that is what it is about.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unavailable(error) | Self::Unknown(error) => Trouble::of(error),
            Self::Internal(error) => error.downcast_ref().and_then(Trouble::of),
            Self::StaleCatalog => None,
        }
    }
}

/// How long a trouble that was not seen again is taken to last, and how often its beginning is logged at most.
const LASTS: Duration = Duration::from_secs(60);

/// The same of a full disk, where changes are made again.
const FULL_DISK_LASTS: Duration = Duration::from_secs(10);

/// What ails one database, as its use cases found.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Vec<Seen>>);

#[derive(Debug)]
struct Seen {
    trouble: Trouble,
    began: Stopwatch,
    last: Stopwatch,
    logged: Stopwatch,
    over: bool,
}

impl Troubles {
    fn seen(&self) -> impl std::ops::DerefMut<Target = Vec<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `result` through and notes what ails the database, if that is what it failed for. Logs a line when
    /// a trouble begins.
    pub(super) fn noting<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && let Some(trouble) = error.trouble()
            && !matches!(error, StoreError::Unavailable(sqlx::Error::PoolClosed))
        {
            self.note(trouble, error);
        }
        result
    }

    fn note(&self, trouble: Trouble, error: &StoreError) {
        let now = Stopwatch::start();
        let mut seen = self.seen();
        let known = seen.iter_mut().find(|seen| seen.trouble == trouble);
        let logs = match known {
            None => {
                seen.push(Seen { trouble, began: now, last: now, logged: now, over: false });
                true
            }
            Some(known) => {
                known.last = now;
                let begins = std::mem::take(&mut known.over);
                if begins {
                    known.began = now;
                }
                let logs = begins && known.logged.elapsed() >= LASTS;
                if logs {
                    known.logged = now;
                }
                logs
            }
        };
        drop(seen);
        if logs {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let (name, cure) = (trouble.name(), trouble.cure());
            match trouble {
                Trouble::DiskFull | Trouble::DiskFails | Trouble::Damaged => {
                    tracing::error!(trouble = name, cause, cure, "the database is in trouble");
                }
                _ => tracing::warn!(trouble = name, cause, cure, "the database is in trouble"),
            }
        }
    }

    /// Takes note that a change was made.
    pub(super) fn changed(&self) {
        self.end(|seen| seen.trouble.ends_with_a_change(seen.last.elapsed()));
    }

    /// Takes note that a change was made to see whether that can be done. What was not seen for a minute is over
    /// too; what is damaged stays so.
    pub(super) fn probed(&self) {
        self.end(|seen| {
            let ago = seen.last.elapsed();
            seen.trouble.ends_with_a_change(ago) || (seen.trouble.passes() && ago >= LASTS)
        });
    }

    fn end(&self, is_over: impl Fn(&Seen) -> bool) {
        for seen in self.seen().iter_mut().filter(|seen| !seen.over) {
            if is_over(seen) {
                seen.over = true;
                tracing::info!(trouble = seen.trouble.name(), "the database is out of trouble");
            }
        }
    }

    /// What ails the database now, and for how long.
    pub(super) fn current(&self) -> Vec<(Trouble, Duration)> {
        let seen = self.seen();
        let current = seen.iter().filter(|seen| !seen.over);
        current.map(|seen| (seen.trouble, seen.began.elapsed())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, trouble) in [
            ("08006", Trouble::OutOfReach),
            ("57P01", Trouble::OutOfReach),
            ("57P03", Trouble::OutOfReach),
            ("57014", Trouble::Slow),
            ("25P03", Trouble::Slow),
            ("25006", Trouble::ReadOnly),
            ("55P03", Trouble::Locked),
            ("40001", Trouble::Locked),
            ("40P01", Trouble::Locked),
            ("53100", Trouble::DiskFull),
            ("53200", Trouble::NoResource),
            ("53300", Trouble::NoConnection),
            ("53400", Trouble::NoResource),
            ("58030", Trouble::DiskFails),
            ("XX001", Trouble::Damaged),
        ] {
            assert_eq!(Trouble::of_postgres(code), Some(trouble), "{code}");
        }
        for code in ["23505", "42P01", "25P02", "28P01", "XX000", ""] {
            assert_eq!(Trouble::of_postgres(code), None, "{code}");
        }
        for (code, trouble) in [
            ("5", Trouble::FileLocked),
            ("517", Trouble::FileLocked),
            ("6", Trouble::FileLocked),
            ("7", Trouble::NoResource),
            ("8", Trouble::ReadOnly),
            ("1032", Trouble::ReadOnly),
            ("10", Trouble::DiskFails),
            ("266", Trouble::DiskFails),
            ("778", Trouble::DiskFull),
            ("13", Trouble::DiskFull),
            ("14", Trouble::OutOfReach),
            ("11", Trouble::Damaged),
            ("267", Trouble::Damaged),
            ("26", Trouble::Damaged),
        ] {
            assert_eq!(Trouble::of_sqlite(code), Some(trouble), "{code}");
        }
        for code in ["1", "19", "2067", ""] {
            assert_eq!(Trouble::of_sqlite(code), None, "{code}");
        }
    }

    #[test]
    fn troubles_end_where_a_change_shows_it() {
        let troubles = Troubles::default();
        let fails = |trouble| {
            troubles.note(trouble, &StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        };
        let current = || troubles.current().into_iter().map(|(one, _)| one).collect::<Vec<_>>();
        let [read_only, full, locked, damaged] =
            [Trouble::ReadOnly, Trouble::DiskFull, Trouble::Locked, Trouble::Damaged];
        for trouble in [read_only, full, locked, damaged, read_only] {
            fails(trouble);
        }
        assert_eq!(current(), [read_only, full, locked, damaged]);
        // Seen a moment ago: that a change can be made says nothing of what is locked, nor of a larger change.
        troubles.changed();
        assert_eq!(current(), [full, locked, damaged]);
        troubles.probed();
        assert_eq!(current(), [full, locked, damaged]);
        fails(read_only);
        assert_eq!(current().len(), 4);
        assert!(full.ends_with_a_change(FULL_DISK_LASTS) && !locked.ends_with_a_change(LASTS));
    }
}
