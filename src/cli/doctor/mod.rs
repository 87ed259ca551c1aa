//! `portcullis doctor`: whether a gateway keeps what its clients forge from the service behind it.
//!
//! The command is both ends of the gateway: it sends requests to it and, for as long as it runs, stands in for the
//! service (`--echo`). So it knows what survives, whatever the gateway answers.

mod checks;
mod echo;
mod probe;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::check::read_token;
use super::failure::{Failure, REFUSED};
use super::output::{note, print, print_line, table};
use crate::config::client::{Format, OutputArgs, TokenArgs};
use crate::config::server;
use crate::pem::TrustStore;
use crate::policy::duration;
use checks::{Finding, Verdict};
use echo::Echo;
use probe::{Gateway, Probe};

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(subcommand)]
    command: Option<DoctorCommand>,
    #[command(flatten)]
    own: server::InstallationArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum DoctorCommand {
    /// Send forged headers through a gateway, and report which of them reach the service
    ///
    /// While it runs, the command stands in for the service behind the gateway: point the gateway's route for URL at
    /// the address of --echo first. It sends about 150 requests with GET, one after the other. The token has to be
    /// allowed to GET the path of URL; its secret is read as `portcullis check` reads it.
    ///
    /// Exit codes: 0 nothing forged survives, 1 something does, 2 the gateway could not be checked.
    ///
    /// Example:
    ///   portcullis doctor gateway http://127.0.0.1:8000/api/v1/accounts --token-file token.txt
    #[command(verbatim_doc_comment)]
    Gateway(DoctorGatewayArgs),
}

#[derive(Debug, Args)]
struct DoctorGatewayArgs {
    /// A URL of the gateway that the token may GET: http:// or https://
    #[arg(value_name = "URL")]
    url: String,
    /// Where this command stands in for the service while it runs
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    echo: SocketAddr,
    /// PEM file with the authorities that vouch for an https gateway, beside those that browsers know
    #[arg(long, value_name = "FILE")]
    gateway_ca: Option<PathBuf>,
    /// How long to wait for each answer, such as 5s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    probe_timeout: Duration,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DoctorArgs {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Some(DoctorCommand::Gateway(args)) => args.output.format,
            None => self.output.format,
        }
    }

    /// Whether a gateway is to be checked, and not this installation.
    pub fn is_of_gateway(&self) -> bool {
        self.command.is_some()
    }

    pub(super) fn take_file(&mut self, file: &server::ConfigFile) {
        self.own.take_file(file);
    }

    /// The settings of this installation, and how to print what is found.
    pub fn own(self) -> (server::InstallationArgs, Format) {
        (self.own, self.output.format)
    }
}

/// 0 where nothing forged survives, 1 where something does.
pub(super) async fn run(args: DoctorArgs) -> Result<u8, Failure> {
    let Some(DoctorCommand::Gateway(args)) = args.command else {
        return Err(Failure::Usage("name what to check: portcullis doctor gateway URL".to_owned()));
    };
    let format = args.output.format;
    let trust = trust_store(args.gateway_ca)?;
    let gateway = Gateway::new(&args.url, &trust, args.probe_timeout)?;
    let token = read_token(args.token)?;
    let echo = Echo::start(args.echo).await?;

    let baseline = Probe::allowed(token.expose_secret());
    let sent = gateway.send(&baseline, &echo).await?;
    if sent.received.is_none() {
        return Err(Failure::Usage(sent.not_reached(args.echo)));
    }
    let mut findings = vec![checks::judge(&baseline, &sent)];
    for probe in checks::probes(token.expose_secret()) {
        let sent = gateway.send(&probe, &echo).await?;
        findings.push(checks::judge(&probe, &sent));
    }
    report(&args.url, &findings, format)
}

fn trust_store(ca: Option<PathBuf>) -> Result<TrustStore, Failure> {
    let Some(path) = ca else {
        return TrustStore::public_and(None)
            .map_err(|error| Failure::Usage(format!("no authorities: {error}")));
    };
    let unusable =
        |cause: String| Failure::Usage(format!("--gateway-ca: {} {cause}", path.display()));
    let pem = std::fs::read(&path).map_err(|error| unusable(format!("can't be read: {error}")))?;
    TrustStore::public_and(Some(&pem)).map_err(|error| unusable(error.to_string()))
}

fn report(url: &str, findings: &[Finding], format: Format) -> Result<u8, Failure> {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    match format {
        Format::Json => {
            let checks: Vec<_> = findings.iter().map(Finding::json).collect();
            let passed = failed == 0;
            print_line(&format!(
                "{:#}",
                json!({ "url": url, "passed": passed, "checks": checks })
            ))?;
        }
        Format::Text => {
            let shown = findings.iter().filter(|finding| finding.verdict != Verdict::Pass);
            let rows: Vec<_> = shown.map(Finding::row).collect();
            if !rows.is_empty() {
                print(&table(["RESULT", "CHECK", "SENT", "WHAT HAPPENED"], &rows))?;
            }
            let all = findings.len();
            note(&format!("{all} checks: {failed} failed, {warned} with a warning"));
        }
    }
    Ok(if failed == 0 { 0 } else { REFUSED })
}
