//! Which decision log is read.

use std::path::PathBuf;

/// The file of a decision log, as written on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct DecisionFileArgs {
    /// File that a server logs decisions to, or - for standard input
    #[arg(env = "PORTCULLIS_DECISION_LOG", hide_env_values = true, value_name = "FILE")]
    pub file: PathBuf,
}
