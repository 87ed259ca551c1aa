//! `portcullis token report-leaked`: secrets that leaked, from a file or standard input.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::confirm::{Confirmation, nothing_more};
use super::connect::Session;
use super::failure::Failure;
use super::output::{note, note_propagation, print, table, word};
use super::proto;

/// What one call reports at most (docs/policy.md, rule 11.51).
const AT_ONCE: usize = 100;
/// The longest line, in bytes: more than any secret has.
const MAX_LINE: u64 = 8 << 10;
/// What a digest begins with.
const DIGEST_PREFIX: &str = "sha256:";

#[derive(Debug, Args)]
pub(super) struct ReportLeakedArgs {
    /// File with a secret on each line, "-" for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// What kind of place they were found in, such as commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    source: String,
    /// The address of that place
    #[arg(long, value_name = "URL", default_value = "")]
    url: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Answer before it is in effect on every replica
    #[arg(long)]
    no_wait: bool,
}

/// A line of the file.
enum Line {
    Secret(Zeroizing<String>),
    Digest(Vec<u8>),
}

/// Lines with their numbers, from 1 up.
type Numbered<T> = Vec<(usize, T)>;

pub(super) async fn report(session: &Session, args: ReportLeakedArgs) -> Result<(), Failure> {
    let lines = read(&args.file)?;
    if lines.is_empty() {
        return Err(Failure::Usage(
            "no secret was given: write each on a line of its own".to_owned(),
        ));
    }
    let question = match lines.len() {
        1 => "Revoke what this secret opens? Nothing brings it back.".to_owned(),
        count => format!("Revoke what these {count} secrets open? Nothing brings it back."),
    };
    args.confirmation.ask(&question, nothing_more).await?;
    let mut all = proto::ReportLeakedTokensResponse::default();
    let mut rows: Numbered<proto::LeakReportResult> = Vec::with_capacity(lines.len());
    for lines in lines.chunks(AT_ONCE) {
        let (mut request, mut secrets, mut digests) = (
            proto::ReportLeakedTokensRequest {
                source: args.source.clone(),
                url: args.url.clone(),
                no_wait: args.no_wait,
                ..Default::default()
            },
            Vec::new(),
            Vec::new(),
        );
        for (number, line) in lines {
            match line {
                Line::Secret(secret) => {
                    request.secrets.push(secret.to_string());
                    secrets.push(*number);
                }
                Line::Digest(digest) => {
                    request.secret_sha256s.push(digest.clone());
                    digests.push(*number);
                }
            }
        }
        let answer = session.tokens().report_leaked_tokens(request).await.map_err(|status| {
            if !rows.is_empty() {
                note(&format!(
                    "the first {} secrets are reported; repeating the command is safe",
                    rows.len()
                ));
            }
            session.failure(status)
        })?;
        let answer = answer.into_inner();
        rows.extend(secrets.into_iter().chain(digests).zip(answer.results));
        all.propagation = answer.propagation.or(all.propagation);
        all.revision = all.revision.max(answer.revision);
    }
    rows.sort_unstable_by_key(|(number, _)| *number);
    all.results = rows.iter().map(|(_, result)| result.clone()).collect();
    if session.print_json(&all)? {
        return Ok(());
    }
    let shown: Vec<_> = rows.iter().map(|(number, result)| row(*number, result)).collect();
    print(&table(["LINE", "OUTCOME", "TOKEN OR CREDENTIAL", "ACCOUNT"], &shown))?;
    note_propagation(all.propagation.as_ref());
    if all.results.iter().any(|of| of.outcome() == proto::LeakReportOutcome::LastOperator) {
        note(
            "the last operator credential leaked and STAYS VALID, since nobody could operate the server without it: \
             create another one with `portcullis credential create`, then revoke it with `portcullis credential revoke`",
        );
    }
    Ok(())
}

fn row(number: usize, result: &proto::LeakReportResult) -> [String; 4] {
    let opened = [&result.token_id, &result.credential_id].map(String::as_str).concat();
    [
        number.to_string(),
        word(result.outcome().as_str_name(), "LEAK_REPORT_OUTCOME_"),
        opened,
        result.account_id.clone(),
    ]
}

/// The lines of a file that are not empty.
fn read(path: &Path) -> Result<Numbered<Line>, Failure> {
    let unreadable = |error: io::Error| {
        let name = if path == Path::new("-") { "standard input" } else { "the file" };
        Failure::Usage(format!("{name} can't be read: {error}"))
    };
    if path != Path::new("-") {
        return lines(File::open(path).map_err(unreadable)?).map_err(unreadable)?;
    }
    if io::stdin().is_terminal() {
        // They would be shown as they are typed, and stay in the window.
        return Err(Failure::Usage(
            "secrets are not read from a terminal: name a file, or pipe them to this command"
                .to_owned(),
        ));
    }
    lines(io::stdin().lock()).map_err(unreadable)?
}

fn lines(from: impl Read) -> io::Result<Result<Numbered<Line>, Failure>> {
    let mut from = BufReader::new(from);
    let mut lines = Vec::new();
    for number in 1.. {
        let mut line = Zeroizing::new(Vec::new());
        if (&mut from).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let wrong = |what: &str| Ok(Err(Failure::Usage(format!("line {number} {what}"))));
        if line.len() as u64 == MAX_LINE {
            return wrong("is longer than any secret: write each secret on a line of its own");
        }
        let line = if number == 1 { without_bom(&line) } else { &line[..] };
        let Ok(text) = std::str::from_utf8(line) else {
            return wrong("is not UTF-8");
        };
        match (text.trim(), digits_of_digest(text.trim())) {
            ("", _) => {}
            (secret, None) => lines.push((number, Line::Secret(Zeroizing::new(secret.to_owned())))),
            (_, Some(digits)) => match parse_sha256(digits) {
                Some(digest) => lines.push((number, Line::Digest(digest))),
                None => return wrong("is no digest: write 64 hexadecimal digits after sha256:"),
            },
        }
    }
    Ok(Ok(lines))
}

/// A file without the byte-order mark that some editors write at its beginning.
pub(super) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// What stands behind `sha256:`, in any case of letters; `None` where that is missing.
pub(super) fn digits_of_digest(text: &str) -> Option<&str> {
    let (prefix, digits) = text.split_at_checked(DIGEST_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(DIGEST_PREFIX).then_some(digits)
}

/// The 32 bytes of a SHA-256 in hexadecimal.
pub(super) fn parse_sha256(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_secrets_and_digests() {
        let digest = "ab".repeat(32);
        let text = format!("\u{feff}one\n\n  secret-token:two \r\nSHA256:{digest}\nthree");
        let read = lines(text.as_bytes()).unwrap().unwrap();
        let shown = read.iter().map(|(number, line)| match line {
            Line::Secret(secret) => format!("{number} {}", **secret),
            Line::Digest(digest) => format!("{number} {digest:?}"),
        });
        let shown: Vec<_> = shown.collect();
        let digest = format!("4 {:?}", vec![0xab_u8; 32]);
        assert_eq!(shown, ["1 one", "3 secret-token:two", &digest, "5 three"]);
    }

    #[test]
    fn a_line_that_is_no_secret_names_its_number_and_not_itself() {
        for wrong in ["ok\nsha256:abc", "ok\n\u{e9}sha256", &format!("ok\n{}", "x".repeat(9_000))] {
            let Err(Failure::Usage(text)) = lines(wrong.as_bytes()).unwrap() else { continue };
            assert!(text.contains("line 2") && !text.contains("abc"), "{text}");
        }
        assert!(lines(&b"ok\n\xff\xff"[..]).unwrap().is_err());
        assert!(lines(&b"sha256:abc"[..]).unwrap().is_err());
    }
}
