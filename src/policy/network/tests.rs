//! The rules for addresses and whitelists, case by case and as properties.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

mod addresses;
mod entries;
mod properties;
mod whitelists;

use super::*;

fn addr(text: &str) -> ClientAddr {
    text.parse().unwrap()
}

fn entry(text: &str) -> Cidr {
    Cidr::parse(text, &Limits::default()).unwrap()
}

fn entries(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| entry(text)).collect()
}

fn only(texts: &[&str]) -> Whitelist {
    let entries = CidrSet::new(entries(texts), &Limits::default()).unwrap();
    Whitelist::Only(entries.unwrap())
}
