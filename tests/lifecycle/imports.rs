//! Items of random imports: of each kind, with each time that the rules allow, and some that they refuse.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::secret;

use crate::lifecycle::model::{Import, Kind, SCOPES};
use crate::lifecycle::rng::Rng;
use crate::lifecycle::world::{DAY, HERE, Item};

/// An imported token of another account.
pub(crate) const STRANGER: &str = "secret-token:of-another-account";

/// What a new token may do.
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) shown: TokenKind,
    /// For a `CUSTOM` token.
    pub(crate) listed: BTreeSet<usize>,
    pub(crate) names: Vec<String>,
}

impl Shape {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let (kind, shown) = match rng.below(4) {
            0 => (Kind::ReadOnly, TokenKind::ReadOnly),
            1 => (Kind::ReadWrite, TokenKind::ReadWrite),
            _ => (Kind::Custom, TokenKind::Custom),
        };
        let mut listed: BTreeSet<usize> = (0..5).filter(|_| rng.percent(50)).collect();
        listed.insert(rng.below(5));
        let names = listed.iter().filter(|_| kind == Kind::Custom);
        let names = names.map(|&scope| SCOPES[scope].0.to_owned()).collect();
        Self { kind, shown, listed, names }
    }
}

/// A secret of a foreign shape, another one for each number.
pub(crate) fn foreign_secret(rng: &mut Rng, number: usize) -> String {
    match rng.below(3) {
        0 => secret::hex(&secret::digest(&number.to_le_bytes())[..20]),
        1 => format!("secret-token:{number:030}"),
        _ => format!("legacy {number}, \u{1f511}"),
    }
}

/// A token that was issued elsewhere, as it is sent and as the model has it.
pub(crate) fn random_item(
    rng: &mut Rng,
    secret: String,
    name: String,
    now: Timestamp,
) -> (Item, Import) {
    let Shape { kind, shown, listed, names } = Shape::random(rng);
    let mut age = |most| DAY * rng.below(most) as u32 + Duration::from_secs(rng.below(3) as u64);
    let ages = [age(3), age(60), age(1_000), age(60)];
    let last_use = rng.percent(70).then(|| now.minus(ages[rng.below(3)]));
    let created = rng.percent(50).then(|| last_use.unwrap_or(now).minus(ages[3]));
    let hours = 1 + rng.below(1_000) as u32;
    let expires = rng.percent(20).then(|| now.plus(Duration::from_secs(3_600) * hours));
    let whitelist = vec![HERE.to_owned()];
    let mut item =
        Item { secret, name, kind: shown, scopes: names, whitelist, created, last_use, expires };
    let mut import = Import {
        kind,
        listed,
        last_use: last_use.map(|at| at.0),
        expires: expires.map(|at| at.0),
        refusal: None,
    };
    if rng.percent(12) {
        import.refusal = Some(spoil(rng, &mut item, now));
    }
    (item, import)
}

/// Makes an item invalid: the rule that refuses it, as the API names it.
fn spoil(rng: &mut Rng, item: &mut Item, now: Timestamp) -> &'static str {
    let moment = Duration::from_micros(1);
    match rng.below(5) {
        0 => {
            (item.created, item.last_use) = (Some(now), Some(now.minus(moment)));
            "AFTER_LAST_USE"
        }
        1 => {
            item.last_use = Some(now.plus(moment));
            "IN_THE_FUTURE"
        }
        2 => {
            (item.created, item.last_use) = (Some(now.plus(moment)), None);
            "IN_THE_FUTURE"
        }
        3 => {
            item.expires = Some(now.minus(DAY * rng.below(2) as u32));
            "IN_THE_PAST"
        }
        _ => {
            (item.kind, item.scopes) = (TokenKind::ReadWrite, Vec::new());
            item.whitelist.clear();
            "WHITELIST_REQUIRED"
        }
    }
}
