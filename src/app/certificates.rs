//! Warnings of certificates that have expired, soon will, or are not valid yet: at the start, daily, and where files
//! were read again.
//!
//! Must stay true: what is judged is what is served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::net::tls::{NamedFile, TlsError, TlsFiles};
use crate::policy::time::Timestamp;
use crate::telemetry::Metrics;
use crate::{pem, shutdown};

/// How often certificates are judged.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end a certificate expires soon. Programs that renew certificates of 90 days do so 30 days before
/// their end: where one has 14 left, that has failed for days.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A certificate that is served, or accepted as an authority.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served {
    flag: &'static str,
    file: String,
    subject: String,
    from: Timestamp,
    until: Timestamp,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Valid,
    NotYet,
    Soon,
    Expired,
}

impl Served {
    /// Those of `files`, the server's own first.
    ///
    /// # Errors
    /// A file has none.
    pub(super) fn of(files: &TlsFiles) -> Result<Vec<Self>, TlsError> {
        let files = [Some(&files.cert), files.client_ca.as_ref()];
        let all: Vec<_> =
            files.into_iter().flatten().map(Self::of_file).collect::<Result<_, _>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    fn of_file(file: &NamedFile) -> Result<Vec<Self>, TlsError> {
        let seconds = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000));
        let certificates = file.certificates()?;
        let validities = certificates.iter().filter_map(pem::validity);
        let served = validities.map(|(from, until, subject)| Self {
            flag: file.flag(),
            file: file.path().display().to_string(),
            subject,
            from: seconds(from),
            until: seconds(until),
        });
        Ok(served.collect())
    }

    /// Whose it is, where it stands, and when it ends.
    pub(super) fn describe(&self) -> String {
        let Self { flag, file, subject, until, .. } = self;
        format!("--{flag}: the certificate of {subject} in {file} expires at {until}")
    }

    /// What its dates mean `now`.
    pub(super) fn judge(&self, now: Timestamp) -> Judgement {
        if now < self.from {
            Judgement::NotYet
        } else if self.until < now {
            Judgement::Expired
        } else if self.until < now.plus(SOON) {
            Judgement::Soon
        } else {
            Judgement::Valid
        }
    }

    /// Whether it is valid `now`.
    ///
    /// # Errors
    /// Why not, and the cure.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), String> {
        let Self { flag, file, from, until, .. } = self;
        match self.judge(now) {
            Judgement::Valid | Judgement::Soon => Ok(()),
            Judgement::NotYet => Err(format!(
                "--{flag}: the certificate in {file} is not valid before {from}: put one that is in its place, \
                 or correct the clock of the store's host"
            )),
            Judgement::Expired => Err(format!(
                "--{flag}: the certificate in {file} expired at {until}: put a new one in its place"
            )),
        }
    }

    fn warn(&self, now: Timestamp) {
        let Self { flag, file, subject, from, until } = self;
        match self.judge(now) {
            Judgement::Valid => {}
            Judgement::NotYet => tracing::error!(
                flag, file, subject, %from,
                "a certificate is not valid yet: put one that is in its place, or correct the clock of \
                 the store's host"
            ),
            Judgement::Soon => tracing::warn!(
                flag, file, subject, %until,
                "a certificate expires soon: put a new one in its place"
            ),
            Judgement::Expired => tracing::error!(
                flag, file, subject, %until,
                "a certificate has expired: put a new one in its place"
            ),
        }
    }
}

/// All certificates that are served or accepted now.
#[derive(Debug)]
pub(super) struct Certificates(Mutex<Vec<Served>>);

impl Certificates {
    pub(super) fn new(certificates: Vec<Served>) -> Self {
        Self(Mutex::new(certificates))
    }

    /// Shows each of them.
    pub(super) fn for_each(&self, show: impl FnMut(&Served)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(show);
    }

    /// Judges `certificates` from now on, and now where they are others than before.
    pub(super) fn replace(&self, certificates: Vec<Served>, now: Timestamp, metrics: &Metrics) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != certificates {
            *current = certificates;
            drop(current);
            self.judge(now, metrics);
        }
    }

    /// Warns of those that are near or past their end, and shows in metrics when the first of each file ends.
    fn judge(&self, now: Timestamp, metrics: &Metrics) {
        let certificates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        certificates.iter().for_each(|certificate| certificate.warn(now));
        for flag in ["tls-cert", "tls-client-ca"] {
            let ends = certificates.iter().filter(|one| one.flag == flag).map(|one| one.until);
            if let Some(end) = ends.min() {
                metrics.certificate_expiry(flag, end.to_seconds_nanos().0);
            }
        }
    }

    /// Judges them now, and daily until `stop`.
    pub(super) fn watch(
        self: &Arc<Self>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        stop: &CancellationToken,
    ) {
        self.judge(clock.now(), &metrics);
        let certificates = self.clone();
        shutdown::spawn_essential("certificates", stop.clone(), {
            let stop = stop.clone();
            async move {
                while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                    certificates.judge(clock.now(), &metrics);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_judged_by_its_dates() {
        let day = |day: i64| Timestamp(day * 86_400_000_000);
        let certificate = Served {
            flag: "tls-cert",
            file: String::new(),
            subject: String::new(),
            from: day(100),
            until: day(190),
        };
        for (now, judgement) in [
            (99, Judgement::NotYet),
            (100, Judgement::Valid),
            (176, Judgement::Valid),
            (177, Judgement::Soon),
            (190, Judgement::Soon),
            (191, Judgement::Expired),
        ] {
            assert_eq!(certificate.judge(day(now)), judgement, "day {now}");
            let usable = matches!(judgement, Judgement::Valid | Judgement::Soon);
            assert_eq!(certificate.check(day(now)).is_ok(), usable, "day {now}");
        }
    }
}
