//! How admins are mailed. Must stay true: the relay's password never comes as a flag, and no message
//! repeats it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::errors::{ConfigErrors, InvalidSettings, secret_path};
use crate::mail::{Endpoint, InvalidPublicUrl, PublicUrl, Security, Sender};
use crate::pem::TrustStore;
use crate::policy::text::in_quotes;

pub(super) const SMTP_URL: &str = "PORTCULLIS_SMTP_URL";
pub(super) const SMTP_URL_FILE: &str = "PORTCULLIS_SMTP_URL_FILE";

/// How admins are mailed, as written. The relay comes from the environment.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mail")]
pub struct MailArgs {
    /// File with the relay's URL, as the configuration file names it.
    #[arg(skip)]
    pub(super) smtp_url_file: Option<PathBuf>,
    /// Sender of mails: an address, alone or as in `Portcullis <portcullis@example.com>`; needed with
    /// PORTCULLIS_SMTP_URL
    #[arg(long, env = "PORTCULLIS_MAIL_FROM", hide_env_values = true, value_name = "ADDRESS")]
    mail_from: Option<String>,
    /// PEM file with authorities that the mail relay's certificate may be from, besides the public ones
    #[arg(long, env = "PORTCULLIS_SMTP_CA", hide_env_values = true, value_name = "FILE")]
    smtp_ca: Option<PathBuf>,
    /// Time limit for connecting to the relay, and for each of its replies
    #[arg(
        long,
        env = "PORTCULLIS_MAIL_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "30s"
    )]
    mail_timeout: String,
    /// How long after an error a mail is tried again; doubled with each retry
    #[arg(
        long,
        env = "PORTCULLIS_MAIL_RETRY_INITIAL",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "1s"
    )]
    mail_retry_initial: String,
    /// Longest time between two retries
    #[arg(
        long,
        env = "PORTCULLIS_MAIL_RETRY_MAX",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "15m"
    )]
    mail_retry_max: String,
    /// How long after the relay refused a recipient permanently the mail is tried again; the longest time
    /// between retries where it refused the mail permanently
    #[arg(
        long,
        env = "PORTCULLIS_MAIL_REFUSED_RETRY",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "1d"
    )]
    mail_refused_retry: String,
    /// Mails per second, from 1 to 10000
    #[arg(
        long,
        env = "PORTCULLIS_MAIL_RATE",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "5"
    )]
    mail_rate: String,
    /// URL of the management page for links in mails, such as `https://portcullis.example.com`: without a
    /// path, since the page is at the root of its host; if it is https, cookies are for TLS only
    #[arg(long, env = "PORTCULLIS_PUBLIC_URL", hide_env_values = true, value_name = "URL")]
    public_url: Option<String>,
}

/// How admins are mailed. All durations are longer than nothing.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// Through whom; `None`: nobody is mailed, and so nothing is removed.
    pub relay: Option<RelaySettings>,
    /// The files that the relay was read from, where there are any.
    pub relay_files: Option<RelayFiles>,
    /// How long the relay may take to be reached, and for each answer.
    pub timeout: Duration,
    /// How long after an error of the relay a mail is tried again, at first.
    pub retry_initial: Duration,
    /// And at last.
    pub retry_max: Duration,
    /// How long after a refusal of the recipient; at most, after one of the mail.
    pub refused_retry: Duration,
    /// Mails a second at most.
    pub rate: NonZeroU32,
    /// Where admins find the management page.
    pub public_url: Option<PublicUrl>,
}

/// Through whom mail goes.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// The relay.
    pub endpoint: Endpoint,
    /// The authorities that its certificate may be from.
    pub trust: TrustStore,
    /// Who mails.
    pub sender: Sender,
}

/// The files that say through whom mail goes, to be read again while the server runs.
#[derive(Debug, Clone)]
pub struct RelayFiles {
    args: MailArgs,
    url: Option<PathBuf>,
}

impl RelayFiles {
    /// Those of the environment, of the configuration file and of `args`; `None` where there are none.
    fn new(args: &MailArgs) -> Option<Self> {
        let url = secret_path(SMTP_URL, SMTP_URL_FILE, args.smtp_url_file.as_deref());
        (url.is_some() || args.smtp_ca.is_some()).then(|| Self { args: args.clone(), url })
    }

    /// Where they are.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.url.iter().chain(&self.args.smtp_ca).cloned().collect()
    }

    /// Reads them.
    ///
    /// # Errors
    /// All errors at once.
    pub fn read(&self) -> Result<RelaySettings, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        let configured = self.args.smtp_url_file.as_deref();
        let url = errors.secret(SMTP_URL, SMTP_URL_FILE, configured);
        let relay = self.args.relay(url, &mut errors);
        errors.into_result(|| relay)
    }
}

impl MailArgs {
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<MailSettings> {
        let url = errors.secret(SMTP_URL, SMTP_URL_FILE, self.smtp_url_file.as_deref());
        self.resolve_with(url, errors)
    }

    /// The same, with what the environment said.
    pub(super) fn resolve_with(
        &self,
        url: Option<SecretString>,
        errors: &mut ConfigErrors,
    ) -> Option<MailSettings> {
        let relay = self.relay(url, errors);
        let timeout = errors.duration("mail-timeout", &self.mail_timeout);
        let retry_initial = errors.duration("mail-retry-initial", &self.mail_retry_initial);
        let retry_max = errors.duration("mail-retry-max", &self.mail_retry_max);
        let refused_retry = errors.duration("mail-refused-retry", &self.mail_refused_retry);
        if let (Some(initial), Some(max)) = (retry_initial, retry_max)
            && initial > max
        {
            errors.add(format!(
                "--mail-retry-initial: {} is more than --mail-retry-max, {}: shorten one or lengthen \
                 the other",
                self.mail_retry_initial, self.mail_retry_max
            ));
        }
        let rate = errors.number("mail-rate", &self.mail_rate, 1, 10_000);
        let public_url = self.public_url.as_deref().and_then(|text| {
            let url = text.parse::<PublicUrl>();
            url.map_err(|error| match error {
                InvalidPublicUrl::Login => errors.add(format!("--public-url: {error}")),
                _ => errors.add(format!("--public-url: {} {error}", in_quotes(text))),
            })
            .ok()
        });
        Some(MailSettings {
            relay_files: relay.is_some().then(|| RelayFiles::new(self)).flatten(),
            relay,
            timeout: timeout?,
            retry_initial: retry_initial?,
            retry_max: retry_max?,
            refused_retry: refused_retry?,
            rate: NonZeroU32::new(rate as u32)?,
            public_url,
        })
    }

    fn relay(&self, url: Option<SecretString>, errors: &mut ConfigErrors) -> Option<RelaySettings> {
        let sender = self.mail_from.as_deref().map(|text| {
            let sender = text.trim().parse::<Sender>();
            sender
                .map_err(|error| errors.add(format!("--mail-from: {} {error}", in_quotes(text))))
                .ok()
        });
        let endpoint = url.map(|url| {
            Endpoint::parse(&url).map_err(|error| errors.add(format!("{SMTP_URL}: {error}"))).ok()
        });
        let trust = self.trust(endpoint.as_ref(), errors);
        match (endpoint, sender) {
            (None, None) => None,
            (Some(_), None) => {
                errors.add(format!(
                    "--mail-from: is missing: {SMTP_URL} is set, and a mail needs a sender"
                ));
                None
            }
            (None, Some(_)) => {
                // A file that can't be read is an error already.
                if !errors.names(SMTP_URL) {
                    errors.add(format!(
                        "--mail-from: goes with a relay: name it in {SMTP_URL}, or a file that \
                         holds it in {SMTP_URL_FILE}"
                    ));
                }
                None
            }
            (Some(endpoint), Some(sender)) => {
                Some(RelaySettings { endpoint: endpoint?, trust: trust?, sender: sender? })
            }
        }
    }

    fn trust(
        &self,
        endpoint: Option<&Option<Endpoint>>,
        errors: &mut ConfigErrors,
    ) -> Option<TrustStore> {
        let pem = match &self.smtp_ca {
            None => None,
            Some(path) => Some((path, errors.file("smtp-ca", path)?)),
        };
        if let Some((path, _)) = &pem {
            let plain = |endpoint: &Endpoint| endpoint.security() == Security::Plain;
            match endpoint {
                None => errors.add(format!(
                    "--smtp-ca: {} vouches for a relay, and none is named: set {SMTP_URL}",
                    path.display()
                )),
                Some(Some(endpoint)) if plain(endpoint) => errors.add(format!(
                    "--smtp-ca: an smtp:// relay shows no certificate: write smtp+starttls:// or \
                     smtps:// in {SMTP_URL}"
                )),
                Some(_) => {}
            }
        }
        let trust = TrustStore::public_and(pem.as_ref().map(|(_, pem)| pem.as_slice()));
        trust
            .map_err(|error| {
                let path = pem.map(|(path, _)| path.display().to_string()).unwrap_or_default();
                errors.add(format!("--smtp-ca: {path} {error}"));
            })
            .ok()
    }
}
