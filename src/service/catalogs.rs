//! The catalogue: reading it, replacing it, and what replacing it does to tokens.
//!
//! Must stay true: nothing that tokens lose is lost without `confirm_narrowing`; a scope that an
//! active `CUSTOM` token may use is never dropped.

use std::fmt::Write as _;
use std::sync::Arc;

use super::error::Obstacle;
use super::{Caller, Error, Propagation, Result, Services, wait_unless};
use crate::model::{ActiveCatalog, GrantCounts, Invalidation, ScopesInUse};
use crate::policy::catalog_file;
use crate::policy::scope::{
    Catalog, Change, Effect, Overlap, ScopeChange, ScopeId, ScopeName, compare,
};
use crate::store::StoreError;

/// The most warnings in an answer; a last one counts the others.
const MAX_WARNINGS: usize = 100;

/// What `ApplyCatalog` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct ApplyCatalog<'a> {
    /// The file.
    pub toml: &'a str,
    /// Check only.
    pub validate_only: bool,
    /// Go ahead although tokens lose something.
    pub confirm_narrowing: bool,
    /// Answer before the change has propagated.
    pub no_wait: bool,
}

/// What happens to one scope, and whom it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    /// The scope.
    pub scope: ScopeName,
    /// What happens to it, in a sentence.
    pub summary: String,
    /// How many active tokens may do more because of it.
    pub gaining: i64,
    /// How many may do less.
    pub losing: i64,
}

/// What applying a catalogue did, or would do.
#[derive(Debug)]
pub struct AppliedCatalog {
    /// The version in force.
    pub version: i64,
    /// What differs.
    pub impacts: Vec<Impact>,
    /// What is likely not meant, in sentences.
    pub warnings: Vec<String>,
    /// How far the change has propagated; `None` where nothing was changed.
    pub propagation: Option<Propagation>,
    /// The revision of the store that includes the change; 0 where nothing was changed.
    pub revision: i64,
}

impl Services {
    /// The catalogue in force.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while it is not known.
    pub fn get_catalog(&self) -> Result<Arc<ActiveCatalog>> {
        self.in_force()
    }

    /// Replaces the catalogue, or says what replacing it would do.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every error of the file, [`Error::Refused`] where tokens would lose
    /// something and that was not confirmed, or a scope in use would be dropped; the store's.
    pub async fn apply_catalog(
        &self,
        caller: &Caller,
        request: ApplyCatalog<'_>,
    ) -> Result<AppliedCatalog> {
        let defs = catalog_file::parse(request.toml).map_err(|errors| {
            let violation = |error: &catalog_file::CatalogError| super::error::Violation {
                field: "toml".to_owned(),
                description: error.to_string(),
                reason: "FAULTY_CATALOG",
            };
            Error::Invalid(errors.iter().map(violation).collect())
        })?;
        let names: Vec<_> = defs.iter().map(|def| def.name.clone()).collect();

        let current = self.in_force()?;
        let old = &current.catalog;
        // New names get numbers of their own here, which live no longer than the comparison.
        let mut free = u16::MAX;
        let next = Catalog::new(old.version(), defs, |name| match old.by_name(name.as_str()) {
            Some(scope) => scope.id,
            None => {
                while old.by_id(ScopeId(free)).is_some() {
                    free -= 1;
                }
                free -= 1;
                ScopeId(free + 1)
            }
        });
        // Comparing thousands of routes takes a while, so other calls must not wait for it.
        let (changes, warnings) = {
            let current = current.clone();
            let compare = move || (compare(&current.catalog, &next), warnings(&next));
            tokio::task::spawn_blocking(compare).await.map_err(|_| Error::Internal)?
        };
        let counts = self.read("count_grants", self.store.count_grants()).await?;
        let impacts: Vec<_> = changes.iter().map(|change| impact(change, &counts)).collect();
        refuse_dropping(&changes, &counts)?;

        let unchanged = impacts.is_empty() && request.toml == current.toml;
        if request.validate_only {
            return Ok(AppliedCatalog {
                version: old.version(),
                impacts,
                warnings,
                propagation: None,
                revision: 0,
            });
        }
        if unchanged {
            let ctx = caller.context(self.clock.now());
            self.writes.await_pending_changes(&ctx).await?;
            let propagation = Some(self.propagation(wait_unless(request.no_wait)).await?);
            let (version, revision) = (old.version(), ctx.revision());
            return Ok(AppliedCatalog { version, impacts, warnings, propagation, revision });
        }
        if !request.confirm_narrowing {
            refuse_narrowing(&impacts)?;
        }
        let ctx = caller.context(self.clock.now());
        let apply = self.store.apply_catalog(&ctx, Some(old.version()), request.toml, &names);
        match self.writes.commit("apply_catalog", Invalidation::Catalog, &ctx, apply).await {
            Ok(Ok(stored)) => {
                let propagation = Some(self.propagation(wait_unless(request.no_wait)).await?);
                let (version, revision) = (stored.version, ctx.revision());
                Ok(AppliedCatalog { version, impacts, warnings, propagation, revision })
            }
            Ok(Err(in_use)) => Err(still_listed(&in_use)),
            Err(StoreError::StaleCatalog) => Err(Error::Aborted(
                "somebody replaced the catalogue meanwhile: read it, then decide again".into(),
            )),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is likely not meant: routes that no request can take, and routes that only a trailing slash
/// keeps apart (docs/policy.md, rules 1.15 and 1.18).
fn warnings(catalog: &Catalog) -> Vec<String> {
    let ambiguous = catalog.ambiguous_routes();
    let ambiguous = ambiguous.iter().map(|(own, other)| {
        format!(
            "scope {}: every request to {} is denied as ambiguous, since some servers run {} of \
             scope {} instead: give both routes to one scope, or leave one out",
            own.scope.name, own.route, other.route, other.scope.name
        )
    });
    let apart = catalog.routes_apart_by_slash();
    let apart = apart.iter().map(|(one, other)| {
        format!(
            "scope {}: only the last \"/\" keeps {} apart from {} of scope {}, and many servers \
             disregard it: give both routes to one scope, unless the service heeds it",
            one.scope.name, one.route, other.route, other.scope.name
        )
    });
    let mut warnings: Vec<_> = ambiguous.chain(apart).collect();
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("and {more} more warnings like these"));
    }
    warnings
}

fn impact(change: &ScopeChange, counts: &GrantCounts) -> Impact {
    let (custom, bare) = counts
        .custom
        .iter()
        .find(|(id, _, _)| *id == change.id)
        .map_or((0, 0), |&(_, all, bare)| (all, bare));
    // A scope that begins or ceases to need a whitelist touches those that have none.
    let custom = match change.change {
        Change::NowRequiresWhitelist | Change::NoLongerRequiresWhitelist => bare,
        _ => custom,
    };
    let count = |of: fn(&Effect) -> bool| {
        let effects = &change.effects;
        [
            (&effects.read_only, counts.read_only),
            (&effects.read_write, counts.read_write),
            (&effects.custom, custom),
        ]
        .into_iter()
        .filter(|(effect, _)| of(effect))
        .map(|(_, tokens)| tokens)
        .sum()
    };
    Impact {
        scope: change.scope.clone(),
        summary: summary(&change.change),
        gaining: count(|effect| effect.gains),
        losing: count(|effect| effect.loses),
    }
}

fn summary(change: &Change) -> String {
    fn list<T>(what: &str, items: &[T], show: impl Fn(&T) -> String) -> String {
        const SHOWN: usize = 5;
        let mut text = what.to_owned();
        for (at, item) in items.iter().take(SHOWN).enumerate() {
            let gap = if at == 0 { " " } else { ", " };
            // Writing to a String can't fail.
            let _ = write!(text, "{gap}{}", show(item));
        }
        if items.len() > SHOWN {
            let _ = write!(text, " and {} more", items.len() - SHOWN);
        }
        text
    }
    let ambiguity = |overlap: &Overlap| {
        format!("{} (some servers run {} of {})", overlap.route, overlap.other, overlap.other_scope)
    };
    match change {
        Change::Added => "new".to_owned(),
        Change::Dropped => "dropped".to_owned(),
        Change::BecameRead => "access becomes read".to_owned(),
        Change::BecameWrite => "access becomes write".to_owned(),
        Change::NowRequiresWhitelist => {
            "requires a whitelist from now on: tokens without one are denied until one is set"
                .to_owned()
        }
        Change::NoLongerRequiresWhitelist => "no longer requires a whitelist".to_owned(),
        Change::RoutesGained(routes) => list("gains", routes, ToString::to_string),
        Change::RoutesLost(routes) => list("loses", routes, ToString::to_string),
        Change::PathsGained(overlaps) => list("gains requests of", overlaps, |overlap| {
            format!("{} (from {})", overlap.other, overlap.other_scope)
        }),
        Change::PathsLost(overlaps) => list("loses requests of", overlaps, |overlap| {
            format!("{} (to {})", overlap.other, overlap.other_scope)
        }),
        Change::BecameAmbiguous(overlaps) => {
            list("denies as ambiguous from now on:", overlaps, ambiguity)
        }
        Change::NoLongerAmbiguous(overlaps) => {
            list("no longer denies as ambiguous:", overlaps, ambiguity)
        }
        Change::DescriptionChanged => "description changes".to_owned(),
    }
}

/// Rule 1.7 of docs/policy.md.
fn refuse_dropping(changes: &[ScopeChange], counts: &GrantCounts) -> Result<()> {
    let in_use: Vec<_> = changes
        .iter()
        .filter(|change| matches!(change.change, Change::Dropped))
        .filter_map(|change| {
            let (_, tokens, _) = counts.custom.iter().find(|(id, _, _)| *id == change.id)?;
            (*tokens > 0).then(|| (change.scope.clone(), *tokens))
        })
        .collect();
    if in_use.is_empty() { Ok(()) } else { Err(still_listed(&ScopesInUse(in_use))) }
}

fn still_listed(ScopesInUse(in_use): &ScopesInUse) -> Error {
    let obstacle = |(scope, tokens): &(ScopeName, i64)| Obstacle {
        rule: "SCOPE_IN_USE",
        subject: format!("scopes/{scope}"),
        description: format!(
            "{tokens} active CUSTOM token(s) list the scope {scope}: keep it, or delete them first"
        ),
    };
    Error::Refused(in_use.iter().map(obstacle).collect(), Vec::new())
}

/// Rule 1.7 of docs/policy.md.
fn refuse_narrowing(impacts: &[Impact]) -> Result<()> {
    let obstacles: Vec<_> = impacts
        .iter()
        .filter(|impact| impact.losing > 0)
        .map(|impact| Obstacle {
            rule: "NARROWING_NOT_CONFIRMED",
            subject: format!("scopes/{}", impact.scope),
            description: format!(
                "{}: {}; {} active token(s) lose by it: set confirm_narrowing if that is meant",
                impact.scope, impact.summary, impact.losing
            ),
        })
        .collect();
    if obstacles.is_empty() { Ok(()) } else { Err(Error::Refused(obstacles, Vec::new())) }
}
