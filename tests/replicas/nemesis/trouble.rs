//! Those who pause, kill, cut off, slow down and lose.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{SERVERS, World, lock};
use crate::lease::random::Random;
use crate::replicas::proxy::Wire;
use crate::support::client::Client;

impl World {
    /// Pauses and kills.
    pub(super) async fn trouble_processes(self: Arc<Self>, mut random: Random) {
        while self.goes_on() {
            tokio::time::sleep(Duration::from_millis(random.within(300..1_500))).await;
            let at = random.below(SERVERS as u64) as usize;
            let pause = Duration::from_millis(random.within(50..3_000));
            if random.in_1000(750) {
                self.down[at].store(true, Ordering::Relaxed);
                lock(&self.servers[at]).signal("STOP");
                tokio::time::sleep(pause).await;
                lock(&self.servers[at]).signal("CONT");
            } else {
                self.down[at].store(true, Ordering::Relaxed);
                lock(&self.servers[at]).kill9();
                tokio::time::sleep(pause).await;
                let _whole = self.wires[at].lock().await;
                let (this, started) = (self.clone(), tokio::runtime::Handle::current());
                tokio::task::spawn_blocking(move || {
                    let mut server = lock(&this.servers[at]);
                    server.restart();
                    let client = started.block_on(Client::operator(&server));
                    *this.clients[at].write().unwrap() = client;
                })
                .await
                .unwrap();
            }
            self.down[at].store(false, Ordering::Relaxed);
        }
    }

    /// Crashes the database, now and then.
    pub(super) async fn trouble_store(self: Arc<Self>, mut random: Random) {
        loop {
            for _ in 0..random.within(100..300) {
                if !self.goes_on() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let mut whole = Vec::new();
            for wire in &self.wires {
                whole.push(wire.lock().await);
            }
            let away = Duration::from_millis(random.below(3_000));
            tokio::task::block_in_place(|| self.cluster.kill());
            tokio::time::sleep(away).await;
            tokio::task::block_in_place(|| self.cluster.start());
        }
    }

    /// Cuts off, slows down and loses.
    pub(super) async fn trouble_wires(self: Arc<Self>, mut random: Random) {
        while self.goes_on() {
            tokio::time::sleep(Duration::from_millis(random.within(300..1_500))).await;
            let at = random.below(SERVERS as u64) as usize;
            let some = |random: &mut Random, most| Duration::from_millis(random.below(most));
            let wire = match random.below(6) {
                0 => Wire { cut: true, ..Wire::default() },
                1 => Wire { held: true, ..Wire::default() },
                2 => Wire { slow: some(&mut random, 30), ..Wire::default() },
                3 => Wire { acknowledged_late: some(&mut random, 400), ..Wire::default() },
                _ => Wire { mute: true, slow: some(&mut random, 5), ..Wire::default() },
            };
            let apart = wire.cut || wire.held;
            let _troubled = self.wires[at].lock().await;
            if apart {
                self.down[at].store(true, Ordering::Relaxed);
            }
            self.proxies[at].set(wire);
            tokio::time::sleep(Duration::from_millis(random.within(50..3_000))).await;
            self.proxies[at].set(Wire::default());
            if apart {
                self.down[at].store(false, Ordering::Relaxed);
            }
        }
    }
}
