//! The files of a decision log, in the order in which they were written, also while they are rotated.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek as _, SeekFrom};
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::decision_log::rotation::rotated_files;

/// How often in a row a file must be found to be renamed before the next one is read: the server notices the renaming
/// within a second.
const RENAMED: u32 = 10;
/// The longest line that is read; a longer one is no line of a decision log.
const MAX_LINE: usize = 1 << 20;

/// Lines of a file that may grow.
pub(super) struct LineReader<R> {
    reader: R,
    line: Vec<u8>,
    /// Whether `line` was returned.
    is_whole: bool,
    number: u64,
}

impl<R: BufRead> LineReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), is_whole: false, number: 0 }
    }

    /// The next line without its end; `None` where none is whole yet. One that is too long is cut off, so that it can't
    /// be read.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if mem::take(&mut self.is_whole) {
            self.line.clear();
        }
        loop {
            let bytes = match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let taken = &bytes[..end.unwrap_or(bytes.len())];
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&taken[..taken.len().min(room)]);
            let count = taken.len() + usize::from(end.is_some());
            self.reader.consume(count);
            if end.is_some() {
                self.is_whole = true;
                self.number += 1;
                return Ok(Some(&self.line));
            }
        }
    }

    /// Lines that were returned.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What follows the last line end.
    pub(super) fn rest(&self) -> &[u8] {
        if self.is_whole { b"" } else { &self.line }
    }
}

/// A file that is read.
pub(super) type Lines = LineReader<BufReader<File>>;

/// See the module.
pub(super) struct LogFiles {
    path: PathBuf,
    /// What is read, by its name when it was opened.
    name: PathBuf,
    lines: Lines,
    /// How often in a row the file was found to be renamed by another program.
    renamed: u32,
}

impl LogFiles {
    /// The log at `path`, from its beginning.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let rotated = rotated_files(path).unwrap_or_default();
        let first = rotated.into_iter().next().map_or_else(|| path.to_owned(), |file| file.path);
        let lines = open(&first)?;
        Ok(Self { path: path.to_owned(), name: first, lines, renamed: 0 })
    }

    pub(super) fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    /// The name of what is read.
    pub(super) fn name(&self) -> String {
        self.name.display().to_string()
    }

    /// Goes on to the next file, where there is one. What was read until now may have more lines, the last ones.
    pub(super) fn advance(&mut self) -> io::Result<Option<Lines>> {
        let own = self.lines.reader.get_ref().metadata()?;
        let is_own = |path: &Path| {
            let there = fs::metadata(path);
            there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
        };
        if is_own(&self.path) {
            self.renamed = 0;
            // A program copied the file and truncated it: what is there now is new.
            if self.lines.reader.stream_position()? > own.len() {
                self.lines.reader.seek(SeekFrom::Start(0))?;
            }
            return Ok(None);
        }
        let rotated = rotated_files(&self.path)?;
        let next = match rotated.iter().position(|file| is_own(&file.path)) {
            Some(place) => rotated.get(place + 1),
            // The server removed it to make room while it was read. Names sort by time.
            None if self.name != self.path => rotated.iter().find(|file| file.path > self.name),
            // Another program renamed it. The server goes on writing to it until it notices.
            None if self.renamed < RENAMED => {
                self.renamed += 1;
                return Ok(None);
            }
            None => None,
        };
        let next = next.map_or(&self.path, |file| &file.path);
        let lines = match open(next) {
            Ok(lines) => lines,
            // Between the two steps of a rotation.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        self.renamed = 0;
        self.name.clone_from(next);
        Ok(Some(mem::replace(&mut self.lines, lines)))
    }
}

fn open(path: &Path) -> io::Result<Lines> {
    Ok(LineReader::new(BufReader::with_capacity(64 << 10, File::open(path)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;

    fn all(lines: &mut LineReader<impl BufRead>) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn a_line_is_given_once_it_is_whole_and_a_long_one_is_cut() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut lines = open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(all(&mut lines), ["one"]);
        assert_eq!(lines.rest(), b"tw");
        file.write_all(b"o\n\nthree").unwrap();
        assert_eq!(all(&mut lines), ["two", ""]);
        assert_eq!((lines.rest(), lines.number()), (&b"three"[..], 3));
        file.write_all(&vec![b'x'; 2 * MAX_LINE]).unwrap();
        file.write_all(b"\nfour\n").unwrap();
        let found = all(&mut lines);
        assert_eq!((found.len(), found[0].len(), found[1].as_str()), (2, MAX_LINE, "four"));
    }

    #[test]
    fn a_file_that_is_removed_while_it_is_read_hides_none_of_the_others() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("log");
        let stamped =
            |second: u32| home.path().join(format!("log.20270103T1405{second:02}.000000Z"));
        fs::write(stamped(1), "1\n").unwrap();
        fs::write(stamped(2), "2\n").unwrap();
        fs::write(&path, "3\n").unwrap();
        let mut files = LogFiles::open(&path).unwrap();
        fs::remove_file(stamped(1)).unwrap();
        let mut found = all(files.lines());
        while files.advance().unwrap().is_some() {
            found.extend(all(files.lines()));
        }
        assert_eq!(found, ["1", "2", "3"]);
    }

    #[test]
    fn files_are_read_from_the_oldest_to_the_newest_also_where_they_are_rotated_meanwhile() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("log");
        let stamped =
            |second: u32| home.path().join(format!("log.20270103T1405{second:02}.000000Z"));
        fs::write(stamped(1), "1\n").unwrap();
        fs::write(stamped(2), "2\n").unwrap();
        fs::write(&path, "3\n").unwrap();
        let mut files = LogFiles::open(&path).unwrap();
        let mut found = all(files.lines());
        let mut go_on = |files: &mut LogFiles| {
            let mut former = files.advance().unwrap();
            former.iter_mut().for_each(|former| found.extend(all(former)));
            found.extend(all(files.lines()));
            former.is_some()
        };
        assert!(go_on(&mut files) && go_on(&mut files) && !go_on(&mut files));
        // Two rotations between two looks, and a last line before the first of them.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"4\n").unwrap();
        fs::rename(&path, stamped(3)).unwrap();
        fs::write(stamped(4), "5\n").unwrap();
        assert!(go_on(&mut files));
        assert!(!go_on(&mut files), "the new file is not there yet");
        fs::write(&path, "6\n").unwrap();
        assert!(go_on(&mut files) && !go_on(&mut files));
        // Another program renames it, and the server goes on for a while.
        let mut file = File::options().append(true).open(&path).unwrap();
        fs::rename(&path, home.path().join("log.old")).unwrap();
        fs::write(&path, "8\n").unwrap();
        assert!(!go_on(&mut files));
        file.write_all(b"7\n").unwrap();
        assert!((0..=RENAMED).any(|_| go_on(&mut files)));
        // And another one copies and truncates it.
        fs::write(&path, "").unwrap();
        assert!(!go_on(&mut files));
        fs::write(&path, "9\n").unwrap();
        assert!(!go_on(&mut files));
        assert_eq!(found, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }
}
