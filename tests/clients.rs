//! Clients in other languages, generated from `proto/`, live through the same stories on both stores.

mod adoption;

use std::process::Command;

use crate::support::client::Client;
use crate::support::server::{Server, Setup};
use crate::support::{postgres, tools};
use portcullis::grpc::proto::TokenKind;

#[tokio::test]
async fn python_on_sqlite() {
    run_on(python("story.py"), &Setup::sqlite().start()).await;
}

#[tokio::test]
async fn python_on_postgres() {
    run_on(python("story.py"), &Setup::postgres(&postgres::database()).start()).await;
}

#[tokio::test]
async fn node_on_sqlite() {
    run_on(node("story.js"), &Setup::sqlite().start()).await;
}

#[tokio::test]
async fn node_on_postgres() {
    run_on(node("story.js"), &Setup::postgres(&postgres::database()).start()).await;
}

#[tokio::test]
async fn python_adopts_tokens_on_two_replicas() {
    run_on_two_replicas(python("adoption.py")).await;
}

#[tokio::test]
async fn node_adopts_tokens_on_two_replicas() {
    run_on_two_replicas(node("adoption.js")).await;
}

async fn run_on_two_replicas(mut story: Command) {
    let servers = replicas();
    run(story.args(servers.each_ref().map(|server| server.grpc().to_string())), &servers[0]);
}

/// Two replicas over one store, with one operator.
fn replicas() -> [Server; 2] {
    let database = postgres::database();
    let one = Setup::postgres(&database).start();
    let other = Setup::postgres(&database).operator(one.operator()).start();
    [one, other]
}

fn python(file: &str) -> Command {
    let mut command = tools::python();
    command.arg(tools::source(&format!("tests/clients/python/{file}")));
    command
}

fn node(file: &str) -> Command {
    let mut command = tools::node();
    command.arg(tools::source(&format!("tests/clients/node/{file}")));
    command
}

/// Runs the story of a few tokens on `server`.
async fn run_on(mut story: Command, server: &Server) {
    let story = story.arg(server.grpc().to_string());
    run(story.env("TEST_UNKNOWN_TOKEN", unknown_token().await), server);
}

/// Runs a story. It prints what held, and its last line says that all of it did.
fn run(story: &mut Command, server: &Server) {
    let printed = tools::succeed(story.env("TEST_CREDENTIAL", server.operator()));
    println!("{printed}");
    assert!(printed.ends_with("the whole story held\n"), "the story broke off:\n{printed}");
}

/// The secret of a token that another server made.
async fn unknown_token() -> String {
    let elsewhere = Setup::sqlite().start();
    let operator = Client::operator(&elsewhere).await;
    let account = operator.account().await;
    let (_, secret) = operator.token(&account.account_id, TokenKind::ReadOnly, &[], &[]).await;
    secret
}
