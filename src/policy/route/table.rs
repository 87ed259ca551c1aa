//! Which route a request takes.
//!
//! What must stay true: a request path is read in one way only (`path`), and what another server may
//! read differently is followed up (`variant`): a request is given to a route only if no such server
//! would give it to a route of another owner. What matches no route is denied. The work for one
//! request is linear in its path, plus at most three visits to each node of the table with some
//! look-ups each: as many as the longest literal has bytes, and where there are suffixes, as many as
//! the segment has dots and spaces. A plain path needs one visit, and no memory.

use std::cell::OnceCell;
use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::variant::{Variant, Variants};
use super::{MAX_PATH_SEGMENTS, MAX_SEGMENTS, Method, Route, Segment, path};

/// Routes with a value each, as a tree of segments.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    /// Never empty: the first node is the root. A node's children come after it.
    nodes: Vec<Node<T>>,
    /// The most segments that a path may have: those of the deepest route, or [`MAX_PATH_SEGMENTS`]
    /// where there is a catch-all. Routes have at most [`MAX_SEGMENTS`], which bounds the recursion.
    deepest: usize,
    /// Bytes of the longest literal.
    longest: usize,
    /// Whether some segment has a suffix, so that also what is longer than any literal matters.
    suffixes: bool,
    /// Whether some route has a trailing slash.
    slashes: bool,
    /// Whether some literal or suffix has upper case, so that also a plain path may be read as it.
    upper_case: bool,
}

/// The place of a node that is not the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Child(NonZeroU32);

impl Child {
    /// Of the node that will be at `place`, which is not the root's.
    fn at(place: usize) -> Self {
        // A catalogue has 10,000 routes at most, so fewer than a million nodes.
        Self(NonZeroU32::MIN.saturating_add(u32::try_from(place - 1).unwrap_or(u32::MAX)))
    }

    fn place(self) -> usize {
        self.0.get() as usize
    }
}

#[derive(Debug, Clone)]
struct Node<T> {
    /// Children by literal, sorted by [`order`].
    literals: Vec<(Box<str>, usize)>,
    /// The same children by literal in lower case; several may have the same.
    folded: Vec<(Box<str>, usize)>,
    /// Children by suffix, sorted by [`Suffix::reversed`].
    suffixes: Vec<Suffix>,
    parameter: Option<Child>,
    /// Of a catch-all, with the routes that end with it. It has no children but for a slash.
    catch_all: Option<Child>,
    /// With the routes that end here and have a trailing slash. It has no children.
    slash: Option<Child>,
    /// The routes that end here, by method.
    routes: Vec<(Method, T)>,
}

/// The end of a segment that begins with a parameter.
#[derive(Debug, Clone)]
struct Suffix {
    text: Box<str>,
    /// The text in lower case, last byte first.
    reversed: Box<[u8]>,
    child: Child,
}

impl Suffix {
    fn new(text: &str, child: Child) -> Self {
        let reversed = text.bytes().rev().map(|byte| byte.to_ascii_lowercase()).collect();
        Self { text: text.into(), reversed, child }
    }

    /// Whether `segment` ends with it, in the same case, and has something before it.
    fn matches(&self, segment: &[u8]) -> bool {
        segment.len() > self.text.len() && segment.ends_with(self.text.as_bytes())
    }
}

/// The places of suffixes in their node. More than a few end alike only by intent.
type Places = SmallVec<[usize; 4]>;

/// By length first: it settles most comparisons without a look at the text.
fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl<T> Node<T> {
    const EMPTY: Self = Self {
        literals: Vec::new(),
        folded: Vec::new(),
        suffixes: Vec::new(),
        parameter: None,
        catch_all: None,
        slash: None,
        routes: Vec::new(),
    };

    fn literal(&self, segment: &[u8]) -> Result<usize, usize> {
        self.literals.binary_search_by(|(text, _)| order(text.as_bytes(), segment))
    }

    /// The children whose literals are `variant` but for upper and lower case.
    fn alike(&self, variant: &[u8]) -> &[(Box<str>, usize)] {
        let start =
            self.folded.partition_point(|(text, _)| order(text.as_bytes(), variant).is_lt());
        let rest = &self.folded[start..];
        let count = rest.iter().take_while(|(text, _)| text.as_bytes() == variant).count();
        &rest[..count]
    }

    /// The suffixes that `text` ends with in any case, also one that is all of it: the longest first.
    fn ending(&self, text: &[u8]) -> impl Iterator<Item = usize> {
        let mut found = Places::new();
        let (mut start, mut end) = (0, self.suffixes.len());
        for (depth, byte) in text.iter().rev().map(u8::to_ascii_lowercase).enumerate() {
            let alike = &self.suffixes[start..end];
            // What ends here comes first.
            let before = |suffix: &Suffix| suffix.reversed.get(depth).is_none_or(|&b| b < byte);
            let skipped = alike.partition_point(before);
            let more = alike[skipped..].partition_point(|suffix| suffix.reversed[depth] == byte);
            (start, end) = (start + skipped, start + skipped + more);
            if start == end {
                break;
            }
            let whole = |&i: &usize| self.suffixes[i].reversed.len() == depth + 1;
            found.extend((start..end).take_while(whole));
        }
        found.into_iter().rev()
    }

    fn route(&self, method: &str) -> Option<&T> {
        self.routes.iter().find(|(m, _)| *m.0 == *method).map(|(_, value)| value)
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::EMPTY],
            deepest: 0,
            longest: 0,
            suffixes: false,
            slashes: false,
            upper_case: false,
        }
    }
}

/// Why a request is given to no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresolved<V> {
    /// No route matches it.
    NoRoute,
    /// One matches it, and another server may read its path so that another owner's matches
    /// (rule 2.23).
    Ambiguous {
        /// What the request would be given to.
        own: V,
        /// What another server may give it to.
        other: V,
    },
}

impl<V> Unresolved<V> {
    /// The same with other values.
    pub(in crate::policy) fn map<W>(self, mut value: impl FnMut(V) -> W) -> Unresolved<W> {
        match self {
            Self::NoRoute => Unresolved::NoRoute,
            Self::Ambiguous { own, other } => {
                Unresolved::Ambiguous { own: value(own), other: value(other) }
            }
        }
    }
}

/// A segment of a path with what other servers may read it as.
struct SegmentReading<'p> {
    text: &'p [u8],
    /// Whether that may be something else than its text.
    variable: bool,
    /// Found when they are needed: most nodes have no literals, and most segments no variants.
    variants: OnceCell<Variants<'p>>,
}

impl<T> RouteTable<T> {
    /// Adds `route` with `value`.
    ///
    /// # Errors
    /// The table has a route of the same shape: it keeps that one, and `value` comes back.
    pub fn insert(&mut self, route: &Route, value: T) -> Result<(), T> {
        let mut at = 0;
        for segment in &route.segments {
            at = self.child(at, segment);
        }
        if route.trailing_slash {
            self.slashes = true;
            let next = self.nodes.len();
            at = self.nodes[at].slash.get_or_insert(Child::at(next)).place();
            self.grow(at);
        }
        let routes = &mut self.nodes[at].routes;
        if routes.iter().any(|(method, _)| *method == route.method) {
            return Err(value);
        }
        routes.push((route.method.clone(), value));
        let open = matches!(route.segments.last(), Some(Segment::CatchAll(_)));
        let depth = if open { MAX_PATH_SEGMENTS } else { route.segments.len() };
        self.deepest = self.deepest.max(depth);
        Ok(())
    }

    /// The child of the node at `at` for `segment`, made where there is none.
    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let next = self.nodes.len();
        let node = &mut self.nodes[at];
        let child = match segment {
            Segment::Parameter(_) => node.parameter.get_or_insert(Child::at(next)).place(),
            Segment::CatchAll(_) => node.catch_all.get_or_insert(Child::at(next)).place(),
            Segment::Suffixed { suffix, .. } => {
                match node.suffixes.iter().find(|known| known.text == *suffix) {
                    Some(known) => known.child.place(),
                    None => {
                        let suffix = Suffix::new(suffix, Child::at(next));
                        let i = node.suffixes.partition_point(|s| s.reversed < suffix.reversed);
                        self.suffixes = true;
                        self.upper_case |= suffix.text.bytes().any(|b| b.is_ascii_uppercase());
                        node.suffixes.insert(i, suffix);
                        next
                    }
                }
            }
            Segment::Literal(text) => match node.literal(text.as_bytes()) {
                Ok(i) => node.literals[i].1,
                Err(i) => {
                    node.literals.insert(i, (text.clone(), next));
                    let folded = text.to_ascii_lowercase();
                    let i = node.folded.partition_point(|(other, _)| {
                        order(other.as_bytes(), folded.as_bytes()).is_lt()
                    });
                    self.upper_case |= folded != **text;
                    self.longest = self.longest.max(folded.len());
                    node.folded.insert(i, (folded.into(), next));
                    next
                }
            },
        };
        self.grow(child);
        child
    }

    /// Adds the node at `place` if it is the next one.
    fn grow(&mut self, place: usize) {
        if place == self.nodes.len() {
            self.nodes.push(Node::EMPTY);
        }
    }

    /// The value of the route that a request takes, if it takes any. `same` says whether two values
    /// have one owner, so that it makes no difference which of their routes is taken.
    ///
    /// `path` is the request's target as received: escaped, and with its query string, if any. It
    /// is cut there, split at `/`, and each segment decoded once. Segments are matched left to
    /// right: a literal before a suffix, a longer suffix before a shorter one, then a parameter, and
    /// a catch-all last; a branch that leads to no route for `method` is left again. Methods are
    /// case-sensitive, and `HEAD` takes `GET`'s routes. Rule 2.9 of docs/policy.md.
    ///
    /// # Errors
    /// [`Unresolved::NoRoute`] also for every path that rules 2.11, 2.22, 2.24 and 2.28 of
    /// docs/policy.md let match nothing.
    pub fn resolve(
        &self,
        method: &str,
        path: &str,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<&T, Unresolved<&T>> {
        let method = if method == "HEAD" { "GET" } else { method };
        if self.deepest <= MAX_SEGMENTS {
            self.resolve_within::<MAX_SEGMENTS>(method, path, same)
        } else {
            self.resolve_within::<MAX_PATH_SEGMENTS>(method, path, same)
        }
    }

    /// [`Self::resolve`] with room for as many segments as the table needs.
    #[inline]
    fn resolve_within<const ROOM: usize>(
        &self,
        method: &str,
        path: &str,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<&T, Unresolved<&T>> {
        let mut segments = [b"".as_slice(); ROOM];
        let mut decoded = Vec::new();
        let shape = path::read(path, &mut segments[..self.deepest], &mut decoded)
            .map_err(|_| Unresolved::NoRoute)?;
        let question = RouteQuery { method, trailing_slash: shape.trailing_slash };
        let segments = &segments[..shape.count];
        let own = self.search(0, question, segments).ok_or(Unresolved::NoRoute)?;
        if shape.variable == 0 && !self.upper_case {
            return Ok(own);
        }
        self.agreed(own, question, segments, shape.variable, same)
    }

    /// `own`, unless a variant of the segments leads to a value that is not the same. Out of the way
    /// of plain paths.
    #[inline(never)]
    fn agreed<'t>(
        &'t self,
        own: &'t T,
        question: RouteQuery<'_>,
        segments: &[&[u8]],
        variable: u64,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<&'t T, Unresolved<&'t T>> {
        let segments = segments.iter().enumerate().map(|(place, text)| SegmentReading {
            text,
            variable: variable >> place & 1 == 1,
            variants: OnceCell::new(),
        });
        let segments: SmallVec<[_; MAX_SEGMENTS]> = segments.collect();
        let same = |other: &T| same(own, other);
        let ambiguous = |other| Unresolved::Ambiguous { own, other };
        self.follow_variants(0, question, &segments, &same).map_err(ambiguous)?;
        // Where nothing may be left of the last segment, the path may end with the slash before it.
        if self.slashes
            && !question.trailing_slash
            && let Some((last, others)) = segments.split_last()
            && last.variable
            && self.variants(last).may_be_empty()
        {
            let question = RouteQuery { trailing_slash: true, ..question };
            self.follow_variants(0, question, others, &same).map_err(ambiguous)?;
        }
        Ok(own)
    }

    /// Recurses once per segment, so [`MAX_SEGMENTS`] deep at most.
    fn search(&self, at: usize, question: RouteQuery<'_>, segments: &[&[u8]]) -> Option<&T> {
        let node = &self.nodes[at];
        let Some((segment, rest)) = segments.split_first() else {
            return self.end(node, question);
        };
        let by_literal = match node.literal(segment) {
            Ok(i) => self.search(node.literals[i].1, question, rest),
            Err(_) => None,
        };
        if by_literal.is_some() {
            return by_literal;
        }
        if !node.suffixes.is_empty() {
            let suffixes = node.ending(segment).map(|i| &node.suffixes[i]);
            let mut matching = suffixes.filter(|suffix| suffix.matches(segment));
            let by_suffix =
                matching.find_map(|suffix| self.search(suffix.child.place(), question, rest));
            if by_suffix.is_some() {
                return by_suffix;
            }
        }
        if let Some(child) = node.parameter
            && let Some(value) = self.search(child.place(), question, rest)
        {
            return Some(value);
        }
        self.end(&self.nodes[node.catch_all?.place()], question)
    }

    /// The value of the route that ends at `node`.
    fn end<'t>(&'t self, node: &'t Node<T>, question: RouteQuery<'_>) -> Option<&'t T> {
        if question.trailing_slash {
            return self.nodes[node.slash?.place()].route(question.method);
        }
        node.route(question.method)
    }

    /// Follows every variant of every segment. Whether one of them leads nowhere, so that the search
    /// goes on elsewhere. It visits a node once at most: each child of a node is followed once.
    ///
    /// # Errors
    /// A value that a variant leads to and that is not the `same`.
    fn follow_variants(
        &self,
        at: usize,
        question: RouteQuery<'_>,
        segments: &[SegmentReading<'_>],
        same: &impl Fn(&T) -> bool,
    ) -> Result<bool, &T> {
        let node = &self.nodes[at];
        let check_end = |node| match self.end(node, question) {
            Some(value) if same(value) => Ok(false),
            Some(value) => Err(value),
            None => Ok(true),
        };
        let Some((segment, rest)) = segments.split_first() else {
            return check_end(node);
        };
        let mut nowhere = true;
        if !node.literals.is_empty() || !node.suffixes.is_empty() {
            let follow = |child| self.follow_variants(child, question, rest, same);
            nowhere = self.follow_fixed(node, segment, follow)?;
        }
        if nowhere && let Some(child) = node.parameter {
            nowhere = self.follow_variants(child.place(), question, rest, same)?;
        }
        match node.catch_all {
            Some(child) if nowhere => check_end(&self.nodes[child.place()]),
            _ => Ok(nowhere),
        }
    }

    /// What `segment` may be read as, as far as it matters to this table.
    fn variants<'s, 'p>(&self, segment: &'s SegmentReading<'p>) -> &'s Variants<'p> {
        let limit = if self.suffixes { usize::MAX } else { self.longest.max(1) };
        segment.variants.get_or_init(|| Variants::new(path::text(segment.text), limit))
    }

    /// Follows the literals and suffixes of `node` that `segment` may be read as. Whether some
    /// server goes on to its parameter: one that reads the segment as none of them, or as one that
    /// leads nowhere.
    fn follow_fixed<'t>(
        &'t self,
        node: &'t Node<T>,
        segment: &SegmentReading<'_>,
        follow: impl Fn(usize) -> Result<bool, &'t T>,
    ) -> Result<bool, &'t T> {
        let literal = node.literal(segment.text);
        if !segment.variable && !self.upper_case {
            if let Ok(i) = literal
                && !follow(node.literals[i].1)?
            {
                return Ok(false);
            }
            if node.suffixes.is_empty() {
                return Ok(true);
            }
            return Suffixes::new(node).follow_own(segment.text, follow);
        }
        let mut suffixes = Suffixes::new(node);
        // Where it is a literal, that is a variant too.
        let mut nowhere = literal.is_err() && suffixes.follow_own(segment.text, &follow)?;
        for variant in self.variants(segment).iter() {
            if variant.folded.len() > self.longest && node.suffixes.is_empty() {
                nowhere = true;
                continue;
            }
            let children = node.alike(variant.folded);
            // A server that only cuts takes one of them only if that leaves what is written.
            let exact = variant.raw.is_some_and(|raw| node.literal(raw).is_ok());
            let mut on = variant.shortened || !exact;
            for &(_, child) in children {
                on |= follow(child)?;
            }
            if on {
                nowhere |= suffixes.follow(&variant, &follow)?;
            }
        }
        Ok(nowhere)
    }
}

/// What a request asks for, beside its segments.
#[derive(Clone, Copy)]
struct RouteQuery<'q> {
    method: &'q str,
    trailing_slash: bool,
}

/// The suffixes of a node while the variants of one segment are followed.
struct Suffixes<'t, T> {
    node: &'t Node<T>,
    /// What was followed, by place, and whether it leads nowhere.
    nowhere: SmallVec<[(usize, bool); 4]>,
}

impl<'t, T> Suffixes<'t, T> {
    fn new(node: &'t Node<T>) -> Self {
        Self { node, nowhere: SmallVec::new() }
    }

    /// Follows those that `segment` ends with as it stands, until one leads somewhere.
    fn follow_own(
        &mut self,
        segment: &[u8],
        follow: impl Fn(usize) -> Result<bool, &'t T>,
    ) -> Result<bool, &'t T> {
        if self.node.suffixes.is_empty() {
            return Ok(true);
        }
        for place in self.node.ending(segment) {
            if self.node.suffixes[place].matches(segment) && !self.follow_once(place, &follow)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Follows those that `variant` ends with. Whether some server goes on to the parameter.
    fn follow(
        &mut self,
        variant: &Variant<'_>,
        follow: impl Fn(usize) -> Result<bool, &'t T>,
    ) -> Result<bool, &'t T> {
        if self.node.suffixes.is_empty() {
            return Ok(true);
        }
        // The length of the one that a server takes which heeds case, and does nothing else.
        let mut taken = None;
        for place in self.node.ending(variant.folded) {
            let suffix = &self.node.suffixes[place];
            if taken.is_some_and(|length| length > suffix.text.len()) {
                break;
            }
            // What some servers leave out at the beginning is all that stands before the suffix.
            let bare = variant.folded.len() == suffix.text.len();
            if bare && !variant.shortened {
                continue;
            }
            let exact = !bare && variant.raw.is_some_and(|raw| suffix.matches(raw));
            if !self.follow_once(place, &follow)? && exact {
                taken = Some(suffix.text.len());
            }
        }
        Ok(taken.is_none())
    }

    fn follow_once(
        &mut self,
        place: usize,
        follow: impl Fn(usize) -> Result<bool, &'t T>,
    ) -> Result<bool, &'t T> {
        if let Some(&(_, nowhere)) = self.nowhere.iter().find(|(known, _)| *known == place) {
            return Ok(nowhere);
        }
        let nowhere = follow(self.node.suffixes[place].child.place())?;
        self.nowhere.push((place, nowhere));
        Ok(nowhere)
    }
}

#[cfg(test)]
mod tests;
