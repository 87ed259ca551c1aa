//! `portcullis audit verify`: needs no server.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::audit::{self, ChainPoint, Evidence, EvidenceFault, Report};
use crate::cli::failure::Failure;
use crate::cli::output::{fields, print, print_line};
use crate::config::client::Format;

/// What `audit verify` takes.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// What `audit export` wrote; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An earlier place of the chain, such as the head of an earlier export. May be repeated
    #[arg(long, value_name = "HASH@REVISION")]
    anchor: Vec<ChainPoint>,
    /// An earlier export: the chain must continue it
    #[arg(long, value_name = "FILE")]
    former: Option<PathBuf>,
    /// What `evidence --output json` wrote: its events must be those of the export
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Accept a file without its last line, as `audit follow` writes it: events missing at its end are not found
    #[arg(long)]
    without_head: bool,
}

pub(super) fn run(args: &VerifyArgs, format: Format) -> Result<(), Failure> {
    let mut anchors = args.anchor.clone();
    let former = match &args.former {
        None => None,
        Some(path) => {
            let report = verified(path, &BTreeSet::new(), !args.without_head)?;
            anchors.push(report.head.unwrap_or(report.last));
            Some(report)
        }
    };
    let evidence = args.evidence.as_deref().map(read_evidence).transpose()?;
    anchors.extend(evidence.iter().flat_map(Evidence::points));
    let revisions = anchors.iter().map(|anchor| anchor.revision).collect();
    let report = verified(&args.file, &revisions, !args.without_head)?;

    let refused = |path: &Path, text: &dyn std::fmt::Display| {
        Failure::Refused(format!("{}: {text}", path.display()))
    };
    if let (Some(former), Some(path)) = (&former, &args.former)
        && former.installation_id != report.installation_id
    {
        return Err(refused(path, &"is an export of another installation"));
    }
    if let (Some(evidence), Some(path)) = (&evidence, &args.evidence)
        && evidence.installation_id != report.installation_id
    {
        return Err(refused(path, &EvidenceFault::Installation));
    }
    for anchor in &anchors {
        report.confirms(anchor).map_err(|fault| refused(&args.file, &fault))?;
    }
    show(&report, format)
}

fn show(report: &Report, format: Format) -> Result<(), Failure> {
    let Report { installation_id, begin, last, head, events, pruned_by, .. } = report;
    if format == Format::Json {
        return print_line(&format!(
            "{:#}",
            json!({
                "sound": true,
                "installation_id": installation_id,
                "events": events,
                "begin": begin,
                "last": last,
                "head": head,
                "pruned_by": pruned_by,
            })
        ));
    }
    let pruned = match (begin.revision, pruned_by) {
        (0, _) => "with the first event of the installation".to_owned(),
        (revision, Some(by)) => {
            format!(
                "after revision {revision}: what was before was pruned, as revision {by} records"
            )
        }
        (revision, None) => {
            format!("after revision {revision}: what was before is not in the file")
        }
    };
    print(&fields(&[
        ("sound", format!("{events} events, up to revision {}", last.revision)),
        ("installation", installation_id.clone()),
        ("begins", pruned),
        ("last", last.to_string()),
        ("head", head.map_or_else(String::new, |head| head.to_string())),
    ]))
}

/// The report of a sound export.
pub(super) fn verified(
    path: &Path,
    revisions: &BTreeSet<i64>,
    whole: bool,
) -> Result<Report, Failure> {
    let file: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).map_err(|error| unreadable(path, &error))?)),
    };
    audit::verify(file, revisions, whole)
        .map_err(|error| unreadable(path, &error))?
        .map_err(|fault| Failure::Refused(format!("{}: {fault}", path.display())))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{} can't be read: {error}", path.display()))
}

fn read_evidence(path: &Path) -> Result<Evidence, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let refused = |text: String| Failure::Refused(format!("{}: {text}", path.display()));
    let evidence: Evidence = serde_json::from_str(&text)
        .map_err(|error| refused(format!("the evidence is changed, or is none: {error}")))?;
    evidence.check().map_err(|fault| refused(fault.to_string()))?;
    Ok(evidence)
}
