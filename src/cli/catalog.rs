//! `portcullis catalog`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};

use clap::{Args, Subcommand};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, note, note_propagation, print, print_line, table, when, word};
use super::{Common, openapi, proto};
use crate::config::client::Format;
use crate::policy::catalog_file::{self, CatalogError};

/// What `catalog` takes.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    command: CatalogCommand,
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    /// Show the catalogue in force
    ///
    /// Example, to change it:
    ///   portcullis catalog show --toml > catalog.toml
    ///   portcullis catalog check catalog.toml
    ///   portcullis catalog apply catalog.toml
    #[command(verbatim_doc_comment)]
    Show {
        /// Print the file as it was applied, comments and all
        #[arg(long)]
        toml: bool,
    },
    /// Replace the catalogue
    ///
    /// Says what changes, scope by scope, and how many tokens gain or lose by it. What takes
    /// something from a token needs --confirm-narrowing.
    ///
    /// Examples:
    ///   portcullis catalog apply catalog.toml --dry-run
    ///   portcullis catalog apply - < catalog.toml
    #[command(verbatim_doc_comment)]
    Apply {
        /// The catalogue file, "-" for standard input
        #[arg(value_name = "FILE")]
        file: String,
        /// Check everything and say what would change, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Go ahead although some tokens lose something
        #[arg(long)]
        confirm_narrowing: bool,
        /// Answer before a narrowing change is in effect on every replica
        #[arg(long)]
        no_wait: bool,
    },
    /// Name every error in a file, or say what applying it would change
    ///
    /// The same as apply --dry-run. Errors are named without a server.
    #[command(verbatim_doc_comment)]
    Check {
        /// The catalogue file, "-" for standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// Print a catalogue for the API that an OpenAPI document describes
    ///
    /// Reads OpenAPI 3.0 and 3.1, JSON or YAML, and asks no server. Scopes are those of the security
    /// requirements, or else by tag and method. Whatever was derived is marked with "review:" and
    /// needs a decision: access is not what a method says.
    ///
    /// Example:
    ///   portcullis catalog from-openapi openapi.yaml > catalog.toml
    #[command(verbatim_doc_comment)]
    FromOpenapi {
        /// The document, "-" for standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
}

pub(super) async fn run(args: CatalogArgs) -> Result<(), Failure> {
    let (file, validate_only, confirm_narrowing, no_wait) = match args.command {
        CatalogCommand::Show { toml } => return show(args.common, toml).await,
        CatalogCommand::Apply { file, dry_run, confirm_narrowing, no_wait } => {
            (file, dry_run, confirm_narrowing, no_wait)
        }
        CatalogCommand::Check { file } => (file, true, false, false),
        CatalogCommand::FromOpenapi { file } => {
            return from_openapi(&file, args.common.output.format == Format::Json);
        }
    };
    let toml = read(&file, u64::MAX)?;
    // The server finds the same errors, but an answer has no room for many.
    catalog_file::parse(&toml).map_err(|errors| invalid_file(&file, &errors))?;
    let request = proto::ApplyCatalogRequest {
        toml,
        validate_only,
        // A dry run changes nothing: it shows what would be lost instead of refusing it.
        confirm_narrowing: confirm_narrowing || validate_only,
        no_wait,
    };
    let session = Session::open(args.common).await?;
    let answer = session.answer_as_text(session.catalog().apply_catalog(request).await)?;
    let Some(answer) = answer else { return Ok(()) };
    if answer.changes.is_empty() {
        note(&format!("nothing differs from version {}", answer.version));
    } else {
        print(&changes(&answer.changes))?;
        let losing = answer.changes.iter().any(|change| change.tokens_losing > 0);
        note(&match (validate_only, losing) {
            (false, _) => format!("version {} is in force", answer.version),
            (true, false) => "dry run: nothing was changed".to_owned(),
            (true, true) => {
                "dry run: nothing was changed. Some tokens would lose something: applying it needs \
                 --confirm-narrowing"
                    .to_owned()
            }
        });
    }
    for warning in &answer.warnings {
        note(&format!("warning: {}", clean(warning)));
    }
    note_propagation(answer.propagation.as_ref());
    Ok(())
}

/// The refusal of a file, as a server would word it, with every error.
fn invalid_file(file: &str, errors: &[CatalogError]) -> Failure {
    let mut details = ErrorDetails::new();
    for error in errors {
        details.add_bad_request_violation("toml", error.to_string());
    }
    details.set_error_info("FAULTY_CATALOG", "portcullis", HashMap::new());
    let message = format!("{file} is no catalogue: it has {} error(s)", errors.len());
    let status = Status::with_error_details(Code::InvalidArgument, message, details);
    Failure::Status { status: Box::new(status), credential: None }
}

fn changes(changes: &[proto::CatalogChange]) -> String {
    let rows: Vec<_> = changes
        .iter()
        .map(|change| {
            [
                change.scope.clone(),
                change.tokens_gaining.to_string(),
                change.tokens_losing.to_string(),
                change.summary.clone(),
            ]
        })
        .collect();
    table(["SCOPE", "GAINING", "LOSING", "CHANGE"], &rows)
}

async fn show(common: Common, toml: bool) -> Result<(), Failure> {
    let session = Session::open(common).await?;
    let answer = session.catalog().get_catalog(proto::GetCatalogRequest {}).await;
    let answer = session.answer_as_text(answer)?;
    let Some(answer) = answer else { return Ok(()) };
    if toml {
        return print(&file_text(&answer.toml, io::stdout().is_terminal()));
    }
    let rows: Vec<_> = answer
        .scopes
        .iter()
        .map(|scope| {
            [
                scope.name.clone(),
                word(scope.access().as_str_name(), "ACCESS_"),
                if scope.requires_whitelist { "required" } else { "" }.to_owned(),
                scope.routes.len().to_string(),
                scope.description.clone(),
            ]
        })
        .collect();
    print(&table(["SCOPE", "ACCESS", "WHITELIST", "ROUTES", "DESCRIPTION"], &rows))?;
    note(&format!("version {}, applied {}", answer.version, when(answer.apply_time.as_ref())));
    Ok(())
}

/// The file byte for byte, so that applying it again changes nothing; on a terminal, cleaned line
/// by line.
fn file_text(toml: &str, to_terminal: bool) -> String {
    if !to_terminal {
        return toml.to_owned();
    }
    toml.split('\n')
        .map(|line| line.split('\t').map(clean).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The text of a file, of which at most `most` bytes are read.
fn read(file: &str, most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let count = if file == "-" {
        io::stdin().lock().take(most).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|opened| opened.take(most).read_to_string(&mut text))
    };
    count.map_err(|error| Failure::Usage(format!("{file} can't be read: {error}")))?;
    Ok(text)
}

fn from_openapi(file: &str, as_json: bool) -> Result<(), Failure> {
    // One byte more than there may be, so that a larger document is refused and not cut.
    let text = read(file, openapi::MAX_LEN as u64 + 1)?;
    let converted = openapi::convert(&text, file).map_err(|errors| {
        let mut details = ErrorDetails::new();
        for error in &errors {
            details.add_bad_request_violation(format!("{file}#{}", error.pointer), &*error.message);
        }
        details.set_error_info("FAULTY_OPENAPI", "portcullis", HashMap::new());
        let message = format!("{file} makes no catalogue: it has {} error(s)", errors.len());
        let status = Status::with_error_details(Code::InvalidArgument, message, details);
        Failure::Status { status: Box::new(status), credential: None }
    })?;
    if as_json {
        let left_out: Vec<_> = converted
            .left_out
            .iter()
            .map(|one| {
                json!({ "operation": one.operation, "pointer": one.pointer, "reason": one.reason })
            })
            .collect();
        let renamed: Vec<_> = converted
            .renamed
            .iter()
            .map(|(origin, name)| json!({ "origin": origin, "name": name }))
            .collect();
        return print_line(
            &json!({
                "toml": converted.toml,
                "public_operations": converted.public,
                "left_out": left_out,
                "renamed": renamed,
            })
            .to_string(),
        );
    }
    print(&converted.toml)?;
    converted.summary().iter().for_each(|line| note(&clean(line)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cleaned_for_a_terminal_only() {
        let file = "a = 1\t# x\u{1b}[2J\r\n\nb = 2\n";
        assert_eq!(file_text(file, false), file);
        assert_eq!(file_text(file, true), "a = 1\t# x<U+001B>[2J<U+000D>\n\nb = 2\n");
    }

    #[test]
    fn changes_tell_whom_they_touch() {
        let change = proto::CatalogChange {
            scope: "cards.reveal".to_owned(),
            summary: "new".to_owned(),
            tokens_gaining: 3,
            tokens_losing: 0,
        };
        assert_eq!(
            changes(&[change]),
            "SCOPE         GAINING  LOSING  CHANGE\ncards.reveal  3        0       new\n"
        );
    }
}
