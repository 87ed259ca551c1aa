//! What changes for tokens when one catalogue replaces another.
//!
//! What must stay true: every request whose scope changes is accounted for, also where a route that
//! was added or removed hands requests to, or takes them from, a route that itself stayed, or makes
//! it ambiguous. Requests in other spellings than those of their route (docs/policy.md, rule 2.23)
//! are not: no route promises them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Access, Catalog, Holder, Scope, ScopeId, ScopeName, ScopeRoute};
use crate::policy::route::{Route, Unresolved};

/// What one change does to the tokens of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// Some request is allowed that was not.
    pub gains: bool,
    /// Some request is denied that was allowed.
    pub loses: bool,
}

/// What one change does to tokens, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// To every `READ_ONLY` token, downgraded ones included.
    pub read_only: Effect,
    /// To every `READ_WRITE` token.
    pub read_write: Effect,
    /// To every `CUSTOM` token that holds the scope (a taken scope is not held); to no other.
    pub custom: Effect,
}

/// What became of one scope.
///
/// | change | `READ_ONLY` | `READ_WRITE` | `CUSTOM` that holds the scope |
/// | --- | --- | --- | --- |
/// | `Added` | gain it if it reads | gain it | nobody holds it yet |
/// | `Dropped` | lose it if it read | lose it | lose it |
/// | `BecameRead` | gain it | - | - |
/// | `BecameWrite` | lose it | - | - |
/// | `NowRequiresWhitelist` | - | -, they have one | without a whitelist: lose *everything* until one is set |
/// | `NoLongerRequiresWhitelist` | - | -, they need one still | gain, if denied for want of one that nothing else requires |
/// | `RoutesGained`, `PathsGained` | gain if it reads | gain unless they held another scope for it | gain |
/// | `RoutesLost`, `PathsLost` | lose if it read | lose unless they hold another scope for it | lose |
/// | `BecameAmbiguous` | lose if it read | lose | lose |
/// | `NoLongerAmbiguous` | gain if it reads | gain | gain |
/// | `DescriptionChanged` | - | - | - |
///
/// `READ_ONLY` and `READ_WRITE` tokens hold many scopes: for them a route that moves from one held
/// scope to another changes nothing, and [`ScopeChange::effects`] says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The scope is new, with all its routes.
    Added,
    /// The scope is gone, with all its routes.
    Dropped,
    /// Its access was write and is read. Using it no longer keeps a `READ_WRITE` token from its
    /// downgrade.
    BecameRead,
    /// Its access was read and is write.
    BecameWrite,
    /// Tokens that list it now need a whitelist.
    NowRequiresWhitelist,
    /// It alone no longer makes a token need a whitelist.
    NoLongerRequiresWhitelist,
    /// Routes it did not have, by shape; another scope may have had them. In file order.
    RoutesGained(Vec<Route>),
    /// Routes it no longer has, by shape; another scope may have them now. In file order.
    RoutesLost(Vec<Route>),
    /// Requests that come to a route it keeps, since another scope's route that came first is gone.
    PathsGained(Vec<Overlap>),
    /// Requests that no longer come to a route it keeps, since another scope's new route comes
    /// first.
    PathsLost(Vec<Overlap>),
    /// Routes it keeps, and that some request can't take any more: some servers read its path so that
    /// they run a route of another scope.
    BecameAmbiguous(Vec<Overlap>),
    /// Routes it keeps, and for whose own path that is over.
    NoLongerAmbiguous(Vec<Overlap>),
    /// Only what people read.
    DescriptionChanged,
}

/// Requests that two routes match, and that went from one to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The scope's own route, in both catalogues.
    pub route: Route,
    /// The route that is gone (it had the requests), or new (it has them), or that some servers run.
    pub other: Route,
    /// That route's scope.
    pub other_scope: ScopeName,
}

/// One thing that became of one scope. Whatever a catalogue change does to a scope besides is in
/// further ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeChange {
    /// Which scope.
    pub scope: ScopeName,
    /// Its number, the same in both catalogues.
    pub id: ScopeId,
    /// What became of it.
    pub change: Change,
    /// What that does to tokens.
    pub effects: Effects,
}

impl ScopeChange {
    /// Whether any token might lose anything: what an operator has to confirm.
    pub fn narrows(&self) -> bool {
        let Effects { read_only, read_write, custom } = self.effects;
        read_only.loses || read_write.loses || custom.loses
    }
}

/// What becomes of each scope when `new` replaces `old`: first the scopes of `new` in its order,
/// then those dropped. Empty if no decision changes and no description does (parameter names and
/// the order of scopes may).
///
/// Takes time in proportion to the routes that differ times all routes; thousands of routes
/// replaced by thousands may take seconds.
pub fn compare(old: &Catalog, new: &Catalog) -> Vec<ScopeChange> {
    let mut changes = Vec::new();
    let moves = moves(old, new);
    for scope in new.scopes() {
        let mut push = |change, effects| {
            changes.push(ScopeChange { scope: scope.name.clone(), id: scope.id, change, effects });
        };
        let Some(was) = old.by_name(scope.name.as_ref()) else {
            let gains = Effect { gains: true, loses: false };
            let read_only = if reads(Some(scope)) { gains } else { Effect::default() };
            push(Change::Added, Effects { read_only, read_write: gains, ..Effects::default() });
            continue;
        };
        attributes(was, scope, &mut push);
        routes(was, scope, &moves, &mut push);
    }
    for scope in old.scopes().iter().filter(|s| new.by_name(s.name.as_ref()).is_none()) {
        let loses = Effect { gains: false, loses: true };
        let read_only = if reads(Some(scope)) { loses } else { Effect::default() };
        changes.push(ScopeChange {
            scope: scope.name.clone(),
            id: scope.id,
            change: Change::Dropped,
            effects: Effects { read_only, read_write: loses, custom: loses },
        });
    }
    changes
}

fn reads(scope: Option<&Scope>) -> bool {
    scope.is_some_and(|scope| scope.access == Access::Read)
}

/// The changes to a scope that both catalogues have, other than those to its routes.
fn attributes(was: &Scope, is: &Scope, push: &mut impl FnMut(Change, Effects)) {
    let gains = Effect { gains: true, loses: false };
    let loses = Effect { gains: false, loses: true };
    match (was.access, is.access) {
        (Access::Write, Access::Read) => {
            push(Change::BecameRead, Effects { read_only: gains, ..Effects::default() });
        }
        (Access::Read, Access::Write) => {
            push(Change::BecameWrite, Effects { read_only: loses, ..Effects::default() });
        }
        _ => {}
    }
    match (was.requires_whitelist, is.requires_whitelist) {
        (false, true) => {
            push(Change::NowRequiresWhitelist, Effects { custom: loses, ..Effects::default() });
        }
        (true, false) => {
            push(
                Change::NoLongerRequiresWhitelist,
                Effects { custom: gains, ..Effects::default() },
            );
        }
        _ => {}
    }
    if was.description != is.description {
        push(Change::DescriptionChanged, Effects::default());
    }
}

/// Requests that change hands: whose they were, and whose they are.
struct Move<'c> {
    from: Holder<'c>,
    to: Holder<'c>,
}

impl Move<'_> {
    /// What the move means for the scope that had the requests.
    fn taken(&self, effects: &mut Effects) {
        let was_read = reads(scope(self.from));
        effects.custom.loses = true;
        effects.read_write.loses |= self.to.is_err();
        effects.read_only.loses |= was_read && !reads(scope(self.to));
    }

    /// What the move means for the scope that has the requests.
    fn given(&self, effects: &mut Effects) {
        let was_read = reads(scope(self.from));
        effects.custom.gains = true;
        effects.read_write.gains |= self.from.is_err();
        effects.read_only.gains |= !was_read && reads(scope(self.to));
    }
}

fn scope(holder: Holder<'_>) -> Option<&Scope> {
    holder.ok().map(|holder| holder.scope)
}

/// Every pair of routes of differing scopes between which requests move, once.
///
/// Of the routes that match a path, the one that wins does not depend on what else the table holds.
/// So requests go from route `a` to route `b` exactly if one of the plainest paths that both match
/// does ([`Route::common_paths`]: any further route that matches it also matches every other path of
/// as many segments that they share), and routes that both catalogues have never change places. That
/// leaves one path for each route, and one for each pair of which one side came or went; two
/// catch-alls have one for each number of segments.
fn moves<'c>(old: &'c Catalog, new: &'c Catalog) -> Vec<Move<'c>> {
    let old_shapes = shapes(old);
    let new_shapes = shapes(new);
    let mut paths = HashSet::new();
    let mut meet = |a: &Route, b: &Route| {
        paths.extend(a.common_paths(b).into_iter().map(|path| (a.method().clone(), path)));
    };
    for route in old_shapes.values().chain(new_shapes.values()) {
        meet(route, route);
    }
    let gone = old_shapes.iter().filter(|(shape, _)| !new_shapes.contains_key(*shape));
    for (_, a) in gone {
        new_shapes.values().for_each(|b| meet(a, b));
    }
    let came = new_shapes.iter().filter(|(shape, _)| !old_shapes.contains_key(*shape));
    for (_, b) in came {
        old_shapes.values().for_each(|a| meet(a, b));
    }
    // Ordered, so that the same change always reads the same.
    let mut moves = BTreeMap::new();
    for (method, path) in &paths {
        let from = old.holder(method.as_str(), path);
        let to = new.holder(method.as_str(), path);
        if scope(from).map(|scope| &scope.name) != scope(to).map(|scope| &scope.name) {
            let route = |holder: Holder<'c>| holder.ok().map(|holder| holder.route);
            moves.insert((route(from), route(to)), Move { from, to });
        }
    }
    moves.into_values().collect()
}

fn shapes(catalog: &Catalog) -> HashMap<String, &Route> {
    let routes = catalog.scopes().iter().flat_map(|scope| &scope.routes);
    routes.map(|route| (route.shape(), route)).collect()
}

/// Of two routes of different scopes, the one that is not of `scope`.
fn of_another<'c>(scope: &Scope, one: ScopeRoute<'c>, other: ScopeRoute<'c>) -> ScopeRoute<'c> {
    if other.scope.name == scope.name { one } else { other }
}

/// The changes to the routes of a scope that both catalogues have.
fn routes(was: &Scope, is: &Scope, moves: &[Move<'_>], push: &mut impl FnMut(Change, Effects)) {
    let had: HashSet<_> = was.routes.iter().map(Route::shape).collect();
    let has: HashSet<_> = is.routes.iter().map(Route::shape).collect();
    let keeps = |route: &Route| {
        let shape = route.shape();
        had.contains(&shape) && has.contains(&shape)
    };
    let mut gained = Effects::default();
    let mut lost = Effects::default();
    let mut paths_gained = (Vec::new(), Effects::default());
    let mut paths_lost = (Vec::new(), Effects::default());
    let mut ambiguous = (Vec::new(), Effects::default());
    let mut unambiguous = (Vec::new(), Effects::default());
    for step in moves {
        let overlap = |route: &Route, other: ScopeRoute<'_>| Overlap {
            route: route.clone(),
            other: other.route.clone(),
            other_scope: other.scope.name.clone(),
        };
        match (step.from, step.to) {
            (Ok(own), to) if own.scope.name == is.name => match to {
                Ok(other) if keeps(own.route) => {
                    paths_lost.0.push(overlap(own.route, other));
                    step.taken(&mut paths_lost.1);
                }
                Err(Unresolved::Ambiguous { own: one, other }) if keeps(own.route) => {
                    ambiguous.0.push(overlap(own.route, of_another(is, one, other)));
                    step.taken(&mut ambiguous.1);
                }
                _ => step.taken(&mut lost),
            },
            (from, Ok(own)) if own.scope.name == is.name => match from {
                Ok(other) if keeps(own.route) => {
                    paths_gained.0.push(overlap(own.route, other));
                    step.given(&mut paths_gained.1);
                }
                Err(Unresolved::Ambiguous { own: one, other }) if keeps(own.route) => {
                    unambiguous.0.push(overlap(own.route, of_another(is, one, other)));
                    step.given(&mut unambiguous.1);
                }
                _ => step.given(&mut gained),
            },
            _ => {}
        }
    }
    let missing = |routes: &[Route], from: &HashSet<String>| {
        routes.iter().filter(|r| !from.contains(&r.shape())).cloned().collect::<Vec<_>>()
    };
    let new_routes = missing(&is.routes, &had);
    let old_routes = missing(&was.routes, &has);
    if !new_routes.is_empty() {
        push(Change::RoutesGained(new_routes), gained);
    }
    if !old_routes.is_empty() {
        push(Change::RoutesLost(old_routes), lost);
    }
    if !paths_gained.0.is_empty() {
        push(Change::PathsGained(paths_gained.0), paths_gained.1);
    }
    if !paths_lost.0.is_empty() {
        push(Change::PathsLost(paths_lost.0), paths_lost.1);
    }
    if !unambiguous.0.is_empty() {
        push(Change::NoLongerAmbiguous(unambiguous.0), unambiguous.1);
    }
    if !ambiguous.0.is_empty() {
        push(Change::BecameAmbiguous(ambiguous.0), ambiguous.1);
    }
}

#[cfg(test)]
mod tests;
