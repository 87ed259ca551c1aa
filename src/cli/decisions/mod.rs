//! `portcullis decisions`: what a decision log has, filtered (docs/decision-log.md).

mod files;
mod filter;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufWriter, Stdout, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;

use self::files::{LineReader, LogFiles};
use self::filter::{FilterArgs, LogLine};
use super::failure::Failure;
use super::output::{clean, note};
use crate::config::client::{DecisionFileArgs, Format, OutputArgs};

/// How often a followed file is checked for new lines.
const POLL: Duration = Duration::from_millis(200);
/// Unreadable lines that are named.
const NAMED: u64 = 5;

/// The arguments of `decisions`.
#[derive(Debug, Args)]
pub struct DecisionsArgs {
    #[command(flatten)]
    log: DecisionFileArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only the last N of them; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Go on with what is written from now on, also where the file is rotated
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &DecisionsArgs) -> Result<(), Failure> {
    let path = args.log.file.as_path();
    let mut printer = Printer::new(args);
    if path == Path::new("-") {
        let mut lines = LineReader::new(io::stdin().lock());
        printer.read(&mut lines, "standard input")?;
        printer.read_rest(&mut lines, "standard input")?;
        return printer.finish();
    }
    let log = path.display().to_string();
    let mut files = LogFiles::open(path).map_err(|error| unreadable(&log, &error))?;
    loop {
        let name = files.name();
        printer.read(files.lines(), &name)?;
        if let Some(mut former) = files.advance().map_err(|error| unreadable(&log, &error))? {
            printer.read(&mut former, &name)?;
            // A killed process left a part of a line at its end.
            printer.read_rest(&mut former, &name)?;
            continue;
        }
        if !args.follow {
            printer.read_rest(files.lines(), &name)?;
            return printer.finish();
        }
        printer.print_kept()?;
        tokio::time::sleep(POLL).await;
    }
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot read {name}: {error}"))
}

/// Prints the lines that match.
struct Printer<'a> {
    args: &'a DecisionsArgs,
    out: BufWriter<Stdout>,
    /// The last matching lines, where a limit is set: more may follow, so they are not printed yet.
    kept: VecDeque<String>,
    limit: Option<usize>,
    has_header: bool,
    unreadable: u64,
    named: Vec<String>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a DecisionsArgs) -> Self {
        Self {
            args,
            out: BufWriter::new(io::stdout()),
            kept: VecDeque::new(),
            limit: args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            has_header: false,
            unreadable: 0,
            named: Vec::new(),
        }
    }

    /// Takes the whole lines of a file.
    fn read(&mut self, lines: &mut LineReader<impl BufRead>, name: &str) -> Result<(), Failure> {
        while let Some(line) = lines.next().map_err(|error| unreadable(name, &error))? {
            let line = String::from_utf8_lossy(line).into_owned();
            let number = lines.number();
            self.take(&line, name, number)?;
        }
        Ok(())
    }

    /// Takes what follows the last line end of a file.
    fn read_rest(
        &mut self,
        lines: &mut LineReader<impl BufRead>,
        name: &str,
    ) -> Result<(), Failure> {
        let number = lines.number() + 1;
        match lines.rest() {
            b"" => Ok(()),
            rest => {
                let rest = String::from_utf8_lossy(rest).into_owned();
                self.take(&rest, name, number)
            }
        }
    }

    fn take(&mut self, text: &str, name: &str, number: u64) -> Result<(), Failure> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let Ok(line) = serde_json::from_str::<LogLine>(text) else {
            self.unreadable += 1;
            let place = format!("{name} line {number}");
            if self.args.follow {
                note(&format!("unreadable: {}", clean(&place)));
            } else if self.unreadable <= NAMED {
                self.named.push(place);
            }
            return Ok(());
        };
        if !self.args.filter.matches(&line) {
            return Ok(());
        }
        let shown = match self.args.output.format {
            Format::Json => text.trim_end().to_owned(),
            Format::Text => line.row(),
        };
        match self.limit {
            None => self.print(&shown),
            Some(limit) => {
                if self.kept.len() == limit {
                    self.kept.pop_front();
                }
                self.kept.push_back(shown);
                Ok(())
            }
        }
    }

    fn print(&mut self, line: &str) -> Result<(), Failure> {
        if !self.has_header && self.args.output.format == Format::Text {
            writeln!(self.out, "{}", filter::header()).map_err(Failure::Output)?;
        }
        self.has_header = true;
        writeln!(self.out, "{line}").map_err(Failure::Output)
    }

    /// Prints what the limit held back: from now on everything is new.
    fn print_kept(&mut self) -> Result<(), Failure> {
        self.limit = None;
        for line in std::mem::take(&mut self.kept) {
            self.print(&line)?;
        }
        self.out.flush().map_err(Failure::Output)
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.print_kept()?;
        if !self.has_header && self.args.output.format == Format::Text {
            note("no line of the decision log matches");
        }
        if self.unreadable > 0 {
            let more = if self.unreadable > NAMED { ", ..." } else { "" };
            let named = clean(&self.named.join(", ")).into_owned();
            note(&format!("unreadable lines: {} ({named}{more})", self.unreadable));
        }
        Ok(())
    }
}
