//! The lock that keeps a data directory to one process (docs/policy.md, rule 6.1).
//!
//! What must stay true: the lock is the operating system's, on an open file. It ends with the process,
//! however that ends, and means nothing by the file's being there or by what stands in it: that is
//! only for a second process to say who is first.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::policy::text::is_hidden;
use crate::policy::time::Timestamp;
use crate::store::OpenError;

/// The file in the data directory.
const FILE: &str = "lock";

/// Held as long as this lives.
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(data_dir: &Path, holder: &str) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE);
        let unusable = OpenError::data_dir(&path);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(&unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    dir: data_dir.to_owned(),
                    holder: holder_in(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let text = format!("{holder}, process {}", std::process::id());
        rewrite(&mut file, &text).map_err(&unusable)?;
        Ok(Self(file))
    }

    /// Adds since when. Known only once the store is open, for its clock is the only one.
    pub(super) fn note_start(&mut self, now: Timestamp) {
        if let Err(error) = write!(self.0, ", since {now}") {
            tracing::warn!(%error, "the start time can't be written to the lock file");
        }
    }
}

fn rewrite(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

/// A few hundred printable characters at most: anyone who may write the directory may have written
/// it.
fn holder_in(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.take(300).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text: String = text.chars().filter(|&c| !is_hidden(c)).collect();
    match read {
        Ok(_) if !text.is_empty() => text,
        _ => "another process".to_owned(),
    }
}
