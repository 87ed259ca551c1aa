//! The catalogue file that a store without a catalogue gets.

use std::fs;
use std::path::Path;

use super::faults::ConfigErrors;
use crate::policy::{catalog_file, text};

/// The catalogue that is used where no file is named.
pub const BUILT_IN_CATALOG: &str = include_str!("../../../catalogs/mercury.toml");
/// The most errors of a file that are named; a last line counts the others.
const CATALOG_FAULTS: usize = 100;

/// The text of the file at `path`, or the built-in one, checked.
pub(super) fn read(path: Option<&Path>, faults: &mut ConfigErrors) -> String {
    let Some(path) = path else { return BUILT_IN_CATALOG.to_owned() };
    let shown = path.display();
    let catalog = match fs::read_to_string(path) {
        Ok(catalog) => catalog,
        Err(error) => {
            faults.add(format!("--catalog: cannot read {shown}: {error}"));
            return String::new();
        }
    };
    match catalog_file::parse(&catalog) {
        Ok(defs) => {
            for def in &defs {
                if let Err(error) = text::check(&def.description) {
                    let name = &def.name;
                    faults.add(format!(
                        "--catalog: {shown}: scope \"{name}\": the description {error}"
                    ));
                }
            }
        }
        Err(found) => {
            for fault in found.iter().take(CATALOG_FAULTS) {
                faults.add(format!("--catalog: {shown}: {fault}"));
            }
            if let more @ 1.. = found.len().saturating_sub(CATALOG_FAULTS) {
                faults.add(format!(
                    "--catalog: {shown}: and {more} more: `portcullis catalog check FILE` names every one"
                ));
            }
        }
    }
    catalog
}
