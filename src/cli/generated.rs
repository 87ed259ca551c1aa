//! `portcullis completions` and `portcullis man`: what is generated from the command line's own description.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::Cli;

/// What `completions` takes.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for the pages, which is made where it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completion script of a shell.
///
/// # Errors
/// When standard output takes nothing.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "portcullis", &mut script);
    io::stdout().write_all(&script).context("cannot write the script")
}

/// Writes a manual page for the program and one for each of its commands, such as `portcullis-token-create.1`.
///
/// # Errors
/// When the directory can't be made or written.
pub fn manual_pages(args: &ManArgs) -> anyhow::Result<()> {
    let directory = &args.directory;
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("cannot write to {}", directory.display()))
}
