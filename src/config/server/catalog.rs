//! The catalogue file that a store without a catalogue gets.

use std::fs;
use std::path::Path;

use super::errors::ConfigErrors;
use crate::policy::catalog_file;

/// The catalogue that is used where no file is named.
pub const BUILT_IN_CATALOG: &str = include_str!("../../../catalogs/mercury.toml");
/// The most errors of a file that are named; a last line counts the others.
const CATALOG_ERRORS: usize = 100;

/// The text of the file at `path`, or the built-in one, checked.
pub(super) fn read(path: Option<&Path>, errors: &mut ConfigErrors) -> String {
    let Some(path) = path else { return BUILT_IN_CATALOG.to_owned() };
    let shown = path.display();
    let catalog = match fs::read_to_string(path) {
        Ok(catalog) => catalog,
        Err(error) => {
            errors.add(format!("--catalog: cannot read {shown}: {error}"));
            return String::new();
        }
    };
    if let Err(found) = catalog_file::parse(&catalog) {
        for error in found.iter().take(CATALOG_ERRORS) {
            errors.add(format!("--catalog: {shown}: {error}"));
        }
        if let more @ 1.. = found.len().saturating_sub(CATALOG_ERRORS) {
            errors.add(format!(
                "--catalog: {shown}: and {more} more: `portcullis catalog check FILE` names every one"
            ));
        }
    }
    catalog
}
