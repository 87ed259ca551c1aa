//! The catalogue in force, as decisions and answers need it.

use std::collections::HashMap;

use super::StoredCatalog;
use crate::policy::catalog_file;
use crate::policy::scope::{Catalog, ScopeId, ScopeName};
use crate::policy::time::Timestamp;

/// A catalogue in force, ready for decisions.
#[derive(Debug)]
pub struct ActiveCatalog {
    /// What decisions ask.
    pub catalog: Catalog,
    /// The file as it was applied.
    pub toml: String,
    /// When.
    pub applied: Timestamp,
    names: HashMap<ScopeId, ScopeName>,
}

/// The stored catalogue is invalid: the store was changed by something else than Portcullis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoredCatalog {
    /// The first error of the file.
    #[error("the stored catalogue is invalid: {0}")]
    File(String),
    /// A scope was never given a number.
    #[error("the scope {0} has no number")]
    UnnumberedScope(ScopeName),
}

impl ActiveCatalog {
    /// Reads a catalogue that was valid when it was applied, maybe by an earlier version.
    ///
    /// # Errors
    /// [`InvalidStoredCatalog`] where it is invalid or a scope has no number.
    pub fn read(stored: StoredCatalog) -> Result<Self, InvalidStoredCatalog> {
        let defs = catalog_file::parse_stored(&stored.toml)
            .map_err(|errors| InvalidStoredCatalog::File(errors[0].to_string()))?;
        let number = |name: &str| {
            stored.scope_ids.iter().find(|(known, _)| known.as_str() == name).map(|&(_, id)| id)
        };
        if let Some(def) = defs.iter().find(|def| number(def.name.as_str()).is_none()) {
            return Err(InvalidStoredCatalog::UnnumberedScope(def.name.clone()));
        }
        let catalog = Catalog::new(stored.version, defs, |name| {
            number(name.as_str()).unwrap_or(ScopeId(u16::MAX))
        });
        let names = stored.scope_ids.into_iter().map(|(name, id)| (id, name)).collect();
        Ok(Self { catalog, toml: stored.toml, applied: stored.applied, names })
    }

    /// The name of a scope that is in the catalogue or was in an earlier one.
    pub fn name_of(&self, id: ScopeId) -> Option<&ScopeName> {
        self.names.get(&id)
    }
}
