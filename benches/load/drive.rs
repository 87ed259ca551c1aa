//! Loads: connections to a server, driven for a while, and what that gave.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::time::MissedTickBehavior;

use super::questions::{Plan, Questions};
use super::side::Side;
use super::wire::Connection;

/// How long answers may be waited for after the last request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do to a server.
#[derive(Clone)]
pub struct Load {
    pub questions: Questions,
    pub plan: Plan,
    pub connections: usize,
    pub lasting: Duration,
    /// Requests a second, all connections together; as many as go without.
    pub rate: Option<u64>,
    /// The most requests of each connection.
    pub most: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Decisions a second, and for how long.
    pub rate: f64,
    pub seconds: f64,
    /// Of one request, in microseconds.
    pub median: f64,
    pub p99: f64,
    /// The server's processor time for one decision, in microseconds.
    pub cpu: f64,
}

type Result<T> = std::result::Result<T, String>;

/// Drives `load` against `side`, on one thread of its own beside the server's.
pub fn run(side: &Side, load: &Load) -> Result<Outcome> {
    let before = side.cpu();
    let began = Instant::now();
    let took = drive(side.address, load)?;
    let lasted = began.elapsed();
    Ok(outcome(took, lasted, side.cpu() - before))
}

fn outcome((decisions, mut took): (u64, Vec<u32>), lasted: Duration, cpu: Duration) -> Outcome {
    took.sort_unstable();
    let at = |part: f64| {
        let place = ((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1));
        took.get(place).map_or(0.0, |&nanos| f64::from(nanos) / 1e3)
    };
    Outcome {
        rate: decisions as f64 / lasted.as_secs_f64(),
        seconds: lasted.as_secs_f64(),
        median: at(0.5),
        p99: at(0.99),
        cpu: cpu.as_secs_f64() * 1e6 / decisions.max(1) as f64,
    }
}

/// The same without looking at the server: decisions, and how long each took in nanoseconds.
pub fn drive(address: SocketAddr, load: &Load) -> Result<(u64, Vec<u32>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..load.connections {
            let mut load = load.clone();
            load.questions.seed = load.questions.seed.wrapping_add(number as u64 * 0x9e37_79b9) | 1;
            // Each has its own part of those that are asked for once.
            let part = load.questions.tokens.len() / load.connections * number;
            load.questions.once = load.questions.once.map(|first| first + part);
            tasks.spawn(connection(address, load));
        }
        let mut all = (0, Vec::new());
        while let Some(ended) = tasks.join_next().await {
            let tally = ended.map_err(|error| error.to_string())??;
            all.0 += tally.0;
            all.1.extend(tally.1);
        }
        Ok(all)
    })
}

async fn connection(address: SocketAddr, load: Load) -> Result<(u64, Vec<u32>)> {
    let text = |error: std::io::Error| format!("the connection: {error}");
    let socket = tokio::net::TcpStream::connect(address).await.map_err(text)?;
    socket.set_nodelay(true).map_err(text)?;
    let mut tick = tokio::time::interval(Duration::from_millis(match load.rate {
        Some(_) => 1,
        None => 50,
    }));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut client = Connection::new(load.questions, load.plan);
    let mut input = vec![0; 1 << 18];
    let mut filled = 0;
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        let most = match load.rate {
            Some(rate) => {
                let due = rate as f64 * elapsed.as_secs_f64() / load.connections as f64;
                load.most.min(due as u64)
            }
            None => load.most,
        };
        if elapsed < load.lasting && !client.done(load.most) {
            client.ask(most);
        } else {
            client.close_stream();
            if client.idle() {
                return Ok((client.tally.decisions, client.tally.took));
            }
            if elapsed > load.lasting + PATIENCE {
                return Err(format!("{} requests were never answered", client.under_way));
            }
        }
        if !client.out.is_empty() {
            match socket.try_write(&client.out) {
                Ok(written) => drop(client.out.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(text(error)),
            }
        }
        let interest = match client.out.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            biased;
            ready = socket.ready(interest) => { ready.map_err(text)?; }
            _ = tick.tick() => continue,
        }
        match socket.try_read(&mut input[filled..]) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(read) => {
                filled += read;
                let used = client.answers(&input[..filled])?;
                input.copy_within(used..filled, 0);
                filled -= used;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(text(error)),
        }
    }
}

/// One request after another over one connection, by blocking calls: nothing but the way there and
/// back, and the server.
pub fn one_by_one(side: &Side, questions: Questions, lasting: Duration) -> Result<Outcome> {
    let text = |error: std::io::Error| format!("the connection: {error}");
    let mut socket = std::net::TcpStream::connect(side.address).map_err(text)?;
    socket.set_nodelay(true).map_err(text)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    let mut client = Connection::new(questions, Plan::Unary { under_way: 1 });
    let mut input = vec![0; 1 << 16];
    let mut filled = 0;
    let before = side.cpu();
    let began = Instant::now();
    while began.elapsed() < lasting {
        client.ask(u64::MAX);
        loop {
            socket.write_all(&client.out).map_err(text)?;
            client.out.clear();
            if client.idle() {
                break;
            }
            let read = socket.read(&mut input[filled..]).map_err(text)?;
            if read == 0 {
                return Err("the server closed the connection".to_owned());
            }
            filled += read;
            let used = client.answers(&input[..filled])?;
            input.copy_within(used..filled, 0);
            filled -= used;
        }
    }
    let lasted = began.elapsed();
    Ok(outcome((client.tally.decisions, client.tally.took), lasted, side.cpu() - before))
}
