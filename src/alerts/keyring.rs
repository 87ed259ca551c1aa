//! The keys that are known. They are read again where a request names an unknown key, and at most once in
//! [`INTERVAL`], however many such requests there are and whether or not the reading succeeds.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::keys::{PublicKey, PublisherKeys};
use super::source::KeySource;
use crate::clock::Stopwatch;
use crate::telemetry::Metrics;

/// The shortest time between two readings of the keys. Rule 11.57 of docs/policy.md.
pub(super) const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// See the module.
#[derive(Debug)]
pub(super) struct Keyring {
    source: KeySource,
    interval: Duration,
    keys: ArcSwap<PublisherKeys>,
    last: Mutex<Option<Reading>>,
    metrics: Arc<Metrics>,
}

/// A reading of the keys that has ended.
#[derive(Debug, Clone, Copy)]
struct Reading {
    began: Stopwatch,
    failed: bool,
}

/// A key by its identifier.
#[derive(Debug)]
pub(super) enum Found {
    /// The publisher has it.
    Key(PublicKey),
    /// It has no such key, as far as is known.
    Unknown,
    /// The newest reading failed, so that nothing is known of it.
    NotReadable,
}

impl Keyring {
    /// The keys of `source`, of which these are known.
    pub(super) fn new(
        source: KeySource,
        known: PublisherKeys,
        interval: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (keys, last) = (ArcSwap::from_pointee(known), Mutex::default());
        Self { source, interval, keys, last, metrics }
    }

    /// The key with this identifier. Where requests wait for keys that are not known, one of them reads for all.
    pub(super) async fn find(&self, id: &str) -> Found {
        if let Some(key) = self.keys.load().get(id) {
            return Found::Key(key);
        }
        let mut last = self.last.lock().await;
        let is_due = last.is_none_or(|last| last.began.elapsed() >= self.interval);
        if is_due {
            let began = Stopwatch::start();
            // The caller may go away meanwhile: the reading counts all the same.
            *last = Some(Reading { began, failed: true });
            let failed = !self.read().await;
            *last = Some(Reading { began, failed });
        }
        match (self.keys.load().get(id), *last) {
            (Some(key), _) => Found::Key(key),
            (None, Some(Reading { failed: true, .. })) => Found::NotReadable,
            (None, _) => Found::Unknown,
        }
    }

    /// Reads the keys. What can't be read leaves those that were known.
    async fn read(&self) -> bool {
        match self.source.read().await {
            Ok(keys) => {
                self.metrics.leak_keys_fetched("read");
                tracing::info!(keys = keys.count(), from = %self.source, "the keys of leak alerts were read");
                self.keys.store(Arc::new(keys));
                true
            }
            Err(error) => {
                self.metrics.leak_keys_fetched("failed");
                tracing::warn!(
                    %error, from = %self.source,
                    "the keys of leak alerts can't be read; alerts signed with another key are refused"
                );
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYAGMWO8XgCamYKMJS6jc/qgvSlAd\n\
        AjPuDPRcXU22YxgBrz+zoN19MzuRyW87qEt9/AmtoNP5GrobzUvQSyJFVw==\n\
        -----END PUBLIC KEY-----\n";

    fn write(path: &std::path::Path, ids: &[&str]) {
        let keys: Vec<_> =
            ids.iter().map(|id| json!({ "key_identifier": id, "key": KEY })).collect();
        std::fs::write(path, json!({ "public_keys": keys }).to_string()).unwrap();
    }

    /// Rule 11.57.
    #[tokio::test]
    async fn keys_are_read_again_for_an_unknown_one_once_in_an_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let ring = |interval| {
            let source = KeySource::File(path.clone());
            Keyring::new(source, PublisherKeys::default(), interval, Arc::new(Metrics::new()))
        };
        let long = ring(INTERVAL);
        // A failure counts too.
        assert!(matches!(long.find("a").await, Found::NotReadable));
        write(&path, &["a"]);
        assert!(matches!(long.find("a").await, Found::NotReadable));

        let long = ring(INTERVAL);
        assert!(matches!(long.find("a").await, Found::Key(_)));
        write(&path, &["a", "b"]);
        assert!(matches!(long.find("b").await, Found::Unknown));
        assert!(matches!(long.find("a").await, Found::Key(_)));

        let short = ring(Duration::ZERO);
        assert!(matches!(short.find("b").await, Found::Key(_)));
        write(&path, &["c"]);
        assert!(matches!(short.find("b").await, Found::Key(_)), "known, so nothing is read");
        assert!(matches!(short.find("c").await, Found::Key(_)));
        assert!(matches!(short.find("b").await, Found::Unknown), "the publisher no longer has it");
        // What can't be read leaves what is known.
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(short.find("d").await, Found::NotReadable));
        assert!(matches!(short.find("c").await, Found::Key(_)));
    }
}
