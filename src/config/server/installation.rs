//! What `portcullis doctor` takes: the settings of the installation that it checks.

use std::path::PathBuf;

use super::errors::InvalidSettings;
use super::{ConfigFile, ServeArgs, ServeSettings};

/// The settings of a server, as written, and what of them is to be tried.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallationArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Send a test message to this address through the mail relay; without it the relay is only connected to
    #[arg(long, value_name = "ADDRESS", help_heading = "Mail")]
    mail_to: Option<String>,
}

impl InstallationArgs {
    /// Whom a test message goes to.
    pub fn mail_to(&self) -> Option<&str> {
        self.mail_to.as_deref()
    }

    /// The files that secrets are read from, each behind the name of the variable that names it or could.
    pub fn secret_files(&self) -> Vec<(&'static str, PathBuf)> {
        self.serve.secret_files()
    }

    /// Takes the settings without a flag from `file`.
    pub fn take_file(&mut self, file: &ConfigFile) {
        self.serve.take_file(file);
    }

    /// Checks the settings, as a start does.
    ///
    /// # Errors
    /// All errors at once.
    pub fn resolve(self) -> Result<ServeSettings, InvalidSettings> {
        self.serve.resolve()
    }
}
