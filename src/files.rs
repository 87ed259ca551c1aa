//! Files that settings name, read with a bound: one that grows for ever must not take the memory.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

/// The most that a file may have, in bytes.
const MAX_SIZE: u64 = 4 << 20;

/// The content of the file at `path`, which may be a secret and is wiped when it is dropped.
///
/// # Errors
/// It can't be read, or is larger than 4 MiB.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len().min(MAX_SIZE) as usize;
    // With its full size from the start: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(content)
}

/// The same for a file that is read again and again. Never waits for a writer, as the end of a pipe would.
///
/// # Errors
/// As of [`read`]; [`ErrorKind::InvalidInput`] for a pipe, a socket or a device.
pub fn read_regular(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let kind = |read: io::Result<Zeroizing<Vec<u8>>>| read.unwrap_err().kind();
        assert_eq!(kind(read_regular(&path)), ErrorKind::NotFound);
        assert_eq!(kind(read_regular(home.path())), ErrorKind::IsADirectory);
        for content in ["", "secret\n"] {
            fs::write(&path, content).unwrap();
            assert_eq!(**read_regular(&path).unwrap(), *content.as_bytes());
        }
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(MAX_SIZE).unwrap();
        assert_eq!(read_regular(&path).unwrap().len() as u64, MAX_SIZE);
        file.set_len(MAX_SIZE + 1).unwrap();
        assert_eq!(kind(read_regular(&path)), ErrorKind::FileTooLarge);
        // Without an end.
        assert_eq!(kind(read(Path::new("/dev/zero"))), ErrorKind::FileTooLarge);
        assert_eq!(kind(read_regular(Path::new("/dev/zero"))), ErrorKind::InvalidInput);
    }
}
