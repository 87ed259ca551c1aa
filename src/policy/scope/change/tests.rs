//! What one catalogue in place of another does to tokens.

use super::*;
use crate::policy::catalog_file;
use crate::policy::scope::ScopeDef;
use proptest::prelude::*;

/// `[("name access", ["route", ...]), ...]`; a `!` after the access asks for a whitelist.
fn catalog(scopes: &[(&str, &[&str])]) -> Catalog {
    let defs = scopes.iter().map(|(head, routes)| {
        let (name, access) = head.split_once(' ').unwrap();
        let access_word = access.trim_end_matches('!');
        ScopeDef {
            name: name.parse().unwrap(),
            access: if access_word == "read" { Access::Read } else { Access::Write },
            requires_whitelist: access.ends_with('!'),
            description: String::new(),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        }
    });
    // The number is the name's first letter: the same in every catalogue.
    Catalog::new(1, defs.collect(), |name| ScopeId(u16::from(name.as_str().as_bytes()[0])))
}

/// A line for each change: the scope, what became of it, and who gains and loses.
fn described(old: &[(&str, &[&str])], new: &[(&str, &[&str])]) -> String {
    let word = |kind: &str, effect: Effect| match (effect.gains, effect.loses) {
        (false, false) => String::new(),
        (gains, loses) => {
            format!(" {kind}{}{}", if gains { "+" } else { "" }, if loses { "-" } else { "" })
        }
    };
    let lines = compare(&catalog(old), &catalog(new)).into_iter().map(|change| {
        let Effects { read_only, read_write, custom } = change.effects;
        let change_text = match &change.change {
            Change::PathsGained(overlaps) | Change::PathsLost(overlaps) => {
                let gained = matches!(change.change, Change::PathsGained(_));
                let verb = if gained { "PathsGained" } else { "PathsLost" };
                let overlaps = overlaps
                    .iter()
                    .map(|o| format!("{} / {} of {}", o.route, o.other, o.other_scope));
                format!("{verb}({})", overlaps.collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        };
        format!(
            "{}: {change_text}:{}{}{}{}\n",
            change.scope,
            word("read-only", read_only),
            word("read-write", read_write),
            word("custom", custom),
            if change.narrows() { " NARROWS" } else { "" },
        )
    });
    lines.collect()
}

#[test]
fn scopes_come_go_and_turn() {
    let old: &[(&str, &[&str])] =
        &[("a read", &["GET /a"]), ("b write!", &["POST /b"]), ("c read", &[]), ("d write", &[])];
    let new: &[(&str, &[&str])] =
        &[("a write!", &["GET /a"]), ("b read", &["POST /b"]), ("e read", &[]), ("f write!", &[])];
    insta::assert_snapshot!(described(old, new), @r##"
a: BecameWrite: read-only- NARROWS
a: NowRequiresWhitelist: custom- NARROWS
b: BecameRead: read-only+
b: NoLongerRequiresWhitelist: custom+
e: Added: read-only+ read-write+
f: Added: read-write+
c: Dropped: read-only- read-write- custom- NARROWS
d: Dropped: read-write- custom- NARROWS
"##);
}

#[test]
fn moved_routes_take_and_give() {
    let old: &[(&str, &[&str])] = &[
        ("a read", &["GET /a/{id}", "GET /kept", "GET /gone"]),
        ("b read", &[]),
        ("c write", &["GET /c"]),
        ("d write", &[]),
    ];
    let new: &[(&str, &[&str])] = &[
        ("a read", &["GET /kept"]),
        ("b read", &["GET /a/{other_name}"]),
        ("c write", &[]),
        ("d write", &["GET /c", "POST /d"]),
    ];
    insta::assert_snapshot!(described(old, new), @r##"
a: RoutesLost(["GET /a/{id}", "GET /gone"]): read-only- read-write- custom- NARROWS
b: RoutesGained(["GET /a/{other_name}"]): custom+
c: RoutesLost(["GET /c"]): custom- NARROWS
d: RoutesGained(["GET /c", "POST /d"]): read-write+ custom+
"##);
}

#[test]
fn a_route_that_comes_first_takes_requests_from_one_that_stays() {
    let old: &[(&str, &[&str])] = &[("a read", &["GET /r/{id}"]), ("b write", &["GET /{x}/y"])];
    let new: &[(&str, &[&str])] =
        &[("a read", &["GET /r/{id}"]), ("b write", &["GET /{x}/y", "GET /r/invites"])];
    insta::assert_snapshot!(described(old, new), @r##"
a: PathsLost(GET /r/{id} / GET /r/invites of b): read-only- custom- NARROWS
b: RoutesGained(["GET /r/invites"]): custom+
"##);
    insta::assert_snapshot!(described(new, old), @r##"
a: PathsGained(GET /r/{id} / GET /r/invites of b): read-only+ custom+
b: RoutesLost(["GET /r/invites"]): custom- NARROWS
"##);
}

#[test]
fn a_route_that_becomes_ambiguous_is_lost() {
    let old: &[(&str, &[&str])] = &[("a read", &["GET /r/sum.csv"]), ("b write", &["GET /x"])];
    let new: &[(&str, &[&str])] =
        &[("a read", &["GET /r/sum.csv"]), ("b write", &["GET /x", "GET /r/sum"])];
    insta::assert_snapshot!(described(old, new), @r##"
a: BecameAmbiguous([Overlap { route: "GET /r/sum.csv", other: "GET /r/sum", other_scope: b }]): read-only- read-write- custom- NARROWS
b: RoutesGained(["GET /r/sum"]): read-write+ custom+
"##);
    insta::assert_snapshot!(described(new, old), @r##"
a: NoLongerAmbiguous([Overlap { route: "GET /r/sum.csv", other: "GET /r/sum", other_scope: b }]): read-only+ read-write+ custom+
b: RoutesLost(["GET /r/sum"]): read-write- custom- NARROWS
"##);
    let ambiguous: Vec<String> = catalog(new)
        .ambiguous_routes()
        .iter()
        .map(|(own, other)| format!("{} as {} of {}", own.route, other.route, other.scope.name))
        .collect();
    assert_eq!(ambiguous, ["GET /r/sum.csv as GET /r/sum of b"]);
    assert_eq!(catalog(old).ambiguous_routes(), []);
}

#[test]
fn suffixes_and_catch_alls_take_and_give() {
    let old: &[(&str, &[&str])] = &[("a read", &["GET /r/{id}", "GET /f/{rest...}"])];
    let new: &[(&str, &[&str])] = &[
        ("a read", &["GET /r/{id}", "GET /f/{rest...}"]),
        ("b write", &["GET /r/{id}:run", "GET /f/{x}/{y}", "GET /f/x/{rest...}/"]),
    ];
    insta::assert_snapshot!(described(old, new), @r##"
a: PathsLost(GET /f/{rest...} / GET /f/{x}/{y} of b, GET /r/{id} / GET /r/{id}:run of b): read-only- custom- NARROWS
b: Added: read-write+
"##);
    // Some servers drop the extension, so that no request can take the new route.
    let dead: &[(&str, &[&str])] = &[
        ("a read", &["GET /r/{id}", "GET /f/{rest...}"]),
        ("b write", &["GET /r/{id}.json", "GET /f/{x}/a.csv"]),
    ];
    insta::assert_snapshot!(described(old, dead), @r##"
a: BecameAmbiguous([Overlap { route: "GET /f/{rest...}", other: "GET /f/{x}/a.csv", other_scope: b }, Overlap { route: "GET /r/{id}", other: "GET /r/{id}.json", other_scope: b }]): read-only- read-write- custom- NARROWS
b: Added: read-write+
"##);
    let ambiguous: Vec<String> = catalog(dead)
        .ambiguous_routes()
        .iter()
        .map(|(own, other)| format!("{} as {}", own.route, other.route))
        .collect();
    assert_eq!(
        ambiguous,
        ["GET /r/{id}.json as GET /r/{id}", "GET /f/{x}/a.csv as GET /f/{rest...}"]
    );
    assert_eq!(catalog(new).ambiguous_routes(), []);
}

/// Rule 1.18 of docs/policy.md.
#[test]
fn routes_that_only_a_slash_keeps_apart_are_found() {
    let apart = |scopes: &[(&str, &[&str])]| -> Vec<String> {
        let catalog = catalog(scopes);
        let pairs = catalog.routes_apart_by_slash();
        pairs.iter().map(|(one, other)| format!("{} / {}", one.route, other.route)).collect()
    };
    assert_eq!(
        apart(&[("a read", &["GET /a", "GET /b", "GET /c"]), ("b read", &["GET /a/", "GET /d/"])]),
        ["GET /a / GET /a/"]
    );
    assert_eq!(
        apart(&[
            ("a read", &["GET /a/b", "GET /f/{r...}"]),
            ("b read", &["GET /a/{x}/", "GET /f/x/"])
        ]),
        ["GET /a/b / GET /a/{x}/", "GET /f/x/ / GET /f/{r...}"]
    );
    assert_eq!(apart(&[("a read", &["GET /a", "GET /a/"]), ("b read", &["POST /a/"])]), [""; 0]);
}

#[test]
fn order_and_parameter_names_change_nothing() {
    let old: &[(&str, &[&str])] = &[("a read", &["GET /{x}", "GET /a"]), ("b write", &[])];
    let new: &[(&str, &[&str])] = &[("b write", &[]), ("a read", &["GET /a", "GET /{y}"])];
    assert_eq!(described(old, new), "");
}

#[test]
fn a_description_alone_narrows_nothing() {
    let with = |text: &str| {
        let file = format!("[[scope]]\nname = \"a\"\naccess = \"read\"\ndescription = \"{text}\"");
        Catalog::new(1, catalog_file::parse(&file).unwrap(), |_| ScopeId(0))
    };
    let changes = compare(&with("one"), &with("two"));
    assert_eq!(changes.len(), 1);
    assert!(changes[0].change == Change::DescriptionChanged && !changes[0].narrows());
}

/// Up to three scopes over a few routes that overlap.
fn any_catalog() -> impl Strategy<Value = Catalog> {
    let word = || prop::sample::select(vec!["a", "b", "ab", "{x}", "{x}b", "{x}:b"]);
    let end = prop::sample::select(vec!["", "", "", "/", "/{x...}", "/{x...}/"]);
    let route = (prop::collection::vec(word(), 1..4), end)
        .prop_map(|(segments, end)| format!("GET /{}{end}", segments.join("/")));
    let routes = prop::collection::btree_map(route, 0..3usize, 0..8);
    (routes, prop::collection::vec((any::<bool>(), any::<bool>()), 3)).prop_map(
        |(routes, kinds)| {
            let mut defs = Vec::new();
            for (i, (present, write)) in kinds.into_iter().enumerate() {
                let owned = routes.iter().filter(|(_, owner)| **owner == i);
                let owned: Vec<&str> = owned.map(|(route, _)| route.as_str()).collect();
                let head =
                    format!("{} {}", ["p", "q", "r"][i], if write { "write" } else { "read" });
                if present || i == 0 {
                    defs.push((head, owned));
                }
            }
            let defs: Vec<(&str, &[&str])> =
                defs.iter().map(|(head, routes)| (head.as_str(), routes.as_slice())).collect();
            catalog(&defs)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whoever_loses_a_request_is_told_of(old in any_catalog(), new in any_catalog()) {
        let changes = compare(&old, &new);
        // What each kind of token may do, by asking for every path there is.
        let segments = ["a", "b", "ab", "c", "cb", "c:b"];
        let mut paths: Vec<String> = segments.iter().map(|a| format!("/{a}")).collect();
        let mut deepest = paths.clone();
        for _ in 0..2 {
            deepest = deepest.iter().flat_map(|p| segments.map(|s| format!("{p}/{s}"))).collect::<Vec<_>>();
            paths.extend(deepest.iter().cloned());
        }
        // Of what only a catch-all matches.
        paths.extend(deepest.iter().flat_map(|p| [format!("{p}/c"), format!("{p}/c/c")]));
        paths.extend(paths.clone().iter().map(|path| format!("{path}/")));
        let mut effects = [Effect::default(); 2];
        let mut of_custom: BTreeMap<ScopeId, Effect> = BTreeMap::new();
        for path in &paths {
            let (was, is) = (old.resolve("GET", path).ok(), new.resolve("GET", path).ok());
            for (effect, held) in effects.iter_mut().zip([reads, |s: Option<&Scope>| s.is_some()]) {
                effect.loses |= held(was) && !held(is);
                effect.gains |= !held(was) && held(is);
            }
            if was.map(|s| s.id) != is.map(|s| s.id) {
                was.inspect(|s| of_custom.entry(s.id).or_default().loses = true);
                is.inspect(|s| of_custom.entry(s.id).or_default().gains = true);
            }
        }
        for (kind, effect) in effects.iter().enumerate() {
            let reported = |of: fn(Effect) -> bool| changes.iter().any(|change| {
                of([change.effects.read_only, change.effects.read_write][kind])
            });
            prop_assert!(!effect.loses || reported(|e| e.loses), "{:?}", changes);
            prop_assert!(!effect.gains || reported(|e| e.gains), "{:?}", changes);
        }
        for (id, effect) in of_custom {
            let mut reported = changes.iter().filter(|c| c.id == id);
            prop_assert!(!effect.loses || reported.clone().any(|c| c.effects.custom.loses), "{:?}", changes);
            let added = reported.clone().any(|c| c.change == Change::Added);
            prop_assert!(!effect.gains || added || reported.any(|c| c.effects.custom.gains), "{:?}", changes);
        }
    }
}
