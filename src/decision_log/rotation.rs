//! The files that a log was rotated to, by their names: for the writer, and for the command that reads a log.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::policy::time::Timestamp;

/// What follows the log's name and a dot in the name of a rotated file, such as `20261129T150405.123456Z`.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:6]Z");
/// The same, with a 0 for each digit.
const FORM: &[u8] = b"00000000T000000.000000Z";

/// A file that the log was rotated to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RotatedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
}

impl RotatedFile {
    /// When it was rotated, by its name.
    pub(super) fn time(&self) -> Option<Timestamp> {
        let name = self.path.to_str()?;
        let stamp = name.get(name.len().checked_sub(FORM.len())?..)?;
        let time = PrimitiveDateTime::parse(stamp, STAMP).ok()?.assume_utc();
        i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(Timestamp)
    }
}

/// What the log at `path` was rotated to: regular files, the oldest first.
///
/// # Errors
/// The directory can't be read.
pub fn rotated_files(path: &Path) -> io::Result<Vec<RotatedFile>> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !is_rotated_name(path, entry.file_name().as_bytes()) {
            continue;
        }
        match entry.metadata() {
            // Not of what a link points to: nothing is removed that others put there.
            Ok(metadata) if metadata.is_file() => {
                found.push(RotatedFile { path: entry.path(), size: metadata.len() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file of this name was rotated from the one at `path`.
fn is_rotated_name(path: &Path, name: &[u8]) -> bool {
    let own = path.file_name().unwrap_or_default().as_bytes();
    let stamp = name.strip_prefix(own).and_then(|rest| rest.strip_prefix(b"."));
    stamp.is_some_and(|stamp| {
        stamp.len() == FORM.len()
            && stamp.iter().zip(FORM).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte == form,
            })
    })
}

/// The name of the file that the log at `path` is rotated to at `time`. Names sort by time.
pub(super) fn rotated_name(path: &Path, time: Timestamp) -> PathBuf {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000);
    // The years from 0 to 9999, which the store's clock is within.
    let stamp = time.ok().and_then(|time| time.format(STAMP).ok()).unwrap_or_default();
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(stamp);
    name.into()
}
