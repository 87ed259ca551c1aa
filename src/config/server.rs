//! PLACEHOLDER for the server's settings: the shapes that the command line hands over.

use std::path::PathBuf;

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {}

/// What `migrate` takes.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {}

/// What the first credential of a store needs. The database's URL comes from the environment.
#[derive(Debug)]
pub struct FirstCredentialArgs {
    /// Where the embedded store lives.
    pub data_dir: PathBuf,
    /// The credential's label; may be empty.
    pub name: String,
}
