//! Where lines go: a file that is rotated, or standard output.
//!
//! The file keeps its name; a full one is renamed to that name with the time behind it
//! (`decisions.jsonl.20261129T150405.123456Z`), and the oldest of those are removed.
//!
//! # Invariants
//! - Room is made before anything is written: together, the files never exceed the size that the settings name.
//! - A symbolic link is never followed, and nothing but a regular file is written to.
//! - A line begins where a line has ended, also after a process that was killed within one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod};

use super::rotation::{RotatedFile, rotated_files, rotated_name};
use super::{Settings, Target};
use crate::policy::time::Timestamp;

/// The permissions of a file that is created: its group may read it.
const MODE: u32 = 0o640;
/// A file is rotated when it has the whole size divided by this.
const PART: u64 = 16;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    /// Standard output, apart from the library's buffer for it.
    Stdout(File),
    /// A file that is rotated.
    File(LogFile),
}

impl Output {
    pub(super) fn open(settings: &Settings) -> io::Result<Self> {
        Ok(match &settings.target {
            Target::Stdout => Self::Stdout(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::File(path) => Self::File(LogFile::open(path, settings.max_size)?),
        })
    }

    /// Makes sure that there is room for `bytes` more at `now`, at the beginning of a line. Rule 13.6 of docs/policy.md.
    ///
    /// # Errors
    /// The system's. What is there stays.
    pub(super) fn prepare(&mut self, bytes: u64, now: Timestamp) -> io::Result<()> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.prepare(bytes, now),
        }
    }

    /// Writes some of `bytes`; how many. Never none.
    ///
    /// # Errors
    /// The system's, which has taken none of them then.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(file) => write_some(file, bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    /// Whether the file has to be reopened, since it was renamed, replaced or removed.
    pub(super) fn is_replaced(&self) -> bool {
        match self {
            Self::Stdout(_) => false,
            Self::File(file) => file.is_replaced(),
        }
    }

    /// Reopens the file by its name.
    ///
    /// # Errors
    /// The system's. Nothing can be written until it succeeds.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.reopen(),
        }
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Stdout(_) => 0,
            Self::File(file) => file.size(),
        }
    }
}

fn write_some(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The file that is written, and those that it was before.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    /// `None` where it could not be reopened.
    current: Option<Current>,
    /// The oldest first.
    rotated: Vec<RotatedFile>,
}

/// A file that is open.
#[derive(Debug)]
struct Current {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    size: u64,
    /// The day of UTC that its lines are of; `None` while it is empty.
    day: Option<i64>,
}

impl LogFile {
    fn open(path: &Path, max_size: u64) -> io::Result<Self> {
        let current = Current::open(path)?;
        let rotated = rotated_files(path)?;
        Ok(Self { path: path.to_owned(), max_size, current: Some(current), rotated })
    }

    fn prepare(&mut self, bytes: u64, now: Timestamp) -> io::Result<()> {
        if self.current.is_none() {
            self.reopen()?;
        }
        let full = self.current.as_ref().is_some_and(|current| {
            let other_day = current.day.is_some_and(|day| day != now.day());
            current.size > 0 && (other_day || current.size + bytes > self.max_size / PART)
        });
        if full {
            self.rotate(now)?;
        }
        while self.size() + bytes > self.max_size && !self.rotated.is_empty() {
            match fs::remove_file(&self.rotated[0].path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                // Others may remove them too.
                _ => drop(self.rotated.remove(0)),
            }
        }
        if let Some(current) = &mut self.current {
            current.day = Some(now.day());
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(current) = &mut self.current else { return Err(ErrorKind::NotFound.into()) };
        let written = write_some(&current.file, bytes)?;
        current.size += written as u64;
        Ok(written)
    }

    /// Renames the current file to its final name, and begins another one.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.rotated = rotated_files(&self.path)?;
        if !self.is_replaced() {
            // Names sort by time, also where the clock was set back.
            let newest = self.rotated.last().and_then(RotatedFile::time);
            let time = newest.map_or(now, |newest| now.max(Timestamp(newest.0 + 1)));
            let name = rotated_name(&self.path, time);
            fs::rename(&self.path, &name)?;
            let size = self.current.as_ref().map_or(0, |current| current.size);
            self.rotated.push(RotatedFile { path: name, size });
        }
        self.current = None;
        self.current = Some(Current::open(&self.path)?);
        Ok(())
    }

    fn is_replaced(&self) -> bool {
        let there = fs::symlink_metadata(&self.path).ok().map(|there| (there.dev(), there.ino()));
        self.current.as_ref().map(|current| current.identity) != there
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.current = None;
        self.rotated = rotated_files(&self.path)?;
        self.current = Some(Current::open(&self.path)?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.rotated.iter().map(|file| file.size).sum::<u64>()
            + self.current.as_ref().map_or(0, |current| current.size)
    }
}

impl Current {
    /// Opens the file at `path`, or creates it.
    fn open(path: &Path) -> io::Result<Self> {
        // NONBLOCK, so that opening a pipe never waits.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(MODE).custom_flags(flags);
        let mut file = match options.clone().create_new(true).open(path) {
            Ok(file) => {
                // Also the permissions that the umask removed.
                fchmod(&file, Mode::from_raw_mode(MODE))?;
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path)?,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let text = "what stands there is not a regular file";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let mut size = metadata.len();
        let mut day = None;
        if size > 0 {
            let modified = Timestamp(metadata.mtime().saturating_mul(1_000_000));
            day = Some(modified.day());
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                size += write_some(&file, b"\n")? as u64;
            }
        }
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()), size, day })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    const MAX: u64 = 16 * 100;

    fn place() -> (TempDir, PathBuf) {
        let home = TempDir::new().unwrap();
        let path = home.path().join("log");
        (home, path)
    }

    /// A number in a line of ten bytes.
    fn put(file: &mut LogFile, number: usize, now: i64) {
        let line = format!("{number:09}\n");
        file.prepare(10, Timestamp(now)).unwrap();
        assert_eq!(file.write(line.as_bytes()).unwrap(), 10);
    }

    fn numbers(file: &LogFile) -> Vec<usize> {
        let rotated = rotated_files(&file.path).unwrap().into_iter().map(|file| file.path);
        let texts =
            rotated.chain([file.path.clone()]).map(|path| fs::read_to_string(path).unwrap());
        texts
            .flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>())
            .collect()
    }

    /// Rule 13.6.
    #[test]
    fn files_are_rotated_by_size_and_the_oldest_removed() {
        let (home, path) = place();
        let mut file = LogFile::open(&path, MAX).unwrap();
        // At one instant: names differ all the same.
        for number in 0..155 {
            put(&mut file, number, 5 * DAY);
        }
        assert_eq!(numbers(&file), (0..155).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 16);
        for number in 155..1_000 {
            // A clock that was set back, too.
            put(&mut file, number, 5 * DAY - number as i64);
            assert!(file.size() <= MAX);
        }
        let found = numbers(&file);
        assert_eq!(found, (1_000 - found.len()..1_000).collect::<Vec<_>>());
        assert!(found.len() > 140, "{}", found.len());
        let on_disk: u64 = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(on_disk, file.size());
    }

    #[test]
    fn each_file_has_lines_of_one_day() {
        let (home, path) = place();
        let mut file = LogFile::open(&path, MAX).unwrap();
        for (number, now) in
            [DAY, 2 * DAY - 1, 2 * DAY, 2 * DAY + 1, 3 * DAY].into_iter().enumerate()
        {
            put(&mut file, number, now);
        }
        assert_eq!(numbers(&file), [0, 1, 2, 3, 4]);
        let names: Vec<_> =
            rotated_files(&path).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(
            names,
            ["log.19700103T000000.000000Z", "log.19700104T000000.000000Z"]
                .map(|name| home.path().join(name))
        );
        // What another process left is of the day on which it was written: of today.
        drop(file);
        let mut file = LogFile::open(&path, MAX).unwrap();
        put(&mut file, 5, 3 * DAY);
        assert_eq!(rotated_files(&path).unwrap().len(), 3);
    }

    /// Rule 13.6.
    #[test]
    fn files_of_others_are_neither_counted_nor_removed() {
        let (home, path) = place();
        for name in
            ["log.1", "log.gz", "log.20261129T150405.123456Z.gz", "blog.20261129T150405.123456Z"]
        {
            fs::write(home.path().join(name), [0; 5_000]).unwrap();
        }
        symlink("log.1", home.path().join("log.20261129T150405.123456Z")).unwrap();
        let mut file = LogFile::open(&path, MAX).unwrap();
        assert_eq!(file.size(), 0);
        for number in 0..500 {
            put(&mut file, number, DAY);
        }
        assert_eq!(fs::metadata(home.path().join("log.1")).unwrap().len(), 5_000);
        assert!(home.path().join("log.20261129T150405.123456Z").is_symlink());
    }

    #[test]
    fn a_file_is_created_with_its_permissions_and_a_link_is_refused() {
        let (home, path) = place();
        let mut file = LogFile::open(&path, MAX).unwrap();
        put(&mut file, 1, DAY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, MODE);
        let link = home.path().join("link");
        symlink(&path, &link).unwrap();
        LogFile::open(&link, MAX).unwrap_err();
        let dangling = home.path().join("dangling");
        symlink(home.path().join("made"), &dangling).unwrap();
        LogFile::open(&dangling, MAX).unwrap_err();
        assert!(!home.path().join("made").exists());
        let directory = home.path().join("directory");
        fs::create_dir(&directory).unwrap();
        LogFile::open(&directory, MAX).unwrap_err();
        LogFile::open(&home.path().join("none/log"), MAX).unwrap_err();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            home.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let error = LogFile::open(&home.path().join("pipe"), MAX).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_line_begins_on_a_new_line_after_one_that_was_cut_off() {
        let (_home, path) = place();
        fs::write(&path, "whole\nha").unwrap();
        let mut file = LogFile::open(&path, 1 << 20).unwrap();
        let now = Timestamp(fs::metadata(&path).unwrap().mtime() * 1_000_000);
        file.prepare(5, now).unwrap();
        file.write(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nha\nnext\n");
        assert_eq!(file.size(), 14);
    }

    #[test]
    fn a_file_that_was_moved_away_is_reopened() {
        let (home, path) = place();
        let mut file = LogFile::open(&path, MAX).unwrap();
        put(&mut file, 1, DAY);
        assert!(!file.is_replaced());
        fs::rename(&path, home.path().join("log.1")).unwrap();
        assert!(file.is_replaced());
        file.reopen().unwrap();
        put(&mut file, 2, DAY);
        assert_eq!(fs::read_to_string(home.path().join("log.1")).unwrap(), "000000001\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "000000002\n");
    }
}
