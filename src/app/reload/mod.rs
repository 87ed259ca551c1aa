//! What is read again while the server runs: where a file's content changes, and on SIGHUP. Rule 8.14 of
//! docs/policy.md.
//!
//! # Invariants
//! - The files of a group are read and checked together. Where one is faulty, all of what was in force stays.
//! - Without a signal, what changes is read again once two looks have found the same, so that a file that is written in
//!   place is not read in its middle: of a list of authorities, a part is a valid list too.
//! - Content is compared, not metadata: Kubernetes replaces a symbolic link to a directory, and a file's time can be
//!   that of an archive.

mod groups;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use futures_util::future;
use tokio_util::sync::CancellationToken;

use super::explain;
use crate::files;
use crate::secret::{Digest, digest};
use crate::shutdown::{self, Hangup};
use crate::telemetry::Metrics;
pub(super) use groups::{LogLevelFile, MailRelay, OperatorCredential, ServerTls, TlsReload};

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Settings that can be read again together.
#[async_trait]
pub(super) trait Reloadable: Send {
    /// How the log, the metrics and `/healthz` name it: a lower-case word.
    fn name(&self) -> &'static str;

    /// The files that it is read from. Where there are none, it is read again on SIGHUP alone.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads the files, and puts what they hold in force.
    ///
    /// # Errors
    /// The file, what is wrong with it, and the cure. What was in force stays.
    async fn reload(&mut self) -> anyhow::Result<()>;
}

/// Starts what reads `settings` again. Dropped settings stay as they are.
pub(super) fn spawn(
    settings: Vec<Box<dyn Reloadable>>,
    mut hangup: Hangup,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) {
    let mut groups: Vec<_> = settings.into_iter().map(Group::new).collect();
    let stop = stop.clone();
    shutdown::spawn_essential("reload", stop.clone(), async move {
        loop {
            let requested = tokio::select! {
                () = stop.cancelled() => return,
                () = hangup.next() => true,
                () = tokio::time::sleep(INTERVAL) => false,
            };
            if requested {
                tracing::info!(signal = "SIGHUP", "reading files again");
            }
            // Not given up at the stop: a change of the store must run to its end.
            future::join_all(groups.iter_mut().map(|group| group.look(requested, &metrics))).await;
        }
    });
}

/// What was seen of a group's files: the digest of each, or why it can't be read.
type Seen = Vec<Result<Digest, ErrorKind>>;

struct Group {
    settings: Box<dyn Reloadable>,
    /// At the last look.
    seen: Option<Seen>,
    /// Whether it may differ from what is in force. At first it may: the start read the files some time ago.
    pending: bool,
    /// Whether anything was read again.
    was_read: bool,
    /// Whether what was read last could not be put in force.
    fails: bool,
    /// Why not, as it was logged last.
    logged: Option<String>,
}

impl Group {
    fn new(settings: Box<dyn Reloadable>) -> Self {
        Self { settings, seen: None, pending: true, was_read: false, fails: false, logged: None }
    }

    /// Looks whether the files have changed. Reads them again where they have and stay as they are from one look to the
    /// next, or where that is `requested`.
    async fn look(&mut self, requested: bool, metrics: &Metrics) {
        let files = self.settings.files();
        let read = tokio::task::spawn_blocking(move || (read(&files), files));
        let Ok((seen, files)) = read.await else { return };
        let changed = self.seen.as_ref() != Some(&seen);
        let special = seen.iter().position(|file| *file == Err(ErrorKind::InvalidInput));
        self.seen = Some(seen);
        self.pending |= changed;
        // A file may be written in place, and several one after another: they have until the next look. What failed
        // may pass by itself: the store is back, or a certificate has become valid.
        if !requested && (changed || !(self.pending || self.fails)) {
            return;
        }
        // The start has read it, as that of a shell's process substitution, and there is no more in it.
        if special.is_some() && !requested && !self.was_read {
            self.pending = false;
            return;
        }
        let outcome = match special.and_then(|at| files.get(at)) {
            Some(path) => Err(anyhow!(
                "{} is a pipe or a device, which can't be read again: name a regular file",
                path.display()
            )),
            None => self.settings.reload().await,
        };
        let differed = std::mem::take(&mut self.pending) && self.was_read;
        self.was_read = true;
        let group = self.settings.name();
        match outcome {
            Ok(()) => {
                metrics.reloaded(group);
                if requested || differed || self.logged.is_some() {
                    tracing::info!(group, "what was read again is in force");
                }
                (self.fails, self.logged) = (false, None);
            }
            Err(error) => {
                self.fails = true;
                let error = explain(&error);
                if requested || self.logged.as_ref() != Some(&error) {
                    metrics.reload_failed(group);
                    tracing::warn!(
                        group, %error,
                        "files can't be read again; what was read before stays in force"
                    );
                }
                self.logged = Some(error);
            }
        }
    }
}

fn read(paths: &[PathBuf]) -> Seen {
    let content = |path: &PathBuf| files::read_regular(path).map_err(|error| error.kind());
    paths.iter().map(|path| content(path).map(|content| digest(&content))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::*;
    use crate::telemetry::Exposition;

    /// A file that is in order where it says so.
    struct Sample {
        file: PathBuf,
        reloads: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl Reloadable for Sample {
        fn name(&self) -> &'static str {
            "sample"
        }

        fn files(&self) -> Vec<PathBuf> {
            vec![self.file.clone()]
        }

        async fn reload(&mut self) -> anyhow::Result<()> {
            self.reloads.fetch_add(1, Ordering::Relaxed);
            match std::fs::read_to_string(&self.file)?.as_str() {
                "good" => Ok(()),
                other => bail!("{other} is not good"),
            }
        }
    }

    #[tokio::test]
    async fn files_are_read_again_once_a_change_has_settled_and_faults_are_reported_once() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        let reloads = Arc::new(AtomicUsize::new(0));
        let metrics = Metrics::new();
        let mut group =
            Group::new(Box::new(Sample { file: file.clone(), reloads: reloads.clone() }));
        let failures = || {
            let text = metrics.render(Exposition::Text);
            let sample = "portcullis_reload_failures_total{group=\"sample\"} ";
            let line = text.lines().find_map(|line| line.strip_prefix(sample).map(str::to_owned));
            (line.map_or(0, |count| count.parse().unwrap()), !metrics.failing_reloads().is_empty())
        };
        // Content, whether a reload is requested; reloads, failures that are reported, whether it fails now.
        for (at, (content, requested, wanted)) in [
            (Some("good"), false, (0, (0, false))),
            (Some("good"), false, (1, (0, false))),
            (Some("good"), false, (1, (0, false))),
            (Some("good"), true, (2, (0, false))),
            // Written in place, in two steps.
            (Some("half"), false, (2, (0, false))),
            (Some("good"), false, (2, (0, false))),
            (Some("good"), false, (3, (0, false))),
            (Some("bad"), false, (3, (0, false))),
            (Some("bad"), false, (4, (1, true))),
            (Some("bad"), false, (5, (1, true))),
            (Some("worse"), true, (6, (2, true))),
            (None, false, (6, (2, true))),
            (None, false, (7, (3, true))),
            (Some("good"), false, (7, (3, true))),
            (Some("good"), false, (8, (3, false))),
            (Some("good"), false, (8, (3, false))),
        ]
        .into_iter()
        .enumerate()
        {
            match content {
                Some(content) => std::fs::write(&file, content).unwrap(),
                None => drop(std::fs::remove_file(&file)),
            }
            group.look(requested, &metrics).await;
            assert_eq!((reloads.load(Ordering::Relaxed), failures()), wanted, "step {at}");
        }
    }

    #[tokio::test]
    async fn what_can_be_read_once_is_left_alone_until_reading_it_is_requested() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        let (reloads, metrics) = (Arc::new(AtomicUsize::new(0)), Metrics::new());
        let mut group =
            Group::new(Box::new(Sample { file: file.clone(), reloads: reloads.clone() }));
        for _ in 0..3 {
            group.look(false, &metrics).await;
        }
        assert!(metrics.failing_reloads().is_empty());
        group.look(true, &metrics).await;
        assert_eq!(metrics.failing_reloads(), ["sample"]);
        assert!(group.logged.as_ref().unwrap().contains("is a pipe or a device"));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "good").unwrap();
        for _ in 0..2 {
            group.look(false, &metrics).await;
        }
        assert!(metrics.failing_reloads().is_empty());
        assert_eq!(reloads.load(Ordering::Relaxed), 1);
    }
}
