//! Warnings of certificates that have expired, soon will, or are not valid yet: at the start, and daily.
//!
//! Must stay true: what is judged is what is served, which was read at the start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::server::TlsFiles;
use crate::policy::time::Timestamp;
use crate::telemetry::Metrics;
use crate::{pem, shutdown};

/// How often certificates are judged.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end a certificate expires soon. Authorities that issue for 90 days advise renewal
/// then.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A certificate of a file.
struct Certificate {
    flag: &'static str,
    file: String,
    subject: String,
    from: Timestamp,
    until: Timestamp,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Valid,
    NotYet,
    Soon,
    Expired,
}

/// Judges the certificates of `files` now, and daily until `stop`.
pub(super) fn watch(
    files: &TlsFiles,
    clock: Arc<Clock>,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let mut certificates = read("tls-cert", &files.cert);
    if let Some(path) = &files.client_ca {
        certificates.extend(read("tls-client-ca", path));
    }
    for flag in ["tls-cert", "tls-client-ca"] {
        let of_flag = certificates.iter().filter(|certificate| certificate.flag == flag);
        if let Some(until) = of_flag.map(|certificate| certificate.until).min() {
            metrics.certificate_expiry(flag, until.0 / 1_000_000);
        }
    }
    let warn = move || certificates.iter().for_each(|certificate| certificate.warn(clock.now()));
    warn();
    shutdown::spawn_essential("certificates", stop.clone(), {
        let stop = stop.clone();
        async move {
            while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                warn();
            }
        }
    });
}

/// Those of a file that was read before: one that can't be read again has nothing to warn of.
fn read(flag: &'static str, path: &Path) -> Vec<Certificate> {
    let pem = std::fs::read(path).unwrap_or_default();
    let certificates = pem::certificates(&pem).unwrap_or_default();
    let validities = certificates.iter().filter_map(pem::validity);
    let seconds = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000));
    validities
        .map(|(from, until, subject)| Certificate {
            flag,
            file: path.display().to_string(),
            subject,
            from: seconds(from),
            until: seconds(until),
        })
        .collect()
}

impl Certificate {
    fn judge(&self, now: Timestamp) -> Judgement {
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

    fn warn(&self, now: Timestamp) {
        let Self { flag, file, subject, from, until } = self;
        match self.judge(now) {
            Judgement::Valid => {}
            Judgement::NotYet => tracing::error!(
                flag, file, subject, %from,
                "a certificate is not valid yet: put one that is in its place and restart, or correct \
                 the clock of the store's host"
            ),
            Judgement::Soon => tracing::warn!(
                flag, file, subject, %until,
                "a certificate expires soon: put a new one in its place and restart"
            ),
            Judgement::Expired => tracing::error!(
                flag, file, subject, %until,
                "a certificate has expired: put a new one in its place and restart"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_judged_by_its_dates() {
        let day = |day: i64| Timestamp(day * 86_400_000_000);
        let certificate = Certificate {
            flag: "tls-cert",
            file: String::new(),
            subject: String::new(),
            from: day(100),
            until: day(190),
        };
        for (now, judgement) in [
            (99, Judgement::NotYet),
            (100, Judgement::Valid),
            (160, Judgement::Valid),
            (161, Judgement::Soon),
            (190, Judgement::Soon),
            (191, Judgement::Expired),
        ] {
            assert_eq!(certificate.judge(day(now)), judgement, "day {now}");
        }
    }
}
