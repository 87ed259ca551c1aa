//! `portcullis version`.

use clap::Args;

use super::failure::Failure;
use super::output::print_line;
use crate::config::client::{Format, OutputArgs};

/// What `version` takes.
#[derive(Debug, Args)]
pub struct VersionArgs {
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output.format {
        Format::Text => print_line(&format!("portcullis {version}")),
        Format::Json => print_line(&format!("{:#}", serde_json::json!({ "version": version }))),
    }
}
