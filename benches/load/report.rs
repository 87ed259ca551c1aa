//! The table that a run prints.

use std::fmt::Write as _;

/// What a figure must be.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Only told.
    None,
}

struct Row {
    what: String,
    ours: String,
    other: String,
    figure: String,
    target: String,
    verdict: &'static str,
}

/// Rows as they come.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    pub missed: usize,
}

impl Report {
    /// Adds a figure, and says it at once.
    pub fn add(&mut self, what: &str, ours: String, other: String, figure: f64, target: Target) {
        let (target, met) = match target {
            Target::AtLeast(least) => (format!(">= {least}"), Some(figure >= least)),
            Target::AtMost(most) => (format!("<= {most}"), Some(figure <= most)),
            Target::None => (String::new(), None),
        };
        let verdict = match met {
            Some(true) => "PASS",
            Some(false) => "miss",
            None => "",
        };
        self.missed += usize::from(met == Some(false));
        let figure = format!("{figure:.2}");
        eprintln!("{what}: {ours} | {other} | {figure} {target} {verdict}");
        self.rows.push(Row { what: what.to_owned(), ours, other, figure, target, verdict });
    }

    /// Something that could not be measured.
    pub fn failed(&mut self, what: &str, why: &str) {
        self.missed += 1;
        eprintln!("{what}: FAILED: {why}");
        self.rows.push(Row {
            what: what.to_owned(),
            ours: why.to_owned(),
            other: String::new(),
            figure: String::new(),
            target: String::new(),
            verdict: "FAILED",
        });
    }

    /// The whole table, as Markdown.
    pub fn table(&self) -> String {
        let mut text = "| what | Portcullis | compared with | figure | target | |\n\
                        | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for Row { what, ours, other, figure, target, verdict } in &self.rows {
            let _ =
                writeln!(text, "| {what} | {ours} | {other} | {figure} | {target} | {verdict} |");
        }
        text
    }
}

/// The middle one; the lower of two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
