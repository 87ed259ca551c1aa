//! Which route a request takes.
//!
//! What must stay true: a request path is read in one way only (`path`), and what another server may
//! read differently is followed up (`variant`): a request is given to a route only if no such server
//! would give it to a route of another owner. What matches no route is denied. The work for one
//! request is linear in its path, plus at most two visits to each node of the table with some
//! look-ups each, as many as the longest literal has bytes; a plain path needs one visit, and no
//! memory.

use std::cell::OnceCell;

use smallvec::SmallVec;

use super::variant::Variants;
use super::{MAX_SEGMENTS, Method, Route, path};

/// Routes with a value each, as a tree of segments.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    /// Never empty: the first node is the root. A node's children come after it.
    nodes: Vec<Node<T>>,
    /// Segments of the deepest route; at most [`MAX_SEGMENTS`], which bounds the recursion too.
    deepest: usize,
    /// Bytes of the longest literal.
    longest: usize,
    /// Whether some literal has upper case, so that also a plain path may be read as it.
    upper_case: bool,
}

#[derive(Debug, Clone)]
struct Node<T> {
    /// Children by literal, sorted by [`order`].
    literals: Vec<(Box<str>, usize)>,
    /// The same children by literal in lower case; several may have the same.
    folded: Vec<(Box<str>, usize)>,
    parameter: Option<usize>,
    /// The routes that end here, by method.
    routes: Vec<(Method, T)>,
}

/// By length first: it settles most comparisons without a look at the text.
fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl<T> Node<T> {
    const EMPTY: Self =
        Self { literals: Vec::new(), folded: Vec::new(), parameter: None, routes: Vec::new() };

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

    fn route(&self, method: &str) -> Option<&T> {
        self.routes.iter().find(|(m, _)| *m.0 == *method).map(|(_, value)| value)
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::EMPTY], deepest: 0, longest: 0, upper_case: false }
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
struct Segment<'p> {
    text: &'p [u8],
    /// Whether that may be something else than its text.
    variable: bool,
    /// Found when they are needed: most nodes have no literals, and most segments no variants.
    variants: OnceCell<Variants>,
}

impl<T> RouteTable<T> {
    /// Adds `route` with `value`.
    ///
    /// # Errors
    /// The table has a route of the same shape: it keeps that one, and `value` comes back.
    pub fn insert(&mut self, route: &Route, value: T) -> Result<(), T> {
        let mut at = 0;
        for segment in &route.segments {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment.literal() {
                None => *node.parameter.get_or_insert(next),
                Some(text) => match node.literal(text.as_bytes()) {
                    Ok(i) => node.literals[i].1,
                    Err(i) => {
                        node.literals.insert(i, (text.into(), next));
                        let folded = text.to_ascii_lowercase();
                        let i = node.folded.partition_point(|(other, _)| {
                            order(other.as_bytes(), folded.as_bytes()).is_lt()
                        });
                        self.upper_case |= folded != *text;
                        self.longest = self.longest.max(folded.len());
                        node.folded.insert(i, (folded.into(), next));
                        next
                    }
                },
            };
            if at == next {
                self.nodes.push(Node::EMPTY);
            }
        }
        let routes = &mut self.nodes[at].routes;
        if routes.iter().any(|(method, _)| *method == route.method) {
            return Err(value);
        }
        routes.push((route.method.clone(), value));
        self.deepest = self.deepest.max(route.segments.len());
        Ok(())
    }

    /// The value of the route that a request takes, if it takes any. `same` says whether two values
    /// have one owner, so that it makes no difference which of their routes is taken.
    ///
    /// `path` is the request's target as received: escaped, and with its query string, if any. It
    /// is cut there, split at `/`, and each segment decoded once. Segments are matched left to
    /// right, a literal before a parameter; a branch that leads to no route for `method` is left
    /// again. Methods are case-sensitive, and `HEAD` takes `GET`'s routes. Rule 2.9 of docs/policy.md.
    ///
    /// # Errors
    /// [`Unresolved::NoRoute`] also for every path that rules 2.11, 2.22 and 2.24 of docs/policy.md
    /// let match nothing.
    pub fn resolve(
        &self,
        method: &str,
        path: &str,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<&T, Unresolved<&T>> {
        let method = if method == "HEAD" { "GET" } else { method };
        let mut segments = [b"".as_slice(); MAX_SEGMENTS];
        let mut decoded = Vec::new();
        let shape = path::read(path, &mut segments[..self.deepest], &mut decoded)
            .map_err(|_| Unresolved::NoRoute)?;
        let segments = &segments[..shape.count];
        let own = self.search(0, method, segments).ok_or(Unresolved::NoRoute)?;
        if shape.variable == 0 && !self.upper_case {
            return Ok(own);
        }
        self.agreed(own, method, segments, shape.variable, same)
    }

    /// `own`, unless a variant of the segments leads to a value that is not the same. Out of the way
    /// of plain paths.
    #[inline(never)]
    fn agreed<'t>(
        &'t self,
        own: &'t T,
        method: &str,
        segments: &[&[u8]],
        variable: u16,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<&'t T, Unresolved<&'t T>> {
        let segments = segments.iter().enumerate().map(|(place, text)| Segment {
            text,
            variable: variable >> place & 1 == 1,
            variants: OnceCell::new(),
        });
        let segments: SmallVec<[_; MAX_SEGMENTS]> = segments.collect();
        match self.follow_variants(0, method, &segments, &|other| same(own, other)) {
            Ok(_) => Ok(own),
            Err(other) => Err(Unresolved::Ambiguous { own, other }),
        }
    }

    /// Recurses once per segment, so [`MAX_SEGMENTS`] deep at most.
    fn search(&self, at: usize, method: &str, segments: &[&[u8]]) -> Option<&T> {
        let node = &self.nodes[at];
        let Some((segment, rest)) = segments.split_first() else {
            return node.route(method);
        };
        let by_literal = match node.literal(segment) {
            Ok(i) => self.search(node.literals[i].1, method, rest),
            Err(_) => None,
        };
        by_literal.or_else(|| self.search(node.parameter?, method, rest))
    }

    /// Follows every variant of every segment. Whether one of them leads nowhere, so that the search
    /// goes on elsewhere. It visits a node once at most: the literals of different variants differ.
    ///
    /// # Errors
    /// A value that a variant leads to and that is not the `same`.
    fn follow_variants(
        &self,
        at: usize,
        method: &str,
        segments: &[Segment<'_>],
        same: &impl Fn(&T) -> bool,
    ) -> Result<bool, &T> {
        let node = &self.nodes[at];
        let Some((segment, rest)) = segments.split_first() else {
            return match node.route(method) {
                Some(value) if same(value) => Ok(false),
                Some(value) => Err(value),
                None => Ok(true),
            };
        };
        let literal = node.literal(segment.text);
        let mut parameter = literal.is_err();
        if !segment.variable && !self.upper_case {
            if let Ok(i) = literal {
                parameter = self.follow_variants(node.literals[i].1, method, rest, same)?;
            }
        } else if !node.folded.is_empty() {
            let variants = || Variants::new(path::text(segment.text), self.longest);
            for variant in segment.variants.get_or_init(variants).iter() {
                let children = node.alike(variant);
                parameter |= children.is_empty();
                for &(_, child) in children {
                    parameter |= self.follow_variants(child, method, rest, same)?;
                }
            }
        }
        match node.parameter {
            Some(child) if parameter => self.follow_variants(child, method, rest, same),
            _ => Ok(parameter),
        }
    }
}

#[cfg(test)]
mod tests;
