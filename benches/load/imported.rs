//! What imported tokens cost: decisions on them and their memory, beside those of tokens that were made here; and
//! strings of strangers, each of which may be an imported secret.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use portcullis::grpc::proto::import_token_result::Result as ItemResult;
use portcullis::grpc::proto::{ImportToken, ImportTokenResult, ImportTokensRequest, TokenKind};
use portcullis::secret;

use super::drive::{self, Load, Outcome};
use super::questions::{ALLOWED, MALFORMED, Questions, SECRET, Token};
use super::replicas::{account, tokens};
use super::report::{Report, Target, median};
use super::scenario::{
    BATCH, FACTS_READ, FORGED, READ, Result, Scene, UNARY, middle, questions, said, warm, warmed,
};
use super::seed::{Seeded, WHITELIST};
use super::side::Side;
use super::{Stand, TOKENS};

/// How the strings begin, so that they are of no shape that is made here.
const PREFIX: &str = "sk_live_";
/// Tokens of one call.
const CALL: usize = 1_000;
/// Calls under way at once, as many as `portcullis token import` has.
const CALLS: usize = 3;

/// A secret of another issuer, as long as one that is made here: a request with it has the same size.
fn foreign() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut random = [0; SECRET - PREFIX.len()];
    getrandom::fill(&mut random).expect("random bytes");
    let digits = random.map(|byte| char::from(DIGITS[usize::from(byte) % DIGITS.len()]));
    PREFIX.chars().chain(digits).collect()
}

/// Imports `count` tokens that are as those of [`super::seed::seed`]: in the order in which they are returned.
fn import(stand: &Stand, side: &Side, count: usize) -> Arc<[Token]> {
    eprintln!("importing {count} tokens");
    let account = account(stand, side);
    let import = async |first: usize| {
        let secrets: Vec<_> = (0..CALL.min(count - first)).map(|_| foreign()).collect();
        let token = |(number, secret): (usize, &String)| ImportToken {
            name: "load".to_owned(),
            kind: match number % 2 {
                0 => TokenKind::ReadWrite.into(),
                _ => TokenKind::ReadOnly.into(),
            },
            whitelist: WHITELIST.split(',').map(str::to_owned).collect(),
            secret_sha256: secret::digest(secret.as_bytes()).to_vec(),
            ..Default::default()
        };
        let request = ImportTokensRequest {
            account_id: account.clone(),
            tokens: secrets.iter().enumerate().map(token).collect(),
            validate_only: false,
        };
        let mut client = tokens(side, &stand.operator).await;
        let answer = client.import_tokens(request).await.expect("an import").into_inner();
        let made = |(secret, result): (String, ImportTokenResult)| match result.result {
            Some(ItemResult::Token(token)) => Token::new(&secret, &token.token_id),
            refused => panic!("refused: {refused:?}"),
        };
        secrets.into_iter().zip(answer.results).map(made).collect::<Vec<_>>()
    };
    let calls = stream::iter((0..count).step_by(CALL)).map(import).buffered(CALLS);
    let made: Vec<Vec<Token>> = stand.runtime.block_on(calls.collect());
    made.concat().into()
}

/// A server that has as many imported tokens as others, all of them in memory.
struct Mixed {
    url: String,
    side: Side,
    own: Questions,
    imported: Questions,
}

impl Mixed {
    fn new(stand: &Stand) -> Result<Self> {
        let url = stand.cluster.database();
        stand.execute(&url, "CREATE EXTENSION pg_stat_statements");
        let side = stand.server(&url);
        let seeded = stand.seed(&side, &url, TOKENS);
        let imported = Seeded { tokens: import(stand, &side, TOKENS), ..seeded.clone() };
        stand.execute(&url, "VACUUM ANALYZE");
        stand.execute(&url, "CHECKPOINT");
        let (own, imported) = (warmed(&side, &seeded)?, warmed(&side, &imported)?);
        Ok(Self { url, side, own, imported })
    }
}

/// Decisions on imported tokens beside those on tokens that were made here, and strangers' strings.
pub fn decisions(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let mixed = Mixed::new(scene.stand)?;
    costs(scene, &mixed, report)?;
    strangers(scene, &mixed, report)
}

fn costs(scene: &Scene<'_>, mixed: &Mixed, report: &mut Report) -> Result<()> {
    for (plan, name) in [(UNARY, "Authorize"), (BATCH, "BatchAuthorize of 100")] {
        let load =
            |questions: &Questions| Load { questions: questions.clone(), ..scene.load(plan) };
        let (own, imported) = (load(&mixed.own), load(&mixed.imported));
        let turns = scene
            .turns(|| Ok((drive::run(&mixed.side, &imported)?, drive::run(&mixed.side, &own)?)))?;
        let ratio = median(turns.iter().map(|(imported, own)| imported.cpu / own.cpu));
        let of = |side: fn(&(Outcome, Outcome)) -> Outcome| {
            let outcome = middle(turns.iter().map(side));
            format!("{:.3} us, {:.0}/s", outcome.cpu, outcome.rate)
        };
        let what = format!("CPU per decision on imported tokens over others, {name}");
        report.add(&what, of(|turn| turn.0), of(|turn| turn.1), ratio, Target::AtMost(1.1));
    }
    Ok(())
}

/// The same flood of strings beside the same load, where tokens were imported and where none was: there, no string is
/// looked up.
fn strangers(scene: &Scene<'_>, mixed: &Mixed, report: &mut Report) -> Result<()> {
    let stand = scene.stand;
    let turn = stand.options.turn;
    let each = FORGED as usize * turn.as_secs() as usize;
    // Each is asked about once: a string that the filter takes for a token is known after that.
    let strings: Arc<[Token]> =
        (0..each * stand.options.rounds).map(|_| Token::new(&foreign(), NO_ID)).collect();
    let beside = |side: &Side, own: &Questions, round: usize| -> Result<(Outcome, Outcome)> {
        let strangers = Questions {
            tokens: strings[round * each..][..each].into(),
            expected: MALFORMED,
            answer_size: None,
            right: None,
            once: Some(0),
            ..own.clone()
        };
        let flood = Load { questions: strangers, ..scene.flood() };
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| drive::run(side, &flood));
            let ordinary = drive::run(side, &Load { questions: own.clone(), ..scene.load(UNARY) });
            Ok((ordinary?, flood.join().map_err(|_| "a thread panicked")??))
        })
    };
    let reads = || mixed.side.metric::<u64>("cache_misses_total");
    let statements = || stand.number(&mixed.url, FACTS_READ);
    let before = (reads(), statements());
    let mut turns = Vec::new();
    for round in 0..stand.options.rounds {
        turns.push((
            beside(&mixed.side, &mixed.own, round)?,
            beside(&scene.ours, &scene.questions, round)?,
        ));
    }
    let read = (reads() - before.0, statements() - before.1);
    let ratio = median(turns.iter().map(|(looked, not)| looked.0.rate / not.0.rate));
    type Turn = ((Outcome, Outcome), (Outcome, Outcome));
    let of = |side: fn(&Turn) -> (Outcome, Outcome)| {
        let ordinary = middle(turns.iter().map(|turn| side(turn).0));
        let flood = middle(turns.iter().map(|turn| side(turn).1));
        format!("{} beside {:.0} strings/s", said(&ordinary), flood.rate)
    };
    let what = "ordinary load beside strangers' strings, over the same without imported tokens";
    report.add(what, of(|turn| turn.0), of(|turn| turn.1), ratio, Target::AtLeast(0.97));
    let asked: f64 = turns.iter().map(|turn| turn.0.1.rate * turn.0.1.seconds).sum();
    let (ours, other) =
        (format!("{} cache misses, {} reads", read.0, read.1), format!("{asked:.0} strings"));
    let most = read.0.max(read.1.unsigned_abs()) as f64;
    let what = "database reads for a stranger's string";
    report.add(what, ours, other, most / asked, Target::AtMost(0.001));
    Ok(())
}

/// Of what has no id.
const NO_ID: &str = "tok_0000000000000000000000";

/// The memory of two servers that just started and were then asked for as many tokens: imported ones, and others.
pub fn memory(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let many = stand.options.many;
    let resident = |url: &str, seeded: &Seeded| -> Result<(u64, u64)> {
        // Until the database has noticed that the former process is gone.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let side = stand.server(url);
        let all = questions(seeded, seeded.tokens.clone(), ALLOWED, READ);
        warm(&side, &all, 0, many)?;
        // Until memory that was freed has been returned.
        std::thread::sleep(std::time::Duration::from_secs(5));
        Ok((side.resident(), side.metric("import_filter_bytes")))
    };
    let url = stand.cluster.database();
    let own = stand.seed(&stand.server(&url), &url, many);
    let (other, _) = resident(&url, &own)?;
    let url = stand.cluster.database();
    let imported = {
        let side = stand.server(&url);
        // For a credential of this store.
        let seeded = stand.seed(&side, &url, 0);
        Seeded { tokens: import(stand, &side, many), ..seeded }
    };
    let (ours, filter) = resident(&url, &imported)?;
    let more = (ours as f64 - other as f64) / many as f64;
    let ours = format!("{} MiB, filter {} KiB", ours >> 20, filter >> 10);
    let what = format!("bytes more for an imported token in memory, of {many}");
    report.add(&what, ours, format!("{} MiB", other >> 20), more, Target::AtMost(64.0));
    Ok(())
}
