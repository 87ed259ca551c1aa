//! Unix sockets to listen on, and the files that they are.
//!
//! # Invariants
//! - At no time has the file more permissions than it was asked for.
//! - A file is replaced only where it is a socket that nobody listens on. A lock on a file beside it keeps two
//!   servers that start at once from replacing each other's sockets.
//! - Both files are removed when the listener is dropped, unless something else stands there by then.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod};
use tokio::net::{UnixListener, UnixStream};

use super::{Accept, Peer};

/// Connections that wait to be accepted: as many as of a TCP listener.
const BACKLOG: u32 = 1_024;

/// A listening Unix socket.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the files of a socket when it is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    _lock: FileLock,
}

#[derive(Debug)]
struct FileLock {
    path: PathBuf,
    _file: File,
}

impl UnixSocket {
    /// Listens at `path`, which users may connect to as `mode` says (permission bits, such as 0o600).
    ///
    /// # Errors
    /// Somebody listens there, something that is no socket stands there, or the system's own error. Each names `flag`
    /// and the path.
    pub async fn bind(flag: &str, path: &Path, mode: u32) -> io::Result<Self> {
        Self::try_bind(path, mode).await.map_err(|error| {
            let text = format!("--{flag}: cannot listen on unix:{}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })
    }

    async fn try_bind(path: &Path, mode: u32) -> io::Result<Self> {
        let lock = FileLock::take(path)?.ok_or_else(in_use)?;
        remove_stale(path).await?;
        let socket = tokio::net::UnixSocket::new_stream()?;
        // Linux gives the file the permissions of the socket, less the umask. So there is no time in which others may
        // connect.
        fchmod(&socket, Mode::from_raw_mode(mode))?;
        socket.bind(path)?;
        let identity = identity(&fs::symlink_metadata(path)?);
        let file = SocketFile { path: path.to_owned(), identity, _lock: lock };
        // What the umask took.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self { listener: socket.listen(BACKLOG)?, file })
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;
    type Peer = Peer;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = Peer::User(stream.peer_cred()?.uid());
        Ok((stream, peer))
    }
}

fn in_use() -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, "another server listens there")
}

/// Removes a socket that nobody listens on.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        let text = "what stands there is not a socket: name another path, or remove it";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // The other server's queue is full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(in_use()),
        Ok(_) => Err(in_use()),
        Err(error) => Err(error),
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl FileLock {
    /// The lock of the socket at `path`; `None` where another process has it.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The process that had it may have removed the file meanwhile: then the lock excludes nobody.
            let there = fs::symlink_metadata(&path).map(|there| identity(&there));
            if there.is_ok_and(|there| file.metadata().is_ok_and(|own| identity(&own) == there)) {
                return Ok(Some(Self { path, _file: file }));
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| identity(&there) == self.identity) {
            // What can't be removed is stale, and the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Before the lock is given back, so that only its holder removes it.
        let _ = fs::remove_file(&self.path);
    }
}
