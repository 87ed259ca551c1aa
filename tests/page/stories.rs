//! What people do on the page, in Debian's Chromium: every flow from one end to the other, on a telephone's
//! screen and on a desk's, light and dark, with JavaScript and without, with a mouse and by keyboard alone.
//! The scripts of `browser/` tell the stories; here is what they need.
//!
//! Pictures of the main pages go to `target/page-screenshots`, or to the directory that `PAGE_SCREENSHOTS`
//! names: those in `docs/page` were made so.

use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::page::aged::{ADMINS, Aged, HELD, REFUSAL};
use crate::page::scripts;
use crate::support::server::Server;
use crate::support::smtp::Sink;
use crate::support::tools;

/// Every flow of the page.
const FLOWS: [&str; 7] =
    ["sign-in", "tokens", "whitelist", "create", "delete", "pending", "operator"];

/// A screen: its width, its colours, and whether scripts run.
type Dress = (u32, &'static str, bool);

/// Each flow is told on each screen and in each colours, with scripts and without; axe looks at every page in all
/// four (`every_page_is_sound`).
const WITH_SCRIPT: [Dress; 2] = [(360, "dark", true), (1_280, "light", true)];
const WITHOUT_SCRIPT: [Dress; 2] = [(360, "light", false), (1_280, "dark", false)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_on_postgres() {
    flows(&Aged::on_postgres(WITH_SCRIPT.len()).await, &WITH_SCRIPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_without_scripts_on_postgres() {
    flows(&Aged::on_postgres(WITHOUT_SCRIPT.len()).await, &WITHOUT_SCRIPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_on_sqlite() {
    let dresses = [(1_280, "dark", true)];
    flows(&Aged::on_sqlite(dresses.len()).await, &dresses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_sound() {
    let aged = Aged::on_postgres(1).await;
    let screens = [360, 1_280];
    let mut dresses: Vec<Dress> =
        screens.iter().flat_map(|&w| [(w, "light", true), (w, "dark", true)]).collect();
    dresses.push((360, "light", false));
    // They only look: one account does for all.
    let scenes: Vec<Value> = dresses.iter().map(|dress| scene(&aged.scenes[0], *dress)).collect();
    tell(&aged.server, &["every-page"], &scenes, more(&aged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_keyboard_alone() {
    let aged = Aged::on_sqlite(2).await;
    let dresses = [(1_280, "light", true), (360, "dark", true)];
    let scenes: Vec<Value> =
        aged.scenes.iter().zip(dresses).map(|(account, dress)| scene(account, dress)).collect();
    tell(&aged.server, &["keyboard"], &scenes, more(&aged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_runs_in_no_browser() {
    let sink = Sink::start();
    let (server, admin, operator) = scripts::hostile(&sink).await;
    let scenes: Vec<Value> = [admin, operator]
        .iter()
        .map(|credential| {
            json!({
                "label": "hostile", "width": 1280, "scheme": "light", "script": true,
                "admin": credential,
            })
        })
        .collect();
    let texts = json!({ "texts": scripts::HOSTILE });
    tell(&server, &["hostile"], &scenes, texts);
}

/// Every flow, each dress with an account of its own.
fn flows(aged: &Aged, dresses: &[Dress]) {
    let scenes: Vec<Value> =
        aged.scenes.iter().zip(dresses).map(|(account, dress)| scene(account, *dress)).collect();
    assert_eq!(scenes.len(), dresses.len());
    tell(&aged.server, &FLOWS, &scenes, more(aged));
}

fn scene(account: &Value, (width, scheme, script): Dress) -> Value {
    let mut scene = account.clone();
    let label = format!("{width} {scheme}{}", if script { "" } else { " without scripts" });
    scene["label"] = json!(label);
    scene["width"] = json!(width);
    scene["scheme"] = json!(scheme);
    scene["script"] = json!(script);
    scene
}

fn more(aged: &Aged) -> Value {
    json!({ "held": aged.held, "admins": ADMINS, "held_admins": HELD, "refusal": REFUSAL })
}

/// Tells stories to `server`, each in every scene. They print what held, and the last line says that all of
/// it did.
pub(crate) fn tell(server: &Server, stories: &[&str], scenes: &[Value], more: Value) {
    let screenshots = env::var_os("PAGE_SCREENSHOTS").map_or_else(
        || tools::source("target/page-screenshots"),
        |directory| tools::source("").join(PathBuf::from(directory)),
    );
    fs::create_dir_all(&screenshots).unwrap();
    let mut setting = json!({
        "base": format!("http://{}", server.http()),
        "grpc": server.grpc().to_string(),
        "operator": server.operator(),
        "scenes": scenes,
        "screenshots": screenshots,
        "evidence": tools::source("target/page-screenshots/failed"),
    });
    setting.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut node = tools::browser();
    let script = tools::source("tests/page/browser/main.js");
    let told = tools::succeed(node.arg(script).args(stories).env("STORY", setting.to_string()));
    println!("{told}");
    assert!(told.ends_with("the whole story held\n"), "the story broke off:\n{told}");
}
