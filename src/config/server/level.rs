//! How much is logged: a setting, or a file that may change while the server runs.

use std::path::{Path, PathBuf};

use super::errors::{ConfigErrors, InvalidSettings};

const LEVELS: &str = "error, warn, info, debug or trace";

/// The file with the level, to be read again while the server runs.
#[derive(Debug, Clone)]
pub struct LevelFile(PathBuf);

impl LevelFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the level.
    ///
    /// # Errors
    /// It can't be read, or is no level.
    pub fn read(&self) -> Result<tracing::Level, InvalidSettings> {
        let mut errors = ConfigErrors::default();
        let level = self.level(&mut errors);
        errors.into_result(|| level)
    }

    pub(super) fn level(&self, errors: &mut ConfigErrors) -> Option<tracing::Level> {
        let text = errors.file("log-level-file", &self.0)?;
        let level = String::from_utf8_lossy(&text).trim().parse().ok();
        if level.is_none() {
            // What it has instead is not quoted: it may be a secret, where another file is named by mistake.
            let path = self.0.display();
            errors.add(format!("--log-level-file: {path} does not contain {LEVELS} alone"));
        }
        level
    }
}

/// The level that `text`, the value of `flag`, names.
pub(super) fn level(flag: &str, text: &str, errors: &mut ConfigErrors) -> Option<tracing::Level> {
    errors.parse(flag, text, LEVELS)
}
