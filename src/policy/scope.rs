//! Scopes and the catalogue: every permission there is, and the operations each one covers.
//!
//! What must stay true: a catalogue is complete and never changes; a new one replaces it as a
//! whole. A scope's id is a number that its name keeps forever, so that a token's scopes still mean
//! the same after any catalogue change. [`compare`] never calls a change harmless that takes an
//! operation from a token.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::route::{Route, RouteTable, Unresolved};

mod change;
pub use change::{Change, Effect, Effects, Overlap, ScopeChange, compare};

/// The longest scope name, in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// A scope's name: 1 to [`MAX_NAME_LEN`] of `a-z`, `0-9`, `_`, `.` and `-`. Cheap to clone.
/// Rule 1.2 of docs/policy.md.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeName(Arc<str>);

/// A text that is no scope name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a scope name: 1 to {MAX_NAME_LEN} of a-z, 0-9, \"_\", \".\" and \"-\"")]
pub struct InvalidScopeName;

impl ScopeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScopeName {
    type Err = InvalidScopeName;

    fn from_str(text: &str) -> Result<Self, InvalidScopeName> {
        let valid = (1..=MAX_NAME_LEN).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'));
        if valid { Ok(Self(text.into())) } else { Err(InvalidScopeName) }
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// So that a map keyed by names can be asked with a text: both compare and hash alike.
impl Borrow<str> for ScopeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ScopeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The number that the store gives a scope's name, for good: it is never given to another name, not
/// even after the scope left the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u16);

/// What using a scope amounts to. Data of the scope, never derived from an HTTP method.
/// Rule 1.3 of docs/policy.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Looks, and changes nothing; `READ_ONLY` tokens may.
    Read,
    /// Changes something, or shows what only a token that may write should see.
    Write,
}

impl Access {
    /// The word for it in a catalogue file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scope as a catalogue file states it, before the store numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeDef {
    /// Unique in the file.
    pub name: ScopeName,
    /// What using it amounts to.
    pub access: Access,
    /// Whether a token that lists it needs a whitelist. Only where `access` is write.
    pub requires_whitelist: bool,
    /// For people; may be empty.
    pub description: String,
    /// The operations it covers, in file order. No shape occurs twice in a file.
    pub routes: Vec<Route>,
}

/// A scope of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The number its name has forever.
    pub id: ScopeId,
    /// Unique in the catalogue.
    pub name: ScopeName,
    /// What using it amounts to.
    pub access: Access,
    /// Whether a token that lists it needs a whitelist. Only where `access` is write.
    pub requires_whitelist: bool,
    /// For people; may be empty.
    pub description: Box<str>,
    /// The operations it covers, in file order.
    pub routes: Box<[Route]>,
}

/// A set of scopes, one bit each. Ids below 64 need no allocation; beyond, the set takes one byte
/// for every 8 ids up to its largest, so 8 KiB at most.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ScopeSet {
    first: u64,
    /// Ids from 64 up, 64 to a word. The last word is never zero: equal sets have equal words.
    rest: Box<[u64]>,
}

impl ScopeSet {
    /// The word an id is in (0 is `first`) and its bit there.
    fn place(id: ScopeId) -> (usize, u64) {
        (usize::from(id.0 / 64), 1 << (id.0 % 64))
    }

    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.first).chain(self.rest.iter().copied())
    }

    fn from_words(first: u64, mut rest: Vec<u64>) -> Self {
        while rest.last() == Some(&0) {
            rest.pop();
        }
        Self { first, rest: rest.into() }
    }

    /// Whether `id` is in the set.
    #[inline]
    pub fn contains(&self, id: ScopeId) -> bool {
        let (word, bit) = Self::place(id);
        let word = match word.checked_sub(1) {
            None => self.first,
            Some(i) => self.rest.get(i).copied().unwrap_or(0),
        };
        word & bit != 0
    }

    /// Adds `id`; says whether it was absent.
    pub fn insert(&mut self, id: ScopeId) -> bool {
        let absent = !self.contains(id);
        let (word, bit) = Self::place(id);
        match word.checked_sub(1) {
            None => self.first |= bit,
            Some(i) => {
                if i >= self.rest.len() {
                    let mut longer = std::mem::take(&mut self.rest).into_vec();
                    longer.resize(i + 1, 0);
                    self.rest = longer.into();
                }
                self.rest[i] |= bit;
            }
        }
        absent
    }

    /// Whether the sets share a scope.
    pub fn intersects(&self, other: &Self) -> bool {
        self.words().zip(other.words()).any(|(a, b)| a & b != 0)
    }

    /// Whether every scope of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.rest.len() <= other.rest.len()
            && self.words().zip(other.words()).all(|(a, b)| a & !b == 0)
    }

    /// The scopes in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (long, short) =
            if self.rest.len() < other.rest.len() { (other, self) } else { (self, other) };
        let mut rest = long.rest.clone();
        rest.iter_mut().zip(&short.rest).for_each(|(a, b)| *a |= b);
        Self { first: self.first | other.first, rest }
    }

    /// The scopes in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let rest = self.rest.iter().zip(&other.rest).map(|(a, b)| a & b).collect();
        Self::from_words(self.first & other.first, rest)
    }

    /// The scopes of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.rest.to_vec();
        rest.iter_mut().zip(&other.rest).for_each(|(a, b)| *a &= !b);
        Self::from_words(self.first & !other.first, rest)
    }

    /// Every scope of the set, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = ScopeId> + '_ {
        // A set's largest id is a u16, so there are at most 1,024 words.
        self.words().zip(0u16..).flat_map(|(mut word, i)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as u16)?;
                word &= word - 1;
                Some(ScopeId(i * 64 + bit))
            })
        })
    }

    /// Whether the set has no scope.
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.is_empty()
    }

    /// How many scopes the set has.
    pub fn len(&self) -> usize {
        self.words().map(|word| word.count_ones() as usize).sum()
    }
}

impl FromIterator<ScopeId> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = ScopeId>>(ids: I) -> Self {
        let mut set = Self::default();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|id| id.0)).finish()
    }
}

/// A route with its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeRoute<'c> {
    /// The scope.
    pub scope: &'c Scope,
    /// One of its routes.
    pub route: &'c Route,
}

/// What a catalogue resolves a request to.
type Holder<'c> = Result<ScopeRoute<'c>, Unresolved<ScopeRoute<'c>>>;

/// All scopes with their routes: what a request's operation is looked up in.
#[derive(Debug, Clone)]
pub struct Catalog {
    version: i64,
    scopes: Box<[Scope]>,
    by_name: HashMap<ScopeName, usize>,
    /// Sorted by id.
    by_id: Box<[(ScopeId, usize)]>,
    /// To each route, the places of its scope and of itself in that scope.
    routes: RouteTable<(usize, usize)>,
    requiring_whitelist: ScopeSet,
    reading: ScopeSet,
}

impl Catalog {
    /// Builds the catalogue that the store knows as `version` from `defs`, which `catalog_file` has
    /// checked: no name and no route shape occurs twice (of two, the first would stand).
    /// `id_of` gives each name its number, and is called once for each in the order of `defs`.
    pub fn new(
        version: i64,
        defs: Vec<ScopeDef>,
        mut id_of: impl FnMut(&ScopeName) -> ScopeId,
    ) -> Self {
        let scopes: Box<[Scope]> = defs
            .into_iter()
            .map(|def| Scope {
                id: id_of(&def.name),
                name: def.name,
                access: def.access,
                requires_whitelist: def.requires_whitelist,
                description: def.description.into(),
                routes: def.routes.into(),
            })
            .collect();
        let mut by_name = HashMap::with_capacity(scopes.len());
        let mut routes = RouteTable::default();
        for (i, scope) in scopes.iter().enumerate() {
            by_name.entry(scope.name.clone()).or_insert(i);
            for (j, route) in scope.routes.iter().enumerate() {
                // A conflict can't occur in checked definitions; the first would stay.
                let _ = routes.insert(route, (i, j));
            }
        }
        let mut by_id: Box<[_]> = scopes.iter().enumerate().map(|(i, s)| (s.id, i)).collect();
        by_id.sort();
        let ids = |wanted: fn(&Scope) -> bool| {
            scopes.iter().filter(|scope| wanted(scope)).map(|scope| scope.id).collect()
        };
        Self {
            version,
            requiring_whitelist: ids(|scope| scope.requires_whitelist),
            reading: ids(|scope| scope.access == Access::Read),
            by_name,
            by_id,
            routes,
            scopes,
        }
    }

    /// The store's number for this catalogue.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Every scope, in the order of the file.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The scope with this name.
    pub fn by_name(&self, name: &str) -> Option<&Scope> {
        self.by_name.get(name).map(|&i| &self.scopes[i])
    }

    /// The scope with this number; `None` too for one that an earlier catalogue had.
    pub fn by_id(&self, id: ScopeId) -> Option<&Scope> {
        let i = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(&self.scopes[self.by_id[i].1])
    }

    /// The scope that an HTTP request needs; see [`RouteTable::resolve`].
    ///
    /// # Errors
    /// The request needs none, or may need another one.
    pub fn resolve(&self, method: &str, path: &str) -> Result<&Scope, Unresolved<ScopeRoute<'_>>> {
        self.place(method, path).map(|&(i, _)| &self.scopes[i])
    }

    /// The route that an HTTP request takes; `None` where [`Self::resolve`] gives no scope.
    pub fn route(&self, method: &str, path: &str) -> Option<&Route> {
        self.place(method, path).ok().map(|&(i, j)| &self.scopes[i].routes[j])
    }

    /// The scope that an HTTP request needs, with the route that it takes.
    fn holder(&self, method: &str, path: &str) -> Holder<'_> {
        self.place(method, path).map(|place| self.at(place))
    }

    fn place(
        &self,
        method: &str,
        path: &str,
    ) -> Result<&(usize, usize), Unresolved<ScopeRoute<'_>>> {
        let one_scope = |(a, _): &(usize, usize), (b, _): &(usize, usize)| a == b;
        self.routes
            .resolve(method, path, one_scope)
            .map_err(|unresolved| unresolved.map(|place| self.at(place)))
    }

    fn at(&self, &(i, j): &(usize, usize)) -> ScopeRoute<'_> {
        let scope = &self.scopes[i];
        ScopeRoute { scope, route: &scope.routes[j] }
    }

    /// Every route that no request can take, since some servers read its own path so that they run a
    /// route of another scope (docs/policy.md, rule 1.15), with that route.
    pub fn ambiguous_routes(&self) -> Vec<(ScopeRoute<'_>, ScopeRoute<'_>)> {
        let routes = self.scopes.iter().flat_map(|scope| &scope.routes);
        let ambiguous = routes.filter_map(|route| {
            let mut found = None;
            for path in route.common_paths(route) {
                match self.holder(route.method().as_str(), &path) {
                    Ok(own) if own.route == route => return None,
                    Err(Unresolved::Ambiguous { own, other }) if own.route == route => {
                        found.get_or_insert((own, other));
                    }
                    _ => {}
                }
            }
            found
        });
        ambiguous.collect()
    }

    /// Every route whose own requests come to a route of another scope if their last slash is left
    /// out or added, as some servers do (docs/policy.md, rule 1.18), with that route. Each pair once.
    pub fn routes_apart_by_slash(&self) -> Vec<(ScopeRoute<'_>, ScopeRoute<'_>)> {
        let mut pairs = Vec::new();
        let mut known = HashSet::new();
        for scope in &self.scopes {
            for route in &scope.routes {
                let other = route.with_other_ending();
                let found = other.common_paths(&other).into_iter().find_map(|path| {
                    let holder = self.holder(other.method().as_str(), &path).ok()?;
                    (holder.scope.id != scope.id).then_some(holder)
                });
                if let Some(holder) = found
                    && !known.contains(&(holder.route.shape(), route.shape()))
                {
                    known.insert((route.shape(), holder.route.shape()));
                    pairs.push((ScopeRoute { scope, route }, holder));
                }
            }
        }
        pairs
    }

    /// The scopes that need a whitelist.
    pub fn requiring_whitelist(&self) -> &ScopeSet {
        &self.requiring_whitelist
    }

    /// The scopes that a `READ_ONLY` token may use.
    pub fn reading(&self) -> &ScopeSet {
        &self.reading
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    /// Rule 1.2.
    #[test]
    fn names_have_their_alphabet_and_length() {
        for good in ["a", "cards.reveal", "a-b_c.9", &"x".repeat(MAX_NAME_LEN)] {
            assert_eq!(good.parse::<ScopeName>().unwrap().to_string(), good);
        }
        for bad in ["", "A", "a b", "a/b", "é", "a\n", "a\0", &"x".repeat(MAX_NAME_LEN + 1)] {
            assert_eq!(bad.parse::<ScopeName>(), Err(InvalidScopeName), "{bad:?}");
        }
    }

    #[test]
    fn a_catalog_finds_scopes_by_name_number_and_request() {
        let def = |name: &str, access, route: &str| ScopeDef {
            name: name.parse().unwrap(),
            access,
            requires_whitelist: access == Access::Write,
            description: String::new(),
            routes: vec![route.parse().unwrap()],
        };
        let defs = vec![def("b", Access::Write, "POST /x/{id}"), def("a", Access::Read, "GET /x")];
        let mut ids = [700, 3].into_iter().map(ScopeId);
        let catalog = Catalog::new(9, defs, |_| ids.next().unwrap());
        let name = |scope: Option<&Scope>| scope.map(|scope| scope.name.to_string());
        assert_eq!(catalog.version(), 9);
        assert_eq!(catalog.scopes()[0].name.as_str(), "b");
        assert_eq!(name(catalog.by_id(ScopeId(700))), Some("b".into()));
        assert_eq!(name(catalog.by_id(ScopeId(3))), Some("a".into()));
        assert_eq!(name(catalog.by_id(ScopeId(4))), None);
        assert_eq!(catalog.by_name("a").unwrap().id, ScopeId(3));
        assert!(catalog.by_name("c").is_none());
        assert_eq!(name(catalog.resolve("POST", "/x/1").ok()), Some("b".into()));
        assert_eq!(name(catalog.resolve("HEAD", "/x?y").ok()), Some("a".into()));
        assert_eq!(name(catalog.resolve("POST", "/x").ok()), None);
        assert_eq!(catalog.requiring_whitelist().iter().collect::<Vec<_>>(), [ScopeId(700)]);
        assert_eq!(catalog.reading().iter().collect::<Vec<_>>(), [ScopeId(3)]);
    }

    #[test]
    fn sets_are_small() {
        assert!(size_of::<ScopeSet>() <= 24);
        let mut set = ScopeSet::default();
        assert!(set.is_empty() && set.insert(ScopeId(u16::MAX)) && !set.insert(ScopeId(u16::MAX)));
        assert_eq!((set.len(), set.is_empty()), (1, false));
        assert_eq!(format!("{set:?}"), "{65535}");
    }

    fn ids() -> impl Strategy<Value = BTreeSet<u16>> {
        prop::collection::btree_set(prop_oneof![0u16..70, 0u16..300, any::<u16>()], 0..12)
    }

    proptest! {
        #[test]
        fn sets_behave_like_sets(a in ids(), b in ids(), probe: u16) {
            let set = |ids: &BTreeSet<u16>| ids.iter().rev().copied().map(ScopeId).collect::<ScopeSet>();
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.iter().map(|id| id.0).collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(x.is_empty(), a.is_empty());
            prop_assert_eq!(x.contains(ScopeId(probe)), a.contains(&probe));
            prop_assert_eq!(x == y, a == b);
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.union(&y), set(&(&a | &b)));
            prop_assert_eq!(x.intersection(&y), set(&(&a & &b)));
            prop_assert_eq!(x.difference(&y), set(&(&a - &b)));
        }
    }
}
