//! `portcullis whitelist`.

use clap::{Args, Subcommand};

use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, note, note_propagation, print};
use super::{Common, proto};

/// What `whitelist` takes.
#[derive(Debug, Args)]
pub struct WhitelistArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: WhitelistCommand,
}

#[derive(Debug, Subcommand)]
enum WhitelistCommand {
    /// Show a token's whitelist, an entry per line
    Show {
        #[command(flatten)]
        token: TokenId,
    },
    /// Add entries; adding what is present changes nothing
    ///
    /// Example:
    ///   portcullis whitelist add tok_... 192.0.2.7 10.1.0.0/16,2001:db8::/48
    #[command(verbatim_doc_comment)]
    Add(ChangeArgs),
    /// Remove entries; removing what is absent is refused
    ///
    /// Answers once no replica lets the removed addresses in any more, and names the entries that
    /// still cover one of them. The last entry can't be removed: see `replace --allow-any-address`.
    Remove(ChangeArgs),
    /// Replace the whole list
    ///
    /// Examples:
    ///   portcullis whitelist replace tok_... 192.0.2.0/24 --expected-version 3
    ///   portcullis whitelist replace tok_... --allow-any-address
    #[command(verbatim_doc_comment)]
    Replace {
        #[command(flatten)]
        token: TokenId,
        /// Entries of the new list: addresses or CIDR ranges, also several with commas
        #[arg(value_name = "ENTRY", required_unless_present = "allow_any_address")]
        entries: Vec<String>,
        /// Lift the restriction, with no ENTRY: only where what the token may do requires none
        #[arg(long, conflicts_with = "entries")]
        allow_any_address: bool,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

#[derive(Debug, Args)]
struct TokenId {
    /// The token's id, such as tok_...
    #[arg(value_name = "TOKEN")]
    token_id: String,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    token: TokenId,
    /// Addresses or CIDR ranges, also several with commas
    #[arg(value_name = "ENTRY", required = true)]
    entries: Vec<String>,
    #[command(flatten)]
    options: ChangeOptions,
}

#[derive(Debug, Args)]
struct ChangeOptions {
    /// Change only this version of the list, so that nobody's change is undone unseen
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<i64>,
    /// Check everything and show the list as it would be, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Answer before a removal is in effect on every replica
    #[arg(long)]
    no_wait: bool,
}

impl ChangeOptions {
    fn request(self, token: TokenId) -> proto::ManageWhitelistRequest {
        proto::ManageWhitelistRequest {
            token_id: token.token_id,
            expected_version: self.expected_version,
            validate_only: self.dry_run,
            no_wait: self.no_wait,
            ..Default::default()
        }
    }
}

impl From<WhitelistCommand> for proto::ManageWhitelistRequest {
    fn from(command: WhitelistCommand) -> Self {
        match command {
            WhitelistCommand::Show { token } => {
                Self { token_id: token.token_id, ..Default::default() }
            }
            WhitelistCommand::Add(args) => {
                Self { add: args.entries, ..args.options.request(args.token) }
            }
            WhitelistCommand::Remove(args) => {
                Self { remove: args.entries, ..args.options.request(args.token) }
            }
            WhitelistCommand::Replace { token, entries, allow_any_address, options } => Self {
                replace: Some(proto::WhitelistReplacement { entries, allow_any_address }),
                ..options.request(token)
            },
        }
    }
}

pub(super) async fn run(args: WhitelistArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let request = proto::ManageWhitelistRequest::from(args.command);
    let dry_run = request.validate_only;
    let answer = session.answer_as_text(session.tokens().manage_whitelist(request).await)?;
    let Some(answer) = answer else { return Ok(()) };
    if answer.entries.is_empty() {
        note("no whitelist");
    } else {
        let lines: String = answer.entries.iter().map(|e| format!("{}\n", clean(e))).collect();
        print(&lines)?;
    }
    let unmatched: Vec<_> =
        answer.entry_uses.iter().filter(|used| used.unmatched).map(|used| &*used.entry).collect();
    if !unmatched.is_empty() {
        note(&format!(
            "not used for the whole window: {}; no allowed request matched",
            clean(&unmatched.join(", "))
        ));
    }
    if !answer.still_covered_by.is_empty() {
        note(&format!(
            "careful: an address that was removed is still covered by {}",
            clean(&answer.still_covered_by.join(", "))
        ));
    }
    note(&format!("version {}", answer.version));
    if dry_run {
        note("dry run: nothing was changed");
    }
    note_propagation(answer.propagation.as_ref());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, ClientCommand, Command};
    use clap::Parser as _;

    fn request(line: &str) -> proto::ManageWhitelistRequest {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Client(ClientCommand::Whitelist(args)) = cli.command else { panic!("{line}") };
        args.command.into()
    }

    #[test]
    fn words_become_requests() {
        let shown = request("portcullis whitelist show tok_1");
        assert_eq!(
            shown,
            proto::ManageWhitelistRequest { token_id: "tok_1".to_owned(), ..Default::default() }
        );
        let added =
            request("portcullis whitelist add tok_1 ::1 10.0.0.1 --expected-version 0 --dry-run");
        assert_eq!(added.add, ["::1", "10.0.0.1"]);
        assert_eq!(added.expected_version, Some(0));
        assert!(added.validate_only && added.remove.is_empty() && added.replace.is_none());
        let removed = request("portcullis whitelist remove tok_1 ::1 --no-wait");
        assert_eq!(removed.remove, ["::1"]);
        assert!(removed.no_wait && removed.expected_version.is_none());
        let lifted = request("portcullis whitelist replace tok_1 --allow-any-address");
        assert!(lifted.replace.is_some_and(|r| r.allow_any_address && r.entries.is_empty()));
    }
}
