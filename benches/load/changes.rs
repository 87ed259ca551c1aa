//! What changes cost the decisions of a replica that follows them: beside none, and beside as many of another
//! database on the same Postgres, which it need not follow, but which take as much of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::grpc::proto::{ManageWhitelistRequest, WhitelistReplacement};

use super::drive::{self, Load, Outcome};
use super::replicas::{account, token, tokens};
use super::report::{Report, Target, median};
use super::scenario::{Result, UNARY, load, warmed};
use super::side::Side;
use super::{Stand, TOKENS};

/// Changes a second.
const PACE: u64 = 50;
/// Decisions a second of a replica that has time to spare.
const SOME: u64 = 10_000;

/// Two replicas through one of which changes are made.
struct Makers {
    first: Side,
    _second: Side,
    account: String,
}

impl Makers {
    fn start(stand: &Stand, url: &str) -> Self {
        let [first, second] = [(); 2].map(|()| stand.server(url));
        let account = account(stand, &first);
        Self { first, _second: second, account }
    }

    /// Changes a whitelist again and again. How often.
    async fn change(&self, stand: &Stand, stopped: &AtomicBool) -> u64 {
        let mut client = tokens(&self.first, &stand.operator).await;
        let (token_id, _) = token(&mut client, &self.account).await;
        let (began, mut made) = (Instant::now(), 0_u64);
        while !stopped.load(Ordering::Relaxed) {
            let number = made;
            made += 1;
            let entries = vec![format!("192.0.2.{}", number % 250 + 1)];
            let change = ManageWhitelistRequest {
                token_id: token_id.clone(),
                replace: Some(WhitelistReplacement { entries, ..Default::default() }),
                ..Default::default()
            };
            client.manage_whitelist(change).await.expect("a change");
            let due = began + Duration::from_millis(1_000 / PACE) * (number as u32 + 1);
            tokio::time::sleep_until(due.into()).await;
        }
        made
    }
}

/// Decides, while changes are made through `makers`; with how many of them there were.
fn beside(stand: &Stand, side: &Side, load: &Load, makers: &Makers) -> Result<(Outcome, u64)> {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| stand.runtime.block_on(makers.change(stand, &stopped)));
        let outcome = drive::run(side, load);
        stopped.store(true, Ordering::Relaxed);
        let made = changing.join().map_err(|_| "a change failed")?;
        Ok((outcome?, made))
    })
}

/// Measures it all.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let url = stand.cluster.database();
    let side = stand.server(&url);
    let seeded = stand.seed(&side, &url, TOKENS);
    let questions = warmed(&side, &seeded)?;
    let followed = Makers::start(stand, &url);
    let aside = Makers::start(stand, &stand.cluster.database());
    for (rate, loaded) in [(None, "as many decisions as it can"), (Some(SOME), "10,000/s")] {
        let lasting = stand.options.turn * 3;
        let load = Load { rate, lasting, ..load(stand, questions.clone(), UNARY) };
        let (mut whole, mut own) = (Vec::new(), Vec::new());
        let mut last = Default::default();
        for _ in 0..stand.options.rounds {
            let quiet = drive::run(&side, &load)?;
            let (beside_others, others) = beside(stand, &side, &load, &aside)?;
            let (following, made) = beside(stand, &side, &load, &followed)?;
            whole.push(following.cpu / quiet.cpu);
            own.push(following.cpu / beside_others.cpu);
            last = (quiet.cpu, beside_others.cpu, others, following.cpu, made);
        }
        let (quiet, beside_others, others, following, made) = last;
        let pace = |made| made as f64 / lasting.as_secs_f64();
        let following = format!("{following:.2} us, {:.0} changes/s", pace(made));
        let what =
            format!("CPU per decision, beside 50 changes a second over beside none, {loaded}");
        let quiet = format!("{quiet:.2} us");
        report.add(&what, following.clone(), quiet, median(whole), Target::AtMost(1.05));
        let what = format!("the same over beside 50 of another database, {loaded}");
        let others = format!("{beside_others:.2} us, {:.0} changes/s", pace(others));
        report.add(&what, following, others, median(own), Target::AtMost(1.05));
    }
    Ok(())
}
