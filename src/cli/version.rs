//! `portcullis version`.

use clap::Args;

use super::failure::Failure;
use super::output::print_line;
use crate::config::client::Format;

/// What `version` takes.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// How to write the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Format,
}

pub(super) fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        Format::Text => print_line(&format!("portcullis {version}")),
        Format::Json => print_line(&format!("{:#}", serde_json::json!({ "version": version }))),
    }
}
