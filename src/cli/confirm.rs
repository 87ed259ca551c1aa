//! The confirmation of changes that nothing reverses: asked for on a terminal, and given as `--yes` elsewhere.
//!
//! Must stay true: each command that ends a token or a credential takes [`Confirmation`]. Others have a confirmation
//! that says more: `account close --confirm-name`, `catalog apply --confirm-narrowing`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use super::failure::Failure;
use super::output::note;

/// The flag of commands whose change nothing reverses.
#[derive(Debug, Args)]
pub(super) struct Confirmation {
    /// Do not ask: required where there is no terminal to ask on
    #[arg(long, short)]
    yes: bool,
}

impl Confirmation {
    /// Asks `question` after showing what it is about. With `--yes` it neither reads nor shows anything.
    ///
    /// # Errors
    /// There is no terminal, the answer is not yes, or `about` failed: the caller must change nothing.
    pub(super) async fn ask(
        &self,
        question: &str,
        about: impl AsyncFnOnce() -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::Usage(
                "nothing was changed: this can't be undone, and there is no terminal to ask on: add --yes to confirm it"
                    .to_owned(),
            ));
        }
        let about = about().await?;
        if !about.is_empty() {
            note(about.trim_end());
        }
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.map_err(|error| Failure::Usage(format!("no answer can be read: {error}")))?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Failure::Usage("nothing was changed".to_owned()))
        }
    }
}

/// For a question that says everything by itself.
pub(super) async fn nothing_more() -> Result<String, Failure> {
    Ok(String::new())
}
