//! A real Prometheus that scrapes servers every second, with the rules of `deploy/monitoring`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::{RULES, read};
use crate::support::tools;
use crate::support::wait::until;

/// A running one; killed when dropped.
pub(super) struct Prometheus {
    child: Child,
    address: SocketAddr,
    _home: TempDir,
}

/// An alert that fires, and the server that it names; none for alerts about all of them.
pub(super) type FiringAlert = (String, Option<SocketAddr>);

impl Prometheus {
    /// One that watches `plain`, and `tls` over TLS, and has scraped each of them once. Alerts fire at once: the rules
    /// have no `for` here.
    pub(super) fn watching(plain: &[SocketAddr], tls: &[SocketAddr]) -> Self {
        let home = TempDir::with_prefix("portcullis-prometheus-").unwrap();
        let rules = read(RULES);
        let rules = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
        let rules = rules.fold(String::new(), |text, line| text + line + "\n");
        fs::write(home.path().join("rules.yml"), rules).unwrap();
        let job = |name: &str, scheme: &str, targets: &[SocketAddr]| {
            format!(
                "  - job_name: {name}\n    scheme: {scheme}\n    tls_config: {{ insecure_skip_verify: true }}\n    \
                 relabel_configs: [{{ target_label: job, replacement: portcullis }}]\n    \
                 static_configs: [{{ targets: [{}] }}]\n",
                targets.iter().map(|at| format!("'{at}'")).collect::<Vec<_>>().join(", ")
            )
        };
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yml]\nscrape_configs:\n{}{}",
            job("plain", "http", plain),
            job("tls", "https", tls)
        );
        let file = home.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let mut child = Command::new(tools::tool("TEST_PROMETHEUS"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "Prometheus ended at its start");
            if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                break address.trim().parse().unwrap();
            }
        };
        // It would stop at a full pipe.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let prometheus = Self { child, address, _home: home };
        until(
            || prometheus.ask("/api/v1/query?query=sum(up)"),
            |answer| {
                let count = answer["data"]["result"][0]["value"][1].as_str();
                count == Some(&(plain.len() + tls.len()).to_string())
            },
        );
        prometheus
    }

    /// Every alert that fires.
    pub(super) fn firing(&self) -> BTreeSet<FiringAlert> {
        let answer = self.ask("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let labels = firing.map(|alert| &alert["labels"]);
        let instance = |of: &Value| of["instance"].as_str().map(|at| at.parse().unwrap());
        labels.map(|of| (of["alertname"].as_str().unwrap().to_owned(), instance(of))).collect()
    }

    /// Waits until all of `wanted` fire.
    #[track_caller]
    pub(super) fn wait_for(&self, wanted: &[(&str, Option<SocketAddr>)]) {
        let missing = || {
            let firing = self.firing();
            let fires = |(name, at): &(&str, _)| firing.contains(&((*name).to_owned(), *at));
            wanted.iter().filter(|alert| !fires(alert)).copied().collect::<Vec<_>>()
        };
        until(missing, Vec::is_empty);
    }

    fn ask(&self, path: &str) -> Value {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return Value::Null };
        let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        // Until it has read its data, it answers 503, without JSON.
        serde_json::from_str(body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
