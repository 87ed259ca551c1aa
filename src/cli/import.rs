//! `portcullis token import`: tokens that were issued elsewhere, from a file of JSON lines.
//!
//! Must stay true: only a bounded part of the file is in memory, however large it is; what a line says is sent as it
//! is or refused, and no member of it is passed over: a misspelled `whitelist` would open a token.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use prost::Message as _;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connect::Session;
use super::failure::Failure;
use super::leaks::{digits_of_digest, parse_sha256, without_bom};
use super::output::{clean, note, parse_time, print_line};
use super::proto::import_token_result::Result as ItemResult;
use super::{missing, proto};

/// The most tokens that a call takes.
const MAX_TOKENS: usize = 1_000;
/// No more tokens are put into a call that has so many bytes, and a longest line is one more: the server takes 2 MiB.
const MAX_BYTES: usize = 768 << 10;
/// The longest line: more than a token with the longest whitelist needs.
const MAX_LINE: u64 = 1 << 20;
/// Calls under way at once: while one is committed, the next ones are read.
const CALLS: usize = 3;
/// How often a call is repeated that the server could not answer, with a pause that doubles each time.
const RETRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// What `token import` takes.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The account that will own the tokens
    #[arg(long, value_name = "ACCOUNT")]
    account: String,
    /// Check everything, import nothing
    #[arg(long)]
    dry_run: bool,
    /// Import at most so many tokens a second, so that it takes little from what else the processors do
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// A line of the file, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonToken {
    name: String,
    kind: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    whitelist: Vec<String>,
    secret_sha256: String,
    create_time: Option<String>,
    last_use_time: Option<String>,
    expire_time: Option<String>,
}

/// A line of the file, as it was read.
enum Line {
    Empty,
    Token(Box<proto::ImportToken>),
    /// What is wrong with it.
    Refused(String),
}

/// Tokens of one call, with the numbers of their lines.
#[derive(Default)]
struct Batch {
    tokens: Vec<proto::ImportToken>,
    lines: Vec<u64>,
    /// Lines that are refused without asking the server.
    refused: Vec<(u64, String)>,
    /// How far the file has been read by then, in bytes.
    end: u64,
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Counts {
    imported: u64,
    already_existed: u64,
    refused: u64,
}

/// Imports the tokens of a file.
pub(super) async fn run(session: &Session, args: ImportArgs) -> Result<(), Failure> {
    let (input, length) = open(&args.file)?;
    let reader = Reader { input, number: 0, read: 0, ended: false };
    let progress = Progress::new(length);
    let mut counts = Counts::default();
    let pace = args.rate.map(pace);
    let batches = stream::unfold((reader, pace), async |(mut reader, mut pace)| {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        Some((reader.batch().transpose()?, (reader, pace)))
    });
    let calls = batches
        .map(|batch| async {
            let batch = batch?;
            let answer = import(session, &args, &batch).await?;
            Ok::<_, Failure>((batch, answer))
        })
        // In order, so that refused lines are named in theirs.
        .buffered(CALLS);
    let mut calls = std::pin::pin!(calls);
    let stopped = loop {
        match calls.try_next().await {
            Ok(None) => break None,
            Ok(Some((batch, answer))) => counts.add(session, &progress, batch, answer)?,
            Err(failure) => break Some(failure),
        }
    };
    progress.bar.finish_and_clear();
    counts.summary(session, args.dry_run)?;
    match stopped {
        Some(failure) => {
            note("the import was interrupted: run the same command again to continue");
            Err(failure)
        }
        None if counts.refused > 0 => Err(Failure::Refused(match counts.refused {
            1 => "1 line was refused".to_owned(),
            count => format!("{count} lines were refused"),
        })),
        None => Ok(()),
    }
}

/// When calls may begin, so that no more than `rate` tokens are sent a second.
fn pace(rate: u32) -> Interval {
    let mut pace = tokio::time::interval(Duration::from_secs(MAX_TOKENS as u64) / rate);
    // A call that took long is not caught up with.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

fn open(file: &PathBuf) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let unreadable = |error| Failure::Usage(format!("{} can't be read: {error}", file.display()));
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, opened)), length))
}

/// Reads a file line by line.
struct Reader {
    input: Box<dyn BufRead + Send>,
    /// Of the line that was read last.
    number: u64,
    read: u64,
    ended: bool,
}

impl Reader {
    /// The next tokens, as many as a call takes; `None` at the end of the file.
    fn batch(&mut self) -> Result<Option<Batch>, Failure> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while !self.ended
            && batch.lines.len() + batch.refused.len() < MAX_TOKENS
            && bytes < MAX_BYTES
        {
            match self.line()? {
                None => self.ended = true,
                Some(Line::Empty) => {}
                Some(Line::Token(token)) => {
                    bytes += token.encoded_len();
                    batch.tokens.push(*token);
                    batch.lines.push(self.number);
                }
                Some(Line::Refused(why)) => batch.refused.push((self.number, why)),
            }
        }
        batch.end = self.read;
        let empty = batch.lines.is_empty() && batch.refused.is_empty();
        Ok((!empty).then_some(batch))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<Line>, Failure> {
        let unreadable = |error| Failure::Usage(format!("the input can't be read: {error}"));
        let mut text = Vec::new();
        let input = &mut self.input;
        let read = input.take(MAX_LINE).read_until(b'\n', &mut text).map_err(unreadable)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.read += read as u64;
        if read as u64 == MAX_LINE && !text.ends_with(b"\n") {
            // The rest of it.
            self.read += self.input.skip_until(b'\n').map_err(unreadable)? as u64;
            return Ok(Some(Line::Refused(format!("is longer than {MAX_LINE} bytes"))));
        }
        let text = if self.number == 1 { without_bom(&text) } else { &text };
        Ok(Some(match text.trim_ascii() {
            b"" => Line::Empty,
            text => token(text).map_or_else(Line::Refused, |token| Line::Token(Box::new(token))),
        }))
    }
}

/// The token that a line describes.
fn token(line: &[u8]) -> Result<proto::ImportToken, String> {
    if line.first() != Some(&b'{') {
        return Err("is not a JSON object: it does not begin with {".to_owned());
    }
    let line: JsonToken = serde_json::from_slice(line).map_err(|error| {
        // Without the place of the error, which names line 1 each time.
        let (text, column) = (error.to_string(), error.column());
        let text = text.split(" at line ").next().unwrap_or_default();
        let expected = text.split_once(", expected ").filter(|_| text.starts_with("invalid "));
        match (error.classify(), expected) {
            (Category::Syntax | Category::Eof, _) => {
                format!("is not a JSON object: {text}, at column {column}")
            }
            // The value is not quoted: it may be a secret.
            (_, Some((_, expected))) => {
                format!("has a value of another type before column {column}: expected {expected}")
            }
            _ => text.to_owned(),
        }
    })?;
    let time = |field: &str, text: Option<String>| {
        text.map(|text| parse_time(&text).map_err(|error| format!("{field}: {error}"))).transpose()
    };
    Ok(proto::ImportToken {
        kind: kind(&line.kind)?.into(),
        secret_sha256: digest(&line.secret_sha256)?,
        create_time: time("create_time", line.create_time)?,
        last_use_time: time("last_use_time", line.last_use_time)?,
        expire_time: time("expire_time", line.expire_time)?,
        name: line.name,
        scopes: line.scopes,
        whitelist: line.whitelist,
    })
}

fn kind(word: &str) -> Result<proto::TokenKind, String> {
    match word {
        "read-only" | "READ_ONLY" | "TOKEN_KIND_READ_ONLY" => Ok(proto::TokenKind::ReadOnly),
        "read-write" | "READ_WRITE" | "TOKEN_KIND_READ_WRITE" => Ok(proto::TokenKind::ReadWrite),
        "custom" | "CUSTOM" | "TOKEN_KIND_CUSTOM" => Ok(proto::TokenKind::Custom),
        _ => Err("kind: is none of read-only, read-write and custom".to_owned()),
    }
}

/// Reads 64 hexadecimal digits, maybe behind `sha256:`.
fn digest(text: &str) -> Result<Vec<u8>, String> {
    let digits = digits_of_digest(text).unwrap_or(text);
    // Never quoted: it may be the secret itself, by mistake.
    let wrong = || "secret_sha256: is not the 64 hexadecimal digits of a SHA-256".to_owned();
    parse_sha256(digits).ok_or_else(wrong)
}

/// Sends the tokens of a batch, again where the server gave no answer: what it imported already stays.
async fn import(
    session: &Session,
    args: &ImportArgs,
    batch: &Batch,
) -> Result<Vec<proto::ImportTokenResult>, Failure> {
    if batch.tokens.is_empty() {
        return Ok(Vec::new());
    }
    let mut pauses = iter::successors(Some(PAUSE), |pause| Some(*pause * 2)).take(RETRIES);
    loop {
        let request = proto::ImportTokensRequest {
            account_id: args.account.clone(),
            tokens: batch.tokens.clone(),
            validate_only: args.dry_run,
        };
        match session.tokens().import_tokens(request).await {
            Ok(answer) => {
                let results = answer.into_inner().results;
                return match results.len() == batch.lines.len() {
                    true => Ok(results),
                    false => Err(missing("result of each token")),
                };
            }
            Err(status) => {
                let Some(pause) = pauses.next().filter(|_| is_transient(&status)) else {
                    return Err(session.failure(status));
                };
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Whether a later attempt may be answered.
fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

impl Counts {
    /// Takes note of the answer to a batch, and reports what was refused.
    fn add(
        &mut self,
        session: &Session,
        progress: &Progress,
        batch: Batch,
        results: Vec<proto::ImportTokenResult>,
    ) -> Result<(), Failure> {
        let mut refused = batch.refused;
        for (line, result) in batch.lines.into_iter().zip(results) {
            match result.result {
                Some(ItemResult::Token(_)) if result.already_existed => self.already_existed += 1,
                Some(ItemResult::Token(_)) => self.imported += 1,
                Some(ItemResult::Error(error)) => refused.push((line, sentence(error))),
                None => return Err(missing("result")),
            }
        }
        refused.sort_unstable_by_key(|&(line, _)| line);
        self.refused += refused.len() as u64;
        progress
            .tokens
            .store(self.imported + self.already_existed + self.refused, Ordering::Relaxed);
        progress.bar.set_position(batch.end);
        progress.bar.suspend(|| report(session, &refused))
    }

    fn summary(&self, session: &Session, dry_run: bool) -> Result<(), Failure> {
        let Self { imported, already_existed, refused } = self;
        if session.is_json() {
            let summary = json!({ "imported": imported, "already_existed": already_existed, "refused": refused });
            return print_line(&summary.to_string());
        }
        let what = if dry_run { "would be imported" } else { "imported" };
        note(&format!("{imported} {what}, {already_existed} already existed, {refused} refused"));
        Ok(())
    }
}

fn report(session: &Session, refused: &[(u64, String)]) -> Result<(), Failure> {
    for (line, why) in refused {
        match session.is_json() {
            true => print_line(&json!({ "line": line, "error": why }).to_string())?,
            false => note(&format!("line {line}: {}", clean(why))),
        }
    }
    Ok(())
}

/// What is wrong with an item, each field with its error.
fn sentence(error: tonic_types::Status) -> String {
    let code = Code::from_i32(error.code);
    let message = error.message.clone();
    let status = Status::with_details(code, error.message.clone(), error.encode_to_vec().into());
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
    match violations.unwrap_or_default() {
        [] => message,
        violations => {
            let each = violations.iter().map(|violation| match violation.field.as_str() {
                "" => violation.description.clone(),
                field => format!("{field}: {}", violation.description),
            });
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

/// What a person at a terminal sees meanwhile.
struct Progress {
    bar: ProgressBar,
    tokens: Arc<AtomicU64>,
}

impl Progress {
    /// Of a file with so many bytes; `None` where that is not known.
    fn new(length: Option<u64>) -> Self {
        let tokens = Arc::new(AtomicU64::new(0));
        let bar = match length {
            _ if !io::stderr().is_terminal() => ProgressBar::hidden(),
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        let template = match length {
            Some(_) => "{wide_bar} {percent}% {tokens} tokens, {rate} a second, {left} left",
            None => "{spinner} {tokens} tokens, {rate} a second",
        };
        let (count, counted) = (tokens.clone(), tokens.clone());
        // A template that can't be read, which a test rules out, leaves the usual one.
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                let seconds = state.elapsed().as_secs_f64().max(0.001);
                let _ = write!(text, "{:.0}", count.load(Ordering::Relaxed) as f64 / seconds);
            };
            let tokens = move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = write!(text, "{}", counted.load(Ordering::Relaxed));
            };
            let left = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = write!(text, "{:#}", HumanDuration(state.eta()));
            };
            bar.set_style(
                style.with_key("rate", rate).with_key("tokens", tokens).with_key("left", left),
            );
        }
        Self { bar, tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

    fn read(text: &str) -> Reader {
        let input = Box::new(io::Cursor::new(text.to_owned().into_bytes()));
        Reader { input, number: 0, read: 0, ended: false }
    }

    #[test]
    fn a_line_is_read_as_a_token() {
        let line = format!(
            r#"{{"name":"n","kind":"custom","scopes":["a"],"whitelist":["192.0.2.1"],
            "secret_sha256":"sha256:{DIGEST}","last_use_time":"2026-01-31T12:00:00Z"}}"#
        );
        let token = token(line.replace('\n', "").as_bytes()).unwrap();
        assert_eq!((token.name.as_str(), token.kind()), ("n", proto::TokenKind::Custom));
        assert_eq!(
            (token.scopes, token.whitelist),
            (vec!["a".to_owned()], vec!["192.0.2.1".to_owned()])
        );
        assert_eq!((token.secret_sha256.len(), token.secret_sha256[0]), (32, 0x5e));
        assert_eq!(token.last_use_time, Some(parse_time("2026-01-31T12:00:00Z").unwrap()));
        assert_eq!((token.create_time, token.expire_time), (None, None));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named_and_no_secret_is() {
        let with = |members: &str| format!(r#"{{"name":"n","kind":"read-only"{members}}}"#);
        let digest = |text: &str| with(&format!(r#","secret_sha256":"{text}""#));
        let sound = digest(DIGEST);
        for (line, error) in [
            ("{".to_owned(), "is not a JSON object: EOF"),
            ("not json".to_owned(), "is not a JSON object: it does not begin with {"),
            ("{not json}".to_owned(), "is not a JSON object: key must be a string, at column 2"),
            ("[]".to_owned(), "is not a JSON object"),
            ("null".to_owned(), "is not a JSON object"),
            (sound.replace("\"n\"", "123"), "expected a string"),
            (with(r#","scopes":"hunter2""#), "expected a sequence"),
            (with(""), "missing field `secret_sha256`"),
            (sound.replace("kind", "whitelists\":[],\"kind"), "unknown field `whitelists`"),
            (sound.replace("\"kind\"", "\"name\":\"m\",\"kind\""), "duplicate field `name`"),
            (sound.replace("read-only", "all"), "kind: is none of"),
            (digest("hunter2"), "secret_sha256: is not the 64"),
            (digest(&DIGEST[1..]), "secret_sha256: is not the 64"),
            (digest(&format!("{DIGEST}00")), "secret_sha256: is not the 64"),
            (digest(&DIGEST.replace('5', "+")), "secret_sha256: is not the 64"),
            (sound.replace('}', r#","expire_time":"soon"}"#), "expire_time: is not an RFC 3339"),
        ] {
            let refused = token(line.as_bytes()).unwrap_err();
            assert!(refused.contains(error) && !refused.contains("hunter2"), "{line}: {refused}");
            assert!(!refused.contains("line 1"), "{refused}");
        }
        assert!(token(sound.as_bytes()).is_ok());
        assert!(token(digest(&format!("SHA256:{DIGEST}")).as_bytes()).is_ok());
        let marked = format!("\u{feff}{sound}\n");
        assert!(matches!(read(&marked).line(), Ok(Some(Line::Token(_)))), "a byte-order mark");
    }

    #[test]
    fn batches_have_the_numbers_of_their_lines() {
        let sound = format!(r#"{{"name":"n","kind":"read-only","secret_sha256":"{DIGEST}"}}"#);
        let long = "x".repeat(MAX_LINE as usize + 5);
        let mut reader = read(&format!("{sound}\n\n  \nno\n{long}\n{sound}"));
        let batch = reader.batch().unwrap().unwrap();
        assert_eq!((batch.lines, batch.tokens.len()), (vec![1, 6], 2));
        let refused: Vec<_> = batch.refused.iter().map(|&(line, _)| line).collect();
        assert_eq!(refused, [4, 5]);
        assert_eq!(batch.end, reader.read);
        assert!(reader.batch().unwrap().is_none());
        let mut reader = read(&format!("{sound}\n").repeat(2_500));
        let counts = std::iter::from_fn(|| reader.batch().unwrap()).map(|batch| batch.lines.len());
        assert_eq!(counts.collect::<Vec<_>>(), [1_000, 1_000, 500]);
    }
}
