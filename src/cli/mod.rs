//! The `portcullis` command: what can be said on its command line, and the client side of it.
//!
//! Architecture invariant: this module knows the server by its public contract alone (the generated
//! clients) and never imports the server side. The one command that may open the store itself, the
//! first `credential create`, is handed the way to do so.

mod account;
mod audit;
mod catalog;
mod check;
mod confirm;
mod connect;
mod credential;
mod decisions;
mod denials;
mod doctor;
mod evidence;
mod failure;
mod flags;
mod generated;
mod import;
mod json;
mod leaks;
mod openapi;
mod output;
mod own_token;
mod paging;
mod pending;
mod preview;
mod protocol;
mod token;
mod version;
mod webhook;
mod whitelist;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::client::{ClientArgs, Format, OutputArgs};
use crate::config::server::{ConfigFile, FirstCredentialArgs, MigrateArgs, ServeArgs};
use crate::grpc::proto;

pub use failure::{NO_ANSWER, REFUSED};
pub use generated::{completions, manual_pages};

use failure::Failure;

/// Decides what API tokens may do, and manages them
///
/// `portcullis serve` alone runs a server on this host. The other commands talk to a server.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    propagate_version = false,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line, and the configuration file that it or its variable names. The flags that go with every
    /// client command may also stand before its name. Where it makes no sense, or asks for help, that is printed and
    /// the process ends.
    pub fn from_command_line(args: impl Iterator<Item = OsString>) -> Self {
        let args = flags::behind_the_command(&Self::command(), args.collect());
        Self::read(&args).unwrap_or_else(|error| error.exit())
    }

    fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(args)?;
        let (name, of_command) = match matches.subcommand() {
            Some((name @ ("serve" | "migrate"), of_command)) => (name, of_command),
            Some((name @ "doctor", of_command)) if of_command.subcommand().is_none() => {
                (name, of_command)
            }
            _ => return Self::from_arg_matches(&matches),
        };
        let file = ConfigFile::of(of_command)
            .map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))?;
        let program = Self::command().mut_subcommand(name, |command| file.as_defaults(command));
        let mut read = Self::from_arg_matches(&program.try_get_matches_from(args)?)?;
        match &mut read.command {
            Command::Serve(args) => args.take_file(&file),
            Command::Migrate(args) => args.take_file(&file),
            Command::Client(ClientCommand::Doctor(args)) => args.take_file(&file),
            _ => {}
        }
        Ok(read)
    }
}

const EXIT_CODES: &str = "\
The flags that every command of a client takes, such as --server and --output, may also stand before
the command's name: `portcullis --server URL token list`.

Exit codes:
  0  done
  1  refused by the server for a reason of the request; for `check`: denied; for `doctor`: something is wrong
  2  wrong usage, or no answer; for `check`: no decision; for `doctor`: nothing could be checked";

/// What can be asked of the command.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one per process")]
pub enum Command {
    /// Run a server
    ///
    /// With nothing configured it listens on this host only and keeps its data in
    /// ./portcullis-data. Ctrl-C and SIGTERM drain and stop it.
    Serve(ServeArgs),
    /// Bring the store's tables to this version, and stop
    Migrate(MigrateArgs),
    /// Print a script that completes this command's arguments in a shell
    ///
    /// Example:
    ///   portcullis completions bash > /usr/share/bash-completion/completions/portcullis
    #[command(verbatim_doc_comment)]
    Completions(generated::CompletionsArgs),
    /// Write the manual pages of this command and its subcommands into a directory
    ///
    /// Example:
    ///   portcullis man /usr/local/share/man/man1
    #[command(verbatim_doc_comment)]
    Man(generated::ManArgs),
    /// What talks to a server.
    #[command(flatten)]
    Client(ClientCommand),
}

/// What talks to a server.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one per process")]
pub enum ClientCommand {
    /// Manage the credentials of callers of Portcullis
    Credential(credential::CredentialArgs),
    /// Manage the catalogue: every scope with its routes
    Catalog(catalog::CatalogArgs),
    /// Manage accounts, which own tokens, and their admins
    Account(account::AccountArgs),
    /// Manage tokens
    Token(token::TokenArgs),
    /// Manage the addresses that a token may be used from
    Whitelist(whitelist::WhitelistArgs),
    /// List pending actions on unused tokens
    ///
    /// Shows the downgrades and deletions that are planned or announced, and how far the notices to the
    /// account's admins got. With --output json also why, and how to prevent them.
    ///
    /// With --preview: what is due today, and a calendar of 45 days, if nobody uses anything. That changes
    /// nothing, and works where the lifecycle only observes.
    ///
    /// Examples:
    ///   portcullis pending --type deletion --before 2026-03-01T00:00:00Z
    ///   portcullis pending --preview
    #[command(verbatim_doc_comment)]
    Pending(pending::PendingArgs),
    /// List who changed what, when and from where, the newest first; export, follow and verify the record
    ///
    /// With --output json each event also has what was before and afterwards.
    ///
    /// Examples:
    ///   portcullis audit --token tok_... --since 2026-01-01T00:00:00Z --output json
    ///   portcullis audit export --file audit.jsonl && portcullis audit verify audit.jsonl
    #[command(verbatim_doc_comment)]
    Audit(audit::AuditArgs),
    /// Show what an action on an unused token was based on, from the audit record
    ///
    /// The last uses, the notices with the mail server's answers, the admins at that time, the settings,
    /// and the action's audit events. With --output json it can be checked against an export, without a
    /// server.
    ///
    /// Example:
    ///   portcullis evidence act_... --output json > evidence.json
    ///   portcullis audit export --file audit.jsonl
    ///   portcullis audit verify audit.jsonl --evidence evidence.json
    #[command(verbatim_doc_comment)]
    Evidence(evidence::EvidenceArgs),
    /// Manage webhooks: receivers of messages about lifecycle and security events
    ///
    /// Messages are signed as Standard Webhooks 1.0 says, and sent again for days where the receiver does not
    /// accept them. docs/webhooks.md has the types of events.
    Webhook(webhook::WebhookArgs),
    /// List denied requests of the last 7 days, with what would allow them
    ///
    /// By token, reason, address and hour. Requests with the secret of no known token are not listed.
    /// Find out whose an address is before you allow it: it may be a thief's.
    ///
    /// Example:
    ///   portcullis denials --token tok_... --output json
    #[command(verbatim_doc_comment)]
    Denials(denials::DenialsArgs),
    /// Filter and follow a decision log on this host
    ///
    /// Reads the file that a server logs decisions to (--decision-log), after the files that it was
    /// rotated to: the oldest line comes first. With --output json each line is printed as it stands
    /// in the file. No server is asked.
    ///
    /// Examples:
    ///   portcullis decisions decisions.jsonl --token tok_... --decision deny --limit 20
    ///   portcullis decisions decisions.jsonl --address 192.0.2.0/24 --follow --output json
    #[command(verbatim_doc_comment)]
    Decisions(decisions::DecisionsArgs),
    /// Ask whether a token may do something, without counting it as use
    ///
    /// The token's secret has no flag, since `ps` shows flags. It is read from PORTCULLIS_TOKEN, a file,
    /// or standard input; on a terminal it is asked for and not shown.
    ///
    /// Exit codes: 0 allowed, 1 denied, 2 no decision, for whatever reason. What is not 0 must not be
    /// let through.
    ///
    /// Examples:
    ///   portcullis check --scope transactions.read --ip 192.0.2.7 < token.txt
    ///   portcullis check --http "GET /api/v1/accounts" --token-file token.txt
    #[command(verbatim_doc_comment)]
    Check(check::CheckArgs),
    /// Check the settings of a server and all that they name; or a gateway
    ///
    /// Takes the flags, variables and configuration file of `portcullis serve`, and checks the settings, the store and its
    /// permissions, the clock, listeners, TLS files, who can read files with secrets, and the mail relay: with --mail-to by a
    /// test message. Run it as the server's user. Nothing is changed, also beside a running server.
    ///
    /// Exit codes: 0 nothing is wrong (there may be warnings), 1 something is.
    ///
    /// Examples:
    ///   portcullis doctor --tls-cert server.pem --tls-key server.key --mail-to me@example.com
    ///   portcullis doctor gateway http://127.0.0.1:8000/api/v1/accounts --token-file token.txt
    #[command(verbatim_doc_comment)]
    Doctor(doctor::DoctorArgs),
    /// Print this command's version
    Version(version::VersionArgs),
}

impl ClientCommand {
    fn format(&self) -> Format {
        match self {
            Self::Credential(args) => args.common.output.format,
            Self::Catalog(args) => args.common.output.format,
            Self::Account(args) => args.common.output.format,
            Self::Token(args) => args.common.output.format,
            Self::Whitelist(args) => args.common.output.format,
            Self::Pending(args) => args.common.output.format,
            Self::Audit(args) => args.common.output.format,
            Self::Evidence(args) => args.common.output.format,
            Self::Denials(args) => args.common.output.format,
            Self::Webhook(args) => args.common.output.format,
            Self::Decisions(args) => args.output.format,
            Self::Check(args) => args.common.output.format,
            Self::Doctor(args) => args.format(),
            Self::Version(args) => args.output.format,
        }
    }
}

/// What every command that talks to a server takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// How to reach the server.
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a client command, writes its answer or why there is none, and gives its exit code.
///
/// `first_credential` opens the store on this host and makes the first credential there; it refuses
/// where the store has one already. Its error is a sentence for a person.
pub async fn run<F>(command: ClientCommand, first_credential: F) -> ExitCode
where
    F: AsyncFnOnce(FirstCredentialArgs) -> Result<proto::CreateCredentialResponse, String>,
{
    let format = command.format();
    let is_check = matches!(command, ClientCommand::Check(_) | ClientCommand::Doctor(_));
    match dispatch(command, first_credential).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.is_silent() {
                match format {
                    Format::Text => output::note(failure.for_people().trim_end()),
                    Format::Json => output::note(&format!("{:#}", failure.for_programs())),
                }
            }
            // Whatever went wrong, `check` must not be taken for a denial: no decision was reached. Nor is a gateway
            // that `doctor` could not check a bad one.
            ExitCode::from(if is_check { NO_ANSWER } else { failure.exit_code() })
        }
    }
}

async fn dispatch<F>(command: ClientCommand, first_credential: F) -> Result<u8, Failure>
where
    F: AsyncFnOnce(FirstCredentialArgs) -> Result<proto::CreateCredentialResponse, String>,
{
    match command {
        ClientCommand::Credential(args) => credential::run(args, first_credential).await?,
        ClientCommand::Catalog(args) => catalog::run(args).await?,
        ClientCommand::Account(args) => account::run(args).await?,
        ClientCommand::Token(args) => token::run(args).await?,
        ClientCommand::Whitelist(args) => whitelist::run(args).await?,
        ClientCommand::Pending(args) => pending::run(args).await?,
        ClientCommand::Audit(args) => audit::run(args).await?,
        ClientCommand::Evidence(args) => evidence::run(args).await?,
        ClientCommand::Denials(args) => denials::run(args).await?,
        ClientCommand::Webhook(args) => return webhook::run(args).await,
        ClientCommand::Decisions(args) => decisions::run(&args).await?,
        ClientCommand::Check(args) => return check::run(args).await,
        ClientCommand::Doctor(args) => return doctor::run(args).await,
        ClientCommand::Version(args) => version::run(&args)?,
    }
    Ok(0)
}

/// What the server left out though its contract promises it.
fn missing(what: &str) -> Failure {
    Failure::Usage(format!(
        "the server's answer holds no {what}; is it a newer or an older version than this command \
         ({})?",
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ClientCommand, String> {
        let args = line.split(' ').map(OsString::from).collect();
        match Cli::try_parse_from(flags::behind_the_command(&Cli::command(), args)) {
            Ok(Cli { command: Command::Client(command) }) => Ok(command),
            Ok(_) => Err("a server command".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Rule 7.9.
    #[test]
    fn no_secret_has_a_flag() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let name = arg.get_long().unwrap_or_default();
                assert!(
                    !["credential", "secret", "token-secret", "password"].contains(&name),
                    "{} --{name}",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn everything_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn common_flags_go_before_the_command_and_anywhere_after_it() {
        for line in [
            "portcullis --server http://localhost:1 --output json token list",
            "portcullis -o json --server=http://localhost:1 token list",
            "portcullis -ojson --server http://localhost:1 --plaintext token list",
            "portcullis -o=json token --server http://localhost:1 list",
            "portcullis --server http://localhost:2 -o json token list --server http://localhost:1",
            "portcullis token --output json list --server http://localhost:1",
            "portcullis token list --output json --server http://localhost:1",
        ] {
            let ClientCommand::Token(args) = parse(line).unwrap() else { panic!("{line}") };
            assert_eq!(args.common.output.format, Format::Json);
            assert_eq!(args.common.client.server, "http://localhost:1");
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for (line, part) in [
            ("portcullis check", "--scope"),
            ("portcullis --server http://localhost:1", "Usage: portcullis <COMMAND>"),
            ("portcullis --server", "Usage: portcullis <COMMAND>"),
            ("portcullis --server http://localhost:1 serve", "--server"),
            ("portcullis --frob token list", "--frob"),
            ("portcullis --scope a check", "--scope"),
            ("portcullis check --scope a --http GET", "'--http <METHOD PATH>'"),
            ("portcullis check --http GET", "a method and a path"),
            ("portcullis whitelist replace tok_1", "ENTRY"),
            ("portcullis whitelist replace tok_1 10.0.0.1 --allow-any-address", "cannot be used"),
            ("portcullis whitelist add tok_1", "ENTRY"),
            ("portcullis account create --name n", "--admin"),
            ("portcullis audit --since yesterday", "RFC 3339"),
            ("portcullis token list --timeout 10", "has no unit after 10"),
            ("portcullis token list --limit 0", "--limit"),
            ("portcullis decisions x --limit 0", "--limit"),
            ("portcullis decisions x --address 192.0.2", "is not an address or a range"),
            ("portcullis decisions x --token acc_1", "is no token id"),
            ("portcullis decisions x --reason DENIED", "is no reason"),
            ("portcullis decisions - --follow --decision no", "[possible values: allow, deny]"),
            ("portcullis credential create --role account-admin", "--account"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
