//! The same request again and again, by a load generator that is not ours: over gRPC, as gateways send it, and over a
//! Unix socket.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use super::check;
use super::report::{Report, Target, median};
use super::scenario::{CLIENT_IP, Result, Scene};

const AUTHORIZE: &str = "/portcullis.v1.AuthorizationService/Authorize";

/// Where a request goes.
#[derive(Clone)]
enum Server {
    Tcp(SocketAddr),
    Unix(String),
}

/// How h2load sends it: its arguments, of which each connection has one request under way over HTTP/1.1 and 32 over
/// HTTP/2.
const HTTP_1: &[&str] = &["--h1", "-c", "64"];
const HTTP_2: &[&str] = &["-c", "8", "-m", "32"];

/// A request that is sent again and again.
struct Repeated<'a> {
    load: &'a [&'a str],
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    /// Of a POST; a GET has none.
    body: Option<Vec<u8>>,
}

pub fn authorize(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let request = grpc(scene, AUTHORIZE, scene.questions.message(&scene.questions.tokens[0]));
    let sides = [Server::Tcp(scene.ours.address), Server::Tcp(scene.bare.address)];
    compare(scene, &request, sides, "Authorize by h2load, over bare", Target::AtLeast(1.0), report)
}

/// Envoy's question.
pub fn check(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let token = &scene.questions.tokens[0];
    let request = grpc(scene, check::PATH, check::message(token.secret(), CLIENT_IP));
    let sides = [Server::Tcp(scene.ours.address), Server::Tcp(scene.bare.address)];
    let what = "Check of Envoy by h2load, over bare";
    compare(scene, &request, sides, what, Target::AtLeast(1.2), report)
}

/// nginx's question, over a bare axum handler.
pub fn forward_auth(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let address = |side: Option<SocketAddr>| side.map(Server::Tcp).ok_or("it answers no gateways");
    let sides = [address(scene.ours.gateway)?, address(scene.bare.gateway)?];
    for (load, what) in [
        (HTTP_1, "forward auth over HTTP/1.1 by h2load, over bare axum"),
        (HTTP_2, "forward auth over HTTP/2 by h2load, over bare axum"),
    ] {
        let token = String::from_utf8_lossy(scene.questions.tokens[0].secret()).into_owned();
        let mut headers = check::BROWSER.map(|(name, value)| (name, value.to_owned())).to_vec();
        headers.extend([
            ("authorization", format!("Bearer {token}")),
            ("portcullis-credential", scene.questions.credential.to_string()),
            ("x-forwarded-for", CLIENT_IP.to_owned()),
            ("x-forwarded-method", "GET".to_owned()),
            ("x-forwarded-uri", check::TARGET.to_owned()),
        ]);
        let request = Repeated { load, path: "/forward-auth", headers, body: None };
        compare(scene, &request, sides.clone(), what, Target::AtLeast(0.8), report)?;
    }
    Ok(())
}

/// A Unix socket beside loopback TCP, both of this server.
pub fn unix_socket(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let request = grpc(scene, AUTHORIZE, scene.questions.message(&scene.questions.tokens[0]));
    let sides = [Server::Unix(scene.stand.unix_socket()), Server::Tcp(scene.ours.address)];
    let what = "Authorize by h2load, a Unix socket over loopback TCP";
    compare(scene, &request, sides, what, Target::None, report)
}

fn grpc<'a>(scene: &Scene<'_>, path: &'a str, message: Vec<u8>) -> Repeated<'a> {
    let length = u32::try_from(message.len()).expect("small");
    let headers = vec![
        ("content-type", "application/grpc".to_owned()),
        ("te", "trailers".to_owned()),
        ("authorization", format!("Bearer {}", scene.questions.credential)),
    ];
    let body = [&[0][..], &length.to_be_bytes(), &message].concat();
    Repeated { load: HTTP_2, path, headers, body: Some(body) }
}

/// Sends `request` to both sides in turns, of which the first is this server.
fn compare(
    scene: &Scene<'_>,
    request: &Repeated<'_>,
    [ours, other]: [Server; 2],
    what: &str,
    target: Target,
    report: &mut Report,
) -> Result<()> {
    let seconds = scene.stand.options.turn.as_secs();
    let body = scene.stand.home.path().join("question.bin");
    if let Some(bytes) = &request.body {
        fs::write(&body, bytes).map_err(|error| error.to_string())?;
    }
    let send = |server: &Server| -> Result<f64> {
        let mut command = Command::new("h2load");
        command.args(request.load).args(["-t", "1", "-D", &seconds.to_string()]);
        for (name, value) in &request.headers {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if request.body.is_some() {
            command.arg("-d").arg(&body);
        }
        let host = match server {
            Server::Tcp(address) => address.to_string(),
            Server::Unix(socket) => {
                command.arg(format!("--base-uri=unix:{socket}"));
                "localhost".to_owned()
            }
        };
        command.arg(format!("http://{host}{}", request.path));
        let output = command.output().map_err(|error| format!("h2load: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |before: &str, after: &str| -> Option<f64> {
            let (_, rest) = text.split_once(before)?;
            rest.split_once(after)?.0.trim().parse().ok()
        };
        let done = number(", ", " req/s").ok_or_else(|| format!("h2load said {text}"))?;
        match (number("succeeded, ", " failed"), number(" failed, ", " errored")) {
            (Some(0.0), Some(0.0)) => Ok(done),
            _ => Err(format!("h2load said {text}")),
        }
    };
    let turns = scene.turns(|| {
        // h2load checks the HTTP status only; that each answer was an allow, the server's own count says. What is
        // under way at the end may be decided without being counted by h2load.
        let count = || scene.ours.metric::<u64>("decisions_total{reason=\"ALLOWED\"}");
        let before = count();
        let rate = send(&ours)?;
        let allowed = (count() - before) as f64;
        let answered = rate * seconds as f64;
        if allowed < answered * 0.98 {
            return Err(format!("h2load saw {answered:.0} answers, of which {allowed:.0} allowed"));
        }
        Ok((rate, send(&other)?))
    })?;
    let rate = |side: fn(&(f64, f64)) -> f64| format!("{:.0}/s", median(turns.iter().map(side)));
    let ratio = median(turns.iter().map(|turn| turn.0 / turn.1));
    report.add(what, rate(|turn| turn.0), rate(|turn| turn.1), ratio, target);
    Ok(())
}
