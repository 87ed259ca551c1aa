//! `portcullis audit export` and `follow`: events as lines, page by page, so that no more than one page is in memory,
//! however long the record is.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use prost_types::Timestamp;
use tonic::Code;

use super::format::{ExportFormat, line};
use crate::audit::{Begin, ChainPoint, End, EventLine};
use crate::cli::connect::Session;
use crate::cli::failure::Failure;
use crate::cli::output::{note, parse_time};
use crate::cli::{missing, proto};
use crate::policy::time;

/// Events that are asked for at once. The server gives fewer where they are large.
const PAGE: i32 = 500;

/// Pause of `follow` before it asks again, once it has everything.
const PAUSE: Duration = Duration::from_secs(1);

/// What `audit export` takes.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Begin with the first event at this time or after it, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// End with the last event before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// The format of the events; only json can be verified
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Json)]
    format: ExportFormat,
    /// A new file to write to, instead of standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What `audit follow` takes.
#[derive(Debug, Args)]
pub(super) struct FollowArgs {
    /// Begin with the first event after this revision; without it, with the next event that is made
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
    /// The format of the events
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Json)]
    format: ExportFormat,
}

/// How far the chain goes, as the server says.
pub(in crate::cli) struct Chain {
    pub(in crate::cli) installation_id: String,
    pub(in crate::cli) begin: ChainPoint,
    head: ChainPoint,
}

/// The chain that an answer has; `None` for account admins.
pub(in crate::cli) fn chain(
    answer: &proto::ListAuditEventsResponse,
) -> Result<Option<Chain>, Failure> {
    let Some(chain) = &answer.chain else { return Ok(None) };
    let read = |point: &Option<proto::AuditChainPoint>| {
        let point = point.as_ref().ok_or_else(|| missing("place in the chain"))?;
        self::point(point.revision, &point.hash)
    };
    Ok(Some(Chain {
        installation_id: chain.installation_id.clone(),
        begin: read(&chain.begin)?,
        head: read(&chain.head)?,
    }))
}

/// A place in the chain, as the server wrote it.
pub(in crate::cli) fn point(revision: i64, hash: &str) -> Result<ChainPoint, Failure> {
    let hash = hash.parse().map_err(|_| missing("hash that can be read"))?;
    Ok(ChainPoint { revision, hash })
}

/// An event of the chain as a line has it.
pub(in crate::cli) fn event_line(event: &proto::AuditEvent) -> Result<EventLine, Failure> {
    let event = event.clone();
    Ok(EventLine {
        revision: event.revision,
        time: time_of(&event).to_rfc_3339(),
        action: event.action,
        actor: event.actor,
        actor_role: event.actor_role,
        client_address: event.client_address,
        account_id: event.account_id,
        token_id: event.token_id,
        before_json: event.before_json,
        after_json: event.after_json,
        hash: point(event.revision, &event.hash)?.hash,
    })
}

/// When an event was.
pub(super) fn time_of(event: &proto::AuditEvent) -> time::Timestamp {
    let time = event.time.unwrap_or_default();
    time::Timestamp::from_seconds_nanos(time.seconds, time.nanos).unwrap_or_default()
}

/// One page of events.
pub(in crate::cli) async fn page(
    session: &Session,
    request: proto::ListAuditEventsRequest,
) -> Result<proto::ListAuditEventsResponse, Failure> {
    let answer = session.tokens().list_audit_events(request).await;
    Ok(answer.map_err(|status| session.failure(status))?.into_inner())
}

/// How far the chain goes now; `None` for account admins.
async fn current_chain(session: &Session) -> Result<Option<Chain>, Failure> {
    let request =
        proto::ListAuditEventsRequest { oldest_first: true, page_size: 1, ..Default::default() };
    chain(&page(session, request).await?)
}

pub(super) async fn export(session: &Session, args: ExportArgs) -> Result<(), Failure> {
    let first = proto::ListAuditEventsRequest {
        start_time: args.since,
        page_size: 1,
        oldest_first: true,
        ..Default::default()
    };
    let first = page(session, first).await?;
    let chain = chain(&first)?;
    let mut out: Box<dyn Write> = match &args.file {
        None => Box::new(io::stdout().lock()),
        Some(path) => {
            // Never overwrites an earlier export, and only its owner may read it: events have mail addresses.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let failed = |error| Failure::Usage(format!("--file: {}: {error}", path.display()));
            Box::new(BufWriter::new(file.map_err(failed)?))
        }
    };
    let first = first.audit_events.first().map(|event| event.revision);
    let written = write(session, &args, chain, first, &mut *out).await;
    if let (Err(_), Some(path)) = (&written, &args.file) {
        // A part of an export is none, and the next attempt overwrites nothing.
        let _ = fs::remove_file(path);
    }
    written
}

/// `first` is the first revision of the export; `None` where there is none.
async fn write(
    session: &Session,
    args: &ExportArgs,
    chain: Option<Chain>,
    first: Option<i64>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match chain {
        Some(chain) => {
            let range = Range::find(session, args, &chain, first).await?;
            range.write(session, args.format, chain, out).await?;
        }
        None => {
            let request = proto::ListAuditEventsRequest {
                start_time: args.since,
                end_time: args.until,
                ..Default::default()
            };
            let mut reader = Reader { request, done: false };
            while let Some(events) = reader.next(session).await? {
                for event in events {
                    write_line(out, &line(args.format, &event)?)?;
                }
            }
            note(
                "This has the events of one account, without hashes: only an operator's export can \
                 be verified.",
            );
        }
    }
    out.flush().map_err(Failure::Output)
}

/// The events of an export: each one after `begin`, up to the revision `last`. Times select where it begins and ends;
/// in between nothing is left out, or it could not be verified.
struct Range {
    begin: ChainPoint,
    last: i64,
}

impl Range {
    /// `first` is the first revision at `--since` or after it; `None` where there is none.
    async fn find(
        session: &Session,
        args: &ExportArgs,
        chain: &Chain,
        first: Option<i64>,
    ) -> Result<Self, Failure> {
        let head = chain.head.revision;
        let first = match args.since {
            None => chain.begin.revision + 1,
            // What is not sealed yet belongs to a later export.
            Some(_) => first.unwrap_or(head + 1).min(head + 1),
        };
        let last = match args.until {
            None => head,
            Some(_) => {
                let request = proto::ListAuditEventsRequest {
                    end_time: args.until,
                    page_size: 1,
                    ..Default::default()
                };
                let newest = page(session, request).await?;
                newest.audit_events.first().map_or(0, |event| event.revision).min(head)
            }
        };
        let begin = match first - 1 {
            before if before == chain.begin.revision => chain.begin,
            before if before == head => chain.head,
            before => previous(session, before).await?,
        };
        Ok(Self { begin, last: last.max(begin.revision) })
    }

    async fn write(
        self,
        session: &Session,
        format: ExportFormat,
        chain: Chain,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let mut last = self.begin;
        let chained = format == ExportFormat::Json;
        if chained {
            write_json(out, &Begin::new(chain.installation_id, self.begin))?;
        }
        let mut reader = Reader::after(self.begin.revision);
        'pages: while last.revision < self.last
            && let Some(events) = reader.next(session).await?
        {
            for event in events {
                if event.revision > self.last {
                    break 'pages;
                }
                if event.revision > last.revision + 1 {
                    refuse_if_pruned(session, event.revision).await?;
                }
                last = point(event.revision, &event.hash)?;
                write_line(out, &line(format, &event)?)?;
            }
        }
        if last.revision < self.last {
            return Err(Failure::Usage(format!(
                "the server has no event after revision {}, though its chain goes on: its newest \
                 events were removed, or they were pruned while this was written; export it again",
                last.revision
            )));
        }
        if chained {
            write_json(out, &End { head: chain.head, last })?;
        }
        Ok(())
    }
}

/// Where events are missing before this revision: an error if they were pruned since the export began. Otherwise
/// somebody removed them, which is for `audit verify` to report.
async fn refuse_if_pruned(session: &Session, revision: i64) -> Result<(), Failure> {
    match current_chain(session).await? {
        Some(chain) if chain.begin.revision + 1 >= revision => Err(Failure::Usage(format!(
            "events up to revision {} were pruned while this was written: export it again",
            chain.begin.revision
        ))),
        _ => Ok(()),
    }
}

/// The place of one event in the chain.
pub(in crate::cli) async fn previous(
    session: &Session,
    revision: i64,
) -> Result<ChainPoint, Failure> {
    let request = proto::ListAuditEventsRequest {
        oldest_first: true,
        after_revision: revision - 1,
        page_size: 1,
        ..Default::default()
    };
    let found = page(session, request).await?.audit_events;
    match found.first() {
        Some(event) if event.revision == revision => point(revision, &event.hash),
        _ => Err(Failure::Usage(format!(
            "the server has no event of revision {revision}, though its chain goes on: it was \
             removed, or pruned while this was read; try again"
        ))),
    }
}

/// Pages of events, the oldest first.
struct Reader {
    request: proto::ListAuditEventsRequest,
    done: bool,
}

impl Reader {
    fn after(revision: i64) -> Self {
        let request =
            proto::ListAuditEventsRequest { after_revision: revision, ..Default::default() };
        Self { request, done: false }
    }

    async fn next(&mut self, session: &Session) -> Result<Option<Vec<proto::AuditEvent>>, Failure> {
        if self.done {
            return Ok(None);
        }
        self.request.oldest_first = true;
        self.request.page_size = PAGE;
        let page = page(session, self.request.clone()).await?;
        self.done = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(page.audit_events))
    }
}

pub(super) async fn follow(session: &Session, args: FollowArgs) -> Result<(), Failure> {
    let Some(start) = current_chain(session).await? else {
        return Err(Failure::Refused(
            "only operators can follow the audit record; `portcullis audit export` writes the \
             events of your account"
                .to_owned(),
        ));
    };
    let mut out = io::stdout().lock();
    let mut after = match args.after {
        Some(after) => after,
        None => {
            if args.format == ExportFormat::Json {
                write_json(&mut out, &Begin::new(start.installation_id, start.head))?;
                out.flush().map_err(Failure::Output)?;
            }
            start.head.revision
        }
    };
    if after < start.begin.revision {
        note(&format!("Events up to revision {} were pruned.", start.begin.revision));
    }
    let mut waiting = false;
    loop {
        let request = proto::ListAuditEventsRequest {
            oldest_first: true,
            after_revision: after,
            page_size: PAGE,
            ..Default::default()
        };
        let events = match page(session, request).await {
            Ok(answer) => {
                waiting = false;
                // Those that are not sealed yet come later, with their hashes.
                let sealed = answer.audit_events.into_iter();
                sealed.take_while(|event| !event.hash.is_empty()).collect::<Vec<_>>()
            }
            Err(failure) if is_passing(&failure) => {
                if !waiting {
                    note(&format!(
                        "{}follow goes on once the server answers",
                        failure.for_people()
                    ));
                }
                waiting = true;
                Vec::new()
            }
            Err(failure) => return Err(failure),
        };
        for event in &events {
            write_line(&mut out, &line(args.format, event)?)?;
            after = event.revision;
        }
        out.flush().map_err(Failure::Output)?;
        if events.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the same call may succeed a little later.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::NoServer { .. } => true,
        Failure::Status { status, .. } => {
            matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        }
        _ => false,
    }
}

fn write_json(out: &mut dyn Write, line: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(line).map_err(|error| Failure::Output(error.into()))?;
    write_line(out, &text)
}

fn write_line(out: &mut dyn Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}").map_err(Failure::Output)
}
