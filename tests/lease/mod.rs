//! The lease machine alone: replicas, changes and everything that may go wrong, simulated. What is
//! promised holds in every run, and each planted fault breaks it in one of them.
//!
//! A failure prints all that happened and its seed; `LEASE_SEED` runs that one again, and `LEASE_RUNS`
//! says how many runs there are.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that panics fails"
)]

mod node;
mod plan;
mod process;
pub(crate) mod random;
mod store;
mod world;

use std::thread;

use plan::{Fault, Plan};
use random::Random;
use world::{Stats, run};

const RUNS: u64 = 10_000;

fn given(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs them all, on all cores.
fn all(plan: fn(&mut Random) -> Plan, runs: u64) -> Stats {
    let seeds: Vec<u64> = given("LEASE_SEED").map_or_else(|| (0..runs).collect(), |one| vec![one]);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let stats: Stats = thread::scope(|scope| {
        let shares: Vec<_> = (0..cores)
            .map(|first| {
                let share = seeds.iter().skip(first).step_by(cores);
                scope.spawn(move || {
                    let runs = share.map(|&seed| run(seed, plan, Fault::None));
                    runs.map(|stats| stats.unwrap_or_else(|broken| panic!("{broken}"))).sum()
                })
            })
            .collect();
        let shares = shares.into_iter();
        shares.map(|share| -> Stats { share.join().expect("a promise was broken") }).sum()
    });
    println!("{stats:?}");
    stats
}

#[test]
fn what_is_promised_holds_whatever_happens() {
    let runs = given("LEASE_RUNS").unwrap_or(RUNS);
    let stats = all(Plan::rough, runs);
    // The runs are worth something: much is decided, much refused, much waited for.
    if stats.runs == runs {
        assert!(stats.decisions > 20 * runs, "few decisions");
        assert!(stats.refused > runs, "few that were out of a lease");
        assert!(stats.bound > 5 * runs, "few changes bound");
        assert!(stats.outwaited > runs / 2, "few whose replicas were out of reach");
    }
}

#[test]
fn nothing_waits_or_lapses_where_nothing_goes_wrong() {
    all(Plan::calm, RUNS / 20);
}

#[test]
fn what_failovers_lose_binds_nobody() {
    all(Plan::forgetful, RUNS / 5);
}

#[test]
fn a_dead_replica_costs_a_lease_at_most() {
    all(Plan::one_dies, RUNS / 20);
}

#[test]
fn every_planted_fault_is_found() {
    let found: Vec<_> = thread::scope(|scope| {
        let search = |&fault: &Fault| {
            let broken = move |seed: &u64| run(*seed, Plan::rough, fault).is_err();
            (fault, scope.spawn(move || (0..RUNS).find(broken)))
        };
        let searches: Vec<_> = Fault::PLANTED.iter().map(search).collect();
        let searches = searches.into_iter();
        searches
            .map(|(fault, search)| (fault, search.join().expect("a search that ends")))
            .collect()
    });
    for (fault, seed) in &found {
        println!("{fault:?}: found by seed {seed:?}");
    }
    let missed: Vec<_> = found.iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(missed.is_empty(), "not found in {RUNS} runs: {missed:?}");
}
