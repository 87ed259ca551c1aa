//! A wire between a server and its database that can be cut, held up, and made to lose things.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How the wire is. All of it at once, where that makes sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wire {
    /// Connections are closed, and new ones too.
    pub(crate) cut: bool,
    /// Nothing comes through, and nobody is told.
    pub(crate) held: bool,
    /// How much later everything comes, either way.
    pub(crate) slow: Duration,
    /// Notifications get lost.
    pub(crate) mute: bool,
    /// How much later acknowledgements come. They have a connection of their own.
    pub(crate) acknowledged_late: Duration,
    /// Acknowledgements are carried out, and their answers do not come until this is over.
    pub(crate) unanswered: bool,
    /// Settings of a session get lost, as in a pooler that is told to ignore them.
    pub(crate) unset: bool,
    /// Connections that are begun now reach where they lead, and nothing comes through them until
    /// [`Proxy::release`], wherever others lead by then.
    pub(crate) withheld: bool,
}

struct Shared {
    to: Mutex<SocketAddr>,
    wire: Mutex<Wire>,
    open: Mutex<Vec<TcpStream>>,
    /// How many connections are withheld.
    withheld: Mutex<usize>,
    released: Condvar,
}

/// See the module.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Before the Postgres on this loopback port.
    pub(crate) fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: Mutex::new(SocketAddr::from(([127, 0, 0, 1], port))),
            wire: Mutex::default(),
            open: Mutex::default(),
            withheld: Mutex::default(),
            released: Condvar::new(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || shared.connect(stream));
            }
        });
        Self { address, shared }
    }

    /// The way to the database of this name through here.
    pub(crate) fn url(&self, direct: &str) -> String {
        let (_, database) = direct.rsplit_once('/').unwrap();
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.address)
    }

    pub(crate) fn set(&self, wire: Wire) {
        *lock(&self.shared.wire) = wire;
        if wire.cut {
            self.close();
        }
    }

    /// Leads to the Postgres on another loopback port from now on; connections to the former are closed.
    pub(crate) fn point(&self, port: u16) {
        self.lead(port);
        self.close();
    }

    /// New connections lead to the Postgres on another loopback port from now on; the others stay.
    pub(crate) fn lead(&self, port: u16) {
        lock(&self.shared.to).set_port(port);
    }

    /// How many connections were begun and are withheld.
    pub(crate) fn withheld(&self) -> usize {
        *lock(&self.shared.withheld)
    }

    /// Lets those go on.
    pub(crate) fn release(&self) {
        *lock(&self.shared.withheld) = 0;
        self.shared.released.notify_all();
    }

    fn close(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn wire(&self) -> Wire {
        *lock(&self.wire)
    }

    fn connect(self: Arc<Self>, client: TcpStream) {
        // Whoever is held up at the door is told nothing either.
        while self.wire().held {
            thread::sleep(Duration::from_millis(10));
        }
        if self.wire().cut {
            return;
        }
        let to = *lock(&self.to);
        let Ok(server) = TcpStream::connect(to) else { return };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            lock(&self.open).extend(stream.try_clone());
        }
        // It was pointed elsewhere meanwhile, and may have closed all that it knew of.
        if *lock(&self.to) != to {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
            return;
        }
        if self.wire().withheld {
            let mut withheld = lock(&self.withheld);
            *withheld += 1;
            let released = self.released.wait_while(withheld, |withheld| *withheld > 0);
            drop(released.unwrap_or_else(PoisonError::into_inner));
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let shared = self.clone();
        let acknowledges = Arc::new(AtomicBool::new(false));
        let mine = acknowledges.clone();
        thread::spawn(move || shared.forth(from, to, &mine));
        self.back(server, client, &acknowledges);
    }

    fn pass(&self, to: &mut TcpStream, bytes: &[u8], late: Duration) -> std::io::Result<()> {
        let wire = self.wire();
        thread::sleep(wire.slow + late);
        while self.wire().held {
            thread::sleep(Duration::from_millis(10));
        }
        if self.wire().cut {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        to.write_all(bytes)
    }

    /// From the server to its database.
    fn forth(&self, mut from: TcpStream, mut to: TcpStream, mine: &AtomicBool) {
        let mut buffer = [0; 16 << 10];
        let mut acknowledges = None;
        while let Ok(read) = from.read(&mut buffer)
            && read > 0
        {
            let mut bytes = &buffer[..read];
            let without;
            if acknowledges.is_none() && self.wire().unset {
                without = without_options(bytes);
                bytes = &without;
            }
            // What a connection is for stands in its first message.
            let acknowledges = *acknowledges.get_or_insert_with(|| {
                bytes.windows(22).any(|part| part == b"synchronous_commit=off")
            });
            mine.store(acknowledges, Ordering::Relaxed);
            let late = if acknowledges { self.wire().acknowledged_late } else { Duration::ZERO };
            if self.pass(&mut to, bytes, late).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// From the database to its server: messages of a type, a length and so many bytes.
    fn back(&self, mut from: TcpStream, mut to: TcpStream, acknowledges: &AtomicBool) {
        let mut buffer = [0; 16 << 10];
        let mut pending = Vec::new();
        while let Ok(read) = from.read(&mut buffer)
            && read > 0
        {
            pending.extend_from_slice(&buffer[..read]);
            let mut out = Vec::new();
            while let Some(&[kind, a, b, c, d]) = pending.first_chunk() {
                let whole = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
                if pending.len() < whole {
                    break;
                }
                let message: Vec<u8> = pending.drain(..whole).collect();
                if !(kind == b'A' && self.wire().mute) {
                    out.extend(message);
                }
            }
            while acknowledges.load(Ordering::Relaxed) && self.wire().unanswered {
                thread::sleep(Duration::from_millis(10));
            }
            if self.pass(&mut to, &out, Duration::ZERO).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// A first message, without the settings that it asks for: a length, a version, and pairs of texts that
/// end with a zero, up to one that is empty.
fn without_options(message: &[u8]) -> Vec<u8> {
    let texts: Vec<_> = message[8..].split_inclusive(|&byte| byte == 0).collect();
    let kept = texts.chunks(2).filter(|pair| pair[0] != b"options\0").flatten();
    let rest: Vec<u8> = kept.copied().flatten().copied().collect();
    let length = u32::try_from(8 + rest.len()).unwrap().to_be_bytes();
    [&length, &message[4..8], &rest].concat()
}
