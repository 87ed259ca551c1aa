//! Stands between the server and its database and counts round trips: how often the server's bytes
//! set out after the database's last word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A proxy; ends with the runtime that it was started on.
pub struct Proxy {
    pub address: SocketAddr,
    trips: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let trips = Arc::new(AtomicU64::new(0));
        let counter = trips.clone();
        tokio::spawn(async move {
            while let Ok((server, _)) = listener.accept().await {
                let database = TcpStream::connect(("127.0.0.1", port)).await.expect("Postgres");
                let _ = (server.set_nodelay(true), database.set_nodelay(true));
                let (mut from_server, mut to_server) = server.into_split();
                let (mut from_database, mut to_database) = database.into_split();
                let answered = Arc::new(AtomicBool::new(true));
                let (trips, asked) = (counter.clone(), answered.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                        if asked.swap(false, Ordering::SeqCst) {
                            trips.fetch_add(1, Ordering::SeqCst);
                        }
                        if to_database.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from_database.read(&mut buffer).await {
                        answered.store(true, Ordering::SeqCst);
                        if to_server.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, trips }
    }

    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }
}
