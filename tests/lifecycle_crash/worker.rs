//! Who makes the load: each worker looks after an account and its tokens, and keeps book of what it was
//! answered.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::grpc::proto::{
    AuthorizeResponse, CreateAccountRequest, Decision, PendingActionType, SetAccountAdminsRequest,
    TokenKind,
};
use tonic::{Code, Status};

use crate::lifecycle_crash::{percent, random};
use crate::support::client::{Client, question};

const ADMINS: [&str; 3] = ["ann@acme.example", "bob@acme.example", "carl@acme.example"];
const HOME: &str = "192.0.2.1";
const READ: &str = "transactions.read";
const WRITE: &str = "cards.create";

/// See the module.
pub(crate) struct Worker {
    pub(crate) account: String,
    tokens: Vec<(String, TokenKind)>,
    /// Tokens whose creation was answered.
    pub(crate) created: BTreeSet<String>,
    /// How many tokens there may be by now. With more, their mails would take longer than a life.
    allowance: usize,
    /// Actions that a use was allowed against.
    pub(crate) kept: BTreeSet<String>,
}

impl Worker {
    pub(crate) async fn new(client: &Client) -> Self {
        let admin_emails = ADMINS[..2].iter().map(|&admin| admin.to_owned()).collect();
        let request = CreateAccountRequest { name: "Acme".to_owned(), admin_emails };
        let account = client.accounts().create_account(request).await.unwrap().into_inner();
        let account = account.account.unwrap().account_id;
        let (created, kept) = (BTreeSet::new(), BTreeSet::new());
        Self { account, tokens: Vec::new(), created, allowance: 8, kept }
    }

    /// Works until nobody answers any more.
    pub(crate) async fn run(mut self, client: Client) -> Self {
        self.allowance += usize::from(percent(75));
        loop {
            if let Err(status) = self.step(&client).await {
                let lost = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled];
                assert!(lost.contains(&status.code()), "{status:?}");
                return self;
            }
            // A pace, so that tokens have the time to fall idle.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn step(&mut self, client: &Client) -> Result<(), Status> {
        if random(300) == 0 {
            let admins = if percent(50) { &ADMINS[..2] } else { &ADMINS[1..] };
            let admin_emails = admins.iter().map(|&admin| admin.to_owned()).collect();
            let request =
                SetAccountAdminsRequest { account_id: self.account.clone(), admin_emails };
            client.accounts().set_account_admins(request).await?;
        }
        if self.created.len() < self.allowance && percent(5) {
            let kinds = [TokenKind::ReadOnly, TokenKind::ReadWrite];
            let kind = kinds[random(2) as usize];
            let (token, secret) = client.try_token(&self.account, kind, &[], &[HOME]).await?;
            self.created.insert(token.token_id);
            self.tokens.push((secret, kind));
        }
        if self.tokens.is_empty() {
            return Ok(());
        }
        let at = random(self.tokens.len() as u64) as usize;
        let (secret, kind) = self.tokens[at].clone();
        let known = ask(client, &secret, READ, true).await?;
        if known.decision() != Decision::Allow {
            self.tokens.swap_remove(at);
            return Ok(());
        }
        let cancelling = match known.pending_action {
            Some(action) if percent(10) => match action.r#type() {
                PendingActionType::Downgrade => Some((action.pending_action_id, WRITE)),
                _ => Some((action.pending_action_id, READ)),
            },
            _ => None,
        };
        if let Some((action, scope)) = cancelling {
            if ask(client, &secret, scope, false).await?.decision() == Decision::Allow {
                self.kept.insert(action);
            }
        } else if percent(if kind == TokenKind::ReadWrite { 25 } else { 1 }) {
            ask(client, &secret, READ, false).await?;
        }
        Ok(())
    }
}

async fn ask(
    client: &Client,
    secret: &str,
    scope: &str,
    dry_run: bool,
) -> Result<AuthorizeResponse, Status> {
    let mut ask = question(secret, HOME, scope);
    ask.dry_run = dry_run;
    Ok(client.authorization().authorize(ask).await?.into_inner())
}
