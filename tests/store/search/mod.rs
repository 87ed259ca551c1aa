//! Looking tokens up, compared with a search in memory: every condition with every order, page by page.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use portcullis::model::{FoundTokens, NewToken, Token, TokenOrder, TokenSearch, TokenShow};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::lifecycle::{Calendar, Mode, Settings};
use portcullis::policy::scope::Catalog;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use uuid::Uuid;

use crate::store::fixture::{Fixture, Place, READ, ctx, new_token};
use crate::support::postgres::{database, shared};

mod memory;

use memory::{KINDS, Memory, NAMES, calendar, fill, plan};

on_both!(
    all_searches_are_as_in_memory,
    pending_ones_come_by_their_dates,
    a_text_is_what_it_is,
    an_id_is_a_token,
    others_tokens_are_never_found,
    pages_end,
    thousands_are_found_page_by_page,
);

const SHOWS: [TokenShow; 4] =
    [TokenShow::Active, TokenShow::Pending, TokenShow::Unrestricted, TokenShow::Deleted];
const ORDERS: [TokenOrder; 4] =
    [TokenOrder::Attention, TokenOrder::Name, TokenOrder::LastUse, TokenOrder::Created];

async fn named(f: &Fixture, catalog: &Catalog, account: AccountId, name: &str) -> TokenId {
    let new = NewToken {
        labels: Default::default(),
        name: name.into(),
        ..new_token(account, TokenKind::ReadOnly, vec![], "10.0.0.1")
    };
    f.token(catalog, &new).await.id
}

async fn search(f: &Fixture, search: &TokenSearch, offset: u32, limit: u32) -> FoundTokens {
    f.store.search_tokens(search, &calendar(100), offset, limit).await.unwrap()
}

/// The ids of all that is found.
async fn ids(f: &Fixture, what: &TokenSearch) -> BTreeSet<TokenId> {
    let found = search(f, what, 0, 1_000).await;
    assert_eq!(found.total, found.tokens.len() as u64, "{what:?}");
    found.tokens.iter().map(|token| token.id).collect()
}

async fn all_searches_are_as_in_memory(f: Fixture) {
    let [ours, _] = fill(&f).await;
    let memory = Memory::read(&f).await;
    let mut texts = vec!["", "a", "ALPHA", "é", "É", "日本", "ß", "zzz"].into_iter().cycle();
    let mut most = HashMap::new();
    for order in ORDERS {
        for show in SHOWS {
            for kind in KINDS.map(Some).into_iter().chain([None]) {
                for account_id in [None, Some(ours)] {
                    let text = if kind.is_none() { "" } else { texts.next().unwrap() };
                    let what = TokenSearch { account_id, text: text.into(), kind, show, order };
                    let expected = memory.search(&what, &calendar(100));
                    let found = search(&f, &what, 0, 1_000).await;
                    let names = |tokens: &[Token]| {
                        tokens
                            .iter()
                            .map(|token| (token.name.clone(), token.id))
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(names(&found.tokens), names(&expected), "{what:?}");
                    assert_eq!(found.tokens, expected, "{what:?}");
                    assert_eq!(found.total, expected.len() as u64);
                    let most = most.entry(format!("{show:?}")).or_default();
                    *most = found.total.max(*most);
                }
            }
        }
    }
    // None of them was about nothing.
    assert!(most.len() == SHOWS.len() && most.values().all(|&most| most > 10), "{most:?}");
}

async fn pending_ones_come_by_their_dates(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let mut planned = Vec::new();
    for actions in [
        // Basis and acceptance; the date is the later of 50 after the one and 10 after the other.
        &[(60, Some(105))][..],
        &[(70, Some(101))],
        &[(69, Some(108))],
        &[(90, None)],
        &[(30, None)],
        &[(80, Some(90)), (20, None)],
        &[(20, Some(95)), (80, Some(95))],
        &[(64, Some(105))],
        &[],
    ] {
        let new = new_token(account, TokenKind::ReadOnly, vec![], "");
        let token = f.token(&catalog, &new).await;
        for (&(basis, accepted), takes) in actions.iter().zip(["writes", "token"]) {
            plan(&f, &token, takes, basis, accepted).await;
        }
        planned.push(token.id);
    }
    let what = TokenSearch { account_id: Some(account), ..TokenSearch::default() };
    for (now, order) in [
        (100, [6, 4, 5, 0, 7, 2, 1, 3, 8]),
        // What is not accepted yet moves on.
        (106, [6, 0, 7, 4, 5, 2, 1, 3, 8]),
        (1_000, [6, 0, 7, 2, 1, 5, 3, 4, 8]),
    ] {
        let found = f.store.search_tokens(&what, &calendar(now), 0, 25).await.unwrap();
        let found: Vec<_> = found.tokens.iter().map(|token| token.id).collect();
        let memory = Memory::read(&f).await.search(&what, &calendar(now));
        assert_eq!(found, memory.iter().map(|token| token.id).collect::<Vec<_>>(), "{now}");
        let places = found.iter().map(|id| planned.iter().position(|planned| planned == id));
        assert_eq!(places.collect::<Option<Vec<_>>>().unwrap(), order, "{now}");
    }
    // As far apart as settings can be.
    let longest = Duration::from_micros(u64::MAX);
    let settings = Settings::new(Mode::Enforce, longest, Duration::from_micros(1)).unwrap();
    let longest = Calendar { settings, now: Timestamp(100) };
    let found = f.store.search_tokens(&what, &longest, 0, 25).await.unwrap();
    assert_eq!((found.tokens.len(), found.total), (9, 9));
}

async fn a_text_is_what_it_is(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    for name in NAMES {
        named(&f, &catalog, account, name).await;
    }
    let long = "a".repeat(1_000_000);
    let names = async |text: &str| {
        let what =
            TokenSearch { text: text.into(), order: TokenOrder::Name, ..TokenSearch::default() };
        let found = search(&f, &what, 0, 100).await;
        assert_eq!(found.total, found.tokens.len() as u64);
        found.tokens.into_iter().map(|token| token.name).collect::<Vec<_>>()
    };
    let alphas = ["alpha", "Alpha", "alpha", "ALPHA beta", "alphabet"];
    for text in ["alpha", "ALPHA", "aLPHa", "Lph"] {
        assert_eq!(names(text).await, alphas, "{text}");
    }
    for (text, found) in [
        ("%", &["100%"][..]),
        ("_", &["under_score"]),
        ("'", &["quo'te \"double\""]),
        ("\"", &["quo'te \"double\""]),
        ("\\", &["back\\slash"]),
        ("' OR 1=1 --", &[]),
        ("a%", &[]),
        (".*", &[]),
        ("*", &[]),
        ("$1", &[]),
        // Letters beyond ASCII are told apart by case, and by how they are put together.
        ("é", &["éclair"]),
        ("ÉCLAIR", &["Éclair"]),
        ("strasse", &["STRASSE"]),
        ("i\u{307}", &[]),
        ("ISTANBUL", &[]),
        ("STANBUL", &["İstanbul", "ıstanbul"]),
        ("ω", &["ωMEGA"]),
        ("日本", &["日本", "日本語トークン"]),
        ("トークン", &["日本語トークン"]),
        ("مفتاح", &["مفتاح"]),
        ("🙂", &["🙂 token"]),
        (" ", &["ALPHA beta", "quo'te \"double\"", "🙂 token"]),
        // Neither database has such a name; Postgres has no such text.
        ("\0", &[]),
        ("alpha\0", &[]),
        ("\0alpha", &[]),
        (&long, &[]),
    ] {
        let shown: String = text.chars().take(40).collect();
        assert_eq!(names(text).await, found, "{shown:?}");
    }
    let mut sorted = NAMES.to_vec();
    sorted.sort_by_key(|name| name.to_ascii_lowercase().into_bytes());
    assert_eq!(names("").await, sorted);
}

/// Under a locale that takes letters for equal, and orders them, by other rules.
#[tokio::test]
async fn the_locale_of_the_database_changes_nothing() {
    let url = database();
    let create = format!(
        "CREATE DATABASE {}_elsewhere TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
        url.rsplit('/').next().unwrap()
    );
    shared().sql("postgres", &create);
    let place = Place::Postgres(url + "_elsewhere");
    a_text_is_what_it_is(Fixture { store: place.open().await, place }).await;
}

async fn an_id_is_a_token(f: Fixture) {
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let catalog = f.catalog(&[READ]).await;
    let wanted = named(&f, &catalog, ours, "wanted").await;
    let deleted = named(&f, &catalog, ours, "deleted").await;
    f.store.delete_token(&ctx(5), deleted, None).await.unwrap();
    // A name that reads as an id hides nothing, and does not come with it.
    let namesake = named(&f, &catalog, theirs, &wanted.to_string()).await;
    let of = |id: TokenId| TokenSearch { text: id.to_string(), ..TokenSearch::default() };
    assert_eq!(ids(&f, &of(wanted)).await, [wanted].into());
    assert_eq!(ids(&f, &of(namesake)).await, [namesake].into());
    assert_eq!(ids(&f, &of(TokenId(Uuid::now_v7()))).await, [].into());
    let ours_only = TokenSearch { account_id: Some(ours), ..of(namesake) };
    assert_eq!(ids(&f, &ours_only).await, [].into());
    // The other conditions hold as well.
    let custom = TokenSearch { kind: Some(TokenKind::Custom), ..of(wanted) };
    assert_eq!(ids(&f, &custom).await, [].into());
    assert_eq!(ids(&f, &of(deleted)).await, [].into());
    let shown = TokenSearch { show: TokenShow::Deleted, ..of(deleted) };
    assert_eq!(ids(&f, &shown).await, [deleted].into());
    // A part of an id is a part of a name.
    let part = TokenSearch { text: wanted.to_string()[..10].into(), ..TokenSearch::default() };
    assert_eq!(ids(&f, &part).await, [namesake].into());
}

async fn others_tokens_are_never_found(f: Fixture) {
    let [ours, theirs] = fill(&f).await;
    let nobody = AccountId(Uuid::now_v7());
    for show in SHOWS {
        let of = |account_id| TokenSearch { account_id, show, ..TokenSearch::default() };
        let (of_ours, of_theirs) =
            (ids(&f, &of(Some(ours))).await, ids(&f, &of(Some(theirs))).await);
        assert!(!of_ours.is_empty() && of_ours.is_disjoint(&of_theirs));
        assert_eq!(ids(&f, &of(None)).await, &of_ours | &of_theirs);
        assert_eq!(ids(&f, &of(Some(nobody))).await, [].into());
        for account in [ours, theirs] {
            for token in search(&f, &of(Some(account)), 0, 1_000).await.tokens {
                assert_eq!(token.account_id, account);
                assert!(token.pending.iter().all(|action| action.account_id == account));
            }
        }
    }
}

async fn pages_end(f: Fixture) {
    fill(&f).await;
    for order in ORDERS {
        let what = TokenSearch { order, ..TokenSearch::default() };
        let whole = search(&f, &what, 0, 1_000).await;
        let mut paged = Vec::new();
        for page in 0.. {
            let found = search(&f, &what, page * 7, 7).await;
            assert_eq!(found.total, whole.total);
            if found.tokens.is_empty() {
                break;
            }
            paged.extend(found.tokens);
        }
        assert_eq!(paged, whole.tokens);
        for (offset, limit) in [(100_000, 25), (u32::MAX, u32::MAX), (0, 0)] {
            let none = search(&f, &what, offset, limit).await;
            assert_eq!(none, FoundTokens { tokens: vec![], total: whole.total });
        }
        assert_eq!(search(&f, &what, 0, u32::MAX).await, whole);
    }
}

async fn thousands_are_found_page_by_page(f: Fixture) {
    let account = f.account("acme").await;
    let fill = match f.place {
        Place::Sqlite(_) => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
             INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, \
                whitelist_version, create_time) \
             SELECT unhex(printf('%032x', i)), $1, 'token ' || (i * 7919 % 3001), 'READ_ONLY', \
                unhex(printf('%064x', i)), 'any', 1, i / 2 FROM n"
        }
        Place::Postgres(_) => {
            "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, \
                whitelist_version, create_time) \
             SELECT lpad(to_hex(i), 32, '0')::uuid, $1, 'token ' || (i * 7919 % 3001), 'READ_ONLY', \
                decode(lpad(to_hex(i), 64, '0'), 'hex'), 'any', 1, i / 2 FROM generate_series(1, 3000) i"
        }
    };
    f.execute(fill, &[account.0]).await.unwrap();
    let uses =
        "INSERT INTO token_use (token_id, idle_since) SELECT token_id, create_time FROM token";
    f.execute(uses, &[]).await.unwrap();
    let memory = Memory::read(&f).await;
    for order in ORDERS {
        let what = TokenSearch { account_id: Some(account), order, ..TokenSearch::default() };
        let expected = memory.search(&what, &calendar(100));
        let mut paged = Vec::new();
        for page in 0..120 {
            let found = search(&f, &what, page * 25, 25).await;
            assert_eq!((found.tokens.len(), found.total), (25, 3_000));
            paged.extend(found.tokens);
        }
        assert_eq!(paged, expected, "{order:?}");
        // No page is longer than the store can bind ids at once.
        let found = search(&f, &what, 0, 100_000).await;
        assert_eq!((found.tokens.len(), found.total), (1_000, 3_000));
    }
}
