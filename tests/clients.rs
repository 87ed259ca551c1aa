//! Clients in other languages, generated from `proto/`, live through the same story on both stores.

use std::process::Command;

use crate::support::client::Client;
use crate::support::server::{Server, Setup};
use crate::support::{postgres, tools};
use portcullis::grpc::proto::TokenKind;

#[tokio::test]
async fn python_on_sqlite() {
    tell(python(), &Setup::sqlite().start()).await;
}

#[tokio::test]
async fn python_on_postgres() {
    tell(python(), &Setup::postgres(&postgres::database()).start()).await;
}

#[tokio::test]
async fn node_on_sqlite() {
    tell(node(), &Setup::sqlite().start()).await;
}

#[tokio::test]
async fn node_on_postgres() {
    tell(node(), &Setup::postgres(&postgres::database()).start()).await;
}

fn python() -> Command {
    let mut command = tools::python();
    command.arg(tools::source("tests/clients/python/story.py"));
    command
}

fn node() -> Command {
    let mut command = tools::node();
    command.arg(tools::source("tests/clients/node/story.js"));
    command
}

/// Tells a story to `server`. It prints what held, and its last line says that all of it did.
async fn tell(mut story: Command, server: &Server) {
    let told = tools::succeed(
        story
            .arg(server.grpc().to_string())
            .env("TEST_CREDENTIAL", server.operator())
            .env("TEST_UNKNOWN_TOKEN", unknown_token().await),
    );
    println!("{told}");
    assert!(told.ends_with("the whole story held\n"), "the story broke off:\n{told}");
}

/// The secret of a token that another server made.
async fn unknown_token() -> String {
    let elsewhere = Setup::sqlite().start();
    let operator = Client::operator(&elsewhere).await;
    let account = operator.account().await;
    let (_, secret) = operator.token(&account.account_id, TokenKind::ReadOnly, &[], &[]).await;
    secret
}
