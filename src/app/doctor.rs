//! `portcullis doctor`: whether a server could start with these settings, and serve well. It changes nothing, and binds
//! each listener for a moment only.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::certificates::{Judgement, Served};
use super::explain;
use super::reload::ServerTls;
use crate::clock::{id_at, system_time};
use crate::config::client::Format;
use crate::config::server::{
    InstallationArgs, ListenSetting, MailSettings, RelaySettings, ServeSettings, StoreSettings,
};
use crate::mail::{Limits, Message, Outcome, Relay};
use crate::net;
use crate::policy::text::escape;
use crate::policy::time::Timestamp;
use crate::store::inspection::Inspection;
use crate::store::{postgres, sqlite};

/// How far the clock of this host may be from the store's, which decides: log lines and certificates go by this one.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);
/// How long each step of the mail relay may take here, where somebody waits for it.
const MAIL_TIMEOUT: Duration = Duration::from_secs(10);

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Error,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What was found out about one subject. The text of what is wrong says what to do.
#[derive(Debug)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    text: String,
}

/// All that was found out, in the order of the checks.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, subject: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.0.push(Finding { subject, verdict, text: text.into() });
    }

    fn ok(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Verdict::Ok, text);
    }

    fn warning(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Verdict::Warning, text);
    }

    fn error(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Verdict::Error, text);
    }
}

/// Checks everything, and prints a line for each finding. The code is 0 where nothing is wrong, 1 where a server would
/// not start or would not do all that its settings say.
pub(super) async fn run(args: InstallationArgs, format: Format) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let mail_to = args.mail_to().map(str::to_owned);
    let secret_files = args.secret_files();
    match args.resolve() {
        Err(invalid) => {
            invalid.errors().iter().for_each(|error| findings.error("settings", error));
        }
        Ok(settings) => {
            findings.ok("settings", "they are valid");
            let now = store(&settings.store, &mut findings).await;
            listeners(&settings, &mut findings).await;
            tls(&settings, now.unwrap_or_else(system_time), &mut findings);
            secrets(&settings, secret_files, &mut findings);
            mail(&settings.mail, mail_to.as_deref(), &mut findings).await;
        }
    }
    report(&findings, format)
}

/// The store, and its time against that of this host.
async fn store(store: &StoreSettings, findings: &mut Findings) -> Option<Timestamp> {
    let inspected = match store {
        StoreSettings::Embedded(data_dir) => match sqlite::inspect(data_dir).await {
            Ok(None) => {
                let text = format!("{} has none yet: a start makes it", data_dir.display());
                findings.ok("store", text);
                return None;
            }
            inspected => inspected.transpose()?,
        },
        StoreSettings::Postgres { url, .. } => postgres::inspect(url.expose_secret()).await,
    };
    let Inspection { place, version, now, pending, newer, errors, warnings } = match inspected {
        Ok(inspection) => inspection,
        Err(error) => {
            findings.error("store", explain(&anyhow::Error::new(error)));
            return None;
        }
    };
    let schema = match (pending, newer) {
        (_, Some(_)) => "its tables are those of a newer version",
        (0, None) => "its tables are those of this version",
        (_, None) => "a start makes or migrates its tables",
    };
    findings.ok("store", format!("{version} at {place}: {schema}"));
    if let Some(newer) = newer {
        let text = format!(
            "a newer version of portcullis has migrated it ({newer:04}): this one may not start on it; run that \
             version or a later one"
        );
        findings.warning("store", text);
    }
    errors.into_iter().for_each(|text| findings.error("store", text));
    warnings.into_iter().for_each(|text| findings.warning("store", text));
    let own = system_time();
    let difference = Duration::from_micros(own.0.abs_diff(now.0));
    let (millis, text) = (difference.as_millis(), "this host's clock and the store's differ by");
    if difference > CLOCK_DIFFERENCE {
        let cure =
            "have both follow the same source (NTP): certificates are checked by this host's";
        findings.warning("clock", format!("{text} {millis} ms: {cure}"));
    } else {
        findings.ok("clock", format!("{text} {millis} ms"));
    }
    Some(now)
}

/// Whether each listener's port is free.
async fn listeners(settings: &ServeSettings, findings: &mut Findings) {
    let of = |flag, listeners: &[ListenSetting]| {
        let tcp = listeners.iter().filter_map(ListenSetting::addresses);
        tcp.map(|addresses| (flag, addresses.to_vec())).collect::<Vec<_>>()
    };
    let mut all: Vec<(&str, Vec<SocketAddr>)> = of("listen", &settings.listen);
    all.push(("http-listen", settings.http_listen.clone()));
    all.extend(of("gateway-listen", &settings.gateway.listen));
    for (flag, addresses) in all {
        match net::bind(flag, &addresses).await {
            Ok(_) => findings.ok("listener", format!("--{flag}: the address is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                findings.warning(
                    "listener",
                    format!("{error}: a server runs here already, or another program has the port"),
                );
            }
            Err(error) => findings.error("listener", error.to_string()),
        }
    }
}

fn tls(settings: &ServeSettings, now: Timestamp, findings: &mut Findings) {
    let Some(files) = &settings.tls else {
        findings.ok("tls", "there is none: listeners are on loopback, or --plaintext is set");
        return;
    };
    let tls = match ServerTls::read(files) {
        Ok(tls) => tls,
        Err(error) => return findings.error("tls", error.to_string()),
    };
    tls.certificates.for_each(|certificate: &Served| {
        let text = certificate.describe();
        match certificate.check(now) {
            Err(error) => findings.error("tls", error),
            Ok(()) if certificate.judge(now) == Judgement::Soon => {
                findings.warning("tls", format!("{text}, which is soon: renew it"));
            }
            Ok(()) => findings.ok("tls", text),
        }
    });
}

/// Who else can read the files with secrets.
fn secrets(
    settings: &ServeSettings,
    secret_files: Vec<(&'static str, PathBuf)>,
    findings: &mut Findings,
) {
    let key = settings.tls.as_ref().map(|tls| ("--tls-key", tls.key.clone()));
    let data_dir = match &settings.store {
        StoreSettings::Embedded(data_dir) => Some(("--data-dir", data_dir.clone())),
        StoreSettings::Postgres { .. } => None,
    };
    let data_dir = data_dir.filter(|(_, path)| path.exists());
    for (setting, path) in secret_files.into_iter().chain(key).chain(data_dir) {
        permissions(setting, &path, findings);
    }
}

fn permissions(setting: &str, path: &Path, findings: &mut Findings) {
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.mode() & 0o777,
        Err(error) => {
            let text = format!("{setting}: {} can't be looked at: {error}", path.display());
            return findings.error("permissions", text);
        }
    };
    let what = format!("{setting}: {} has mode {mode:04o}", path.display());
    // A directory that may not be entered hides its files, whatever else its mode says.
    if mode & 0o007 != 0 {
        let text =
            format!("{what}, so every user of this host can use it: chmod o= {}", path.display());
        findings.error("permissions", text);
    } else if mode & 0o020 != 0 {
        let text = format!("{what}, so its group can change it: chmod g-w {}", path.display());
        findings.warning("permissions", text);
    } else {
        findings.ok("permissions", what);
    }
}

async fn mail(mail: &MailSettings, to: Option<&str>, findings: &mut Findings) {
    let Some(RelaySettings { endpoint, trust, sender }) = mail.relay.clone() else {
        let text = "no relay is set: nobody is mailed, and nothing is removed from unused tokens; set \
                    PORTCULLIS_SMTP_URL_FILE and --mail-from";
        return match to {
            None => findings.warning("mail", text),
            Some(_) => findings.error("mail", text),
        };
    };
    let limits = Limits::each(mail.timeout.min(MAIL_TIMEOUT));
    let place = endpoint.to_string();
    let relay = Relay::new(endpoint, trust, sender, limits);
    if let Err(error) = relay.check().await {
        return findings.error("mail", format!("{error}: see Mail in docs/operations.md"));
    }
    findings.ok("mail", format!("{place} takes connections and the login"));
    let Some(to) = to else { return };
    let now = system_time();
    let outcome = relay.send(&test_message(to, now)).await;
    relay.close().await;
    match outcome {
        Outcome::Accepted(answer) => {
            findings.ok("mail", format!("the relay took a test message to {to}: {answer}"));
        }
        Outcome::RecipientRefused(why)
        | Outcome::MessageRefused(why)
        | Outcome::Postponed(why)
        | Outcome::RelayError(why) => {
            let text = format!(
                "the relay took no test message to {to}: {why}: see Mail in docs/operations.md"
            );
            findings.error("mail", text);
        }
    }
}

fn test_message(to: &str, now: Timestamp) -> Message {
    let text = "This is a test message of `portcullis doctor`. Mails of Portcullis reach you.\n";
    Message {
        id: id_at(now),
        to: to.to_owned(),
        date: now,
        subject: "Test message of Portcullis".to_owned(),
        text: text.to_owned(),
        html: format!("<!doctype html><title>Test</title><p>{text}"),
    }
}

fn report(Findings(findings): &Findings, format: Format) -> anyhow::Result<ExitCode> {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            let checks: Vec<_> = findings
                .iter()
                .map(|Finding { subject, verdict, text }| {
                    json!({ "check": subject, "result": verdict.word(), "text": text })
                })
                .collect();
            writeln!(out, "{:#}", json!({ "passed": errors == 0, "checks": checks }))?;
        }
        Format::Text => {
            for Finding { subject, verdict, text } in findings {
                writeln!(out, "{:<8} {subject}: {}", verdict.word(), escape(text))?;
            }
            writeln!(out, "{} checks: {errors} errors, {warnings} warnings", findings.len())?;
        }
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_that_others_can_use_are_errors_and_those_a_group_can_change_are_warnings() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secret");
        std::fs::write(&path, "x").unwrap();
        for (mode, verdict) in [
            (0o600, Verdict::Ok),
            (0o440, Verdict::Ok),
            (0o660, Verdict::Warning),
            (0o604, Verdict::Error),
            (0o666, Verdict::Error),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut findings = Findings::default();
            permissions("--tls-key", &path, &mut findings);
            assert_eq!(findings.0[0].verdict, verdict, "{mode:o}: {findings:?}");
        }
    }
}
