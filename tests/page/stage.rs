//! What a thief finds: two accounts with a token or two each, and somebody signed in to either.

use portcullis::grpc::proto::{
    CreateAccountRequest, CreateTokenRequest, GetTokenRequest, ListTokensRequest, Role, Token,
    TokenKind,
};

use crate::support::calls::{self, credential};
use crate::support::client::Client;
use crate::support::http::Http;
use crate::support::server::{Server, Setup};

/// The whitelist of each account's `token`.
pub(crate) const WHITELIST: [&str; 2] = ["192.0.2.0/24", "198.51.100.7"];

/// An account, and whoever looks after it.
pub(crate) struct Side {
    pub(crate) account: String,
    /// The secret of its admin's credential.
    pub(crate) admin: String,
    pub(crate) credential_id: String,
    /// READ_WRITE, with [`WHITELIST`].
    pub(crate) token: Token,
    pub(crate) secret: String,
    /// READ_ONLY, from any address.
    pub(crate) open: Token,
}

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) operator: Client,
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Setup::sqlite()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let server = setup.start();
        let operator = Client::operator(&server).await;
        let ours = side(&operator, "Ours").await;
        let theirs = side(&operator, "Theirs").await;
        Self { server, operator, ours, theirs }
    }

    /// A browser that nobody signed in with.
    pub(crate) fn stranger(&self) -> Http {
        Http::new(&self.server)
    }

    /// A browser of our account's admin.
    pub(crate) fn admin(&self) -> Http {
        self.stranger().sign_in(&self.ours.admin)
    }

    /// A browser of the other account's admin.
    pub(crate) fn thief(&self) -> Http {
        self.stranger().sign_in(&self.theirs.admin)
    }

    /// A browser of an operator.
    pub(crate) fn operator(&self) -> Http {
        self.stranger().sign_in(self.server.operator())
    }

    /// Position of the newest change; the same as before exactly if nothing was changed since.
    pub(crate) async fn position(&self) -> i64 {
        calls::position(&self.operator).await
    }

    /// A token as the server has it now.
    pub(crate) async fn now(&self, token: &Token) -> Token {
        let request = GetTokenRequest { token_id: token.token_id.clone() };
        let got = self.operator.tokens().get_token(request).await.unwrap();
        got.into_inner().token.unwrap()
    }

    /// The names of an account's tokens, in order of creation.
    pub(crate) async fn names(&self, account: &str) -> Vec<String> {
        let request = ListTokensRequest { account_id: account.to_owned(), ..Default::default() };
        let listed = self.operator.tokens().list_tokens(request).await.unwrap().into_inner();
        listed.tokens.into_iter().map(|token| token.name).collect()
    }
}

/// An account of that name, with an admin and tokens.
async fn side(operator: &Client, name: &str) -> Side {
    let email = format!("admin@{}.example", name.to_lowercase());
    let account = account(operator, name, &[&email]).await;
    let kind = TokenKind::ReadWrite;
    let (token, secret) =
        named_token(operator, &account, &format!("{name} writer"), kind, &[], &WHITELIST).await;
    let kind = TokenKind::ReadOnly;
    let (open, _) =
        named_token(operator, &account, &format!("{name} reader"), kind, &[], &[]).await;
    let (credential, admin) = credential(operator, Role::AccountAdmin, &account).await;
    Side { account, admin, credential_id: credential.credential_id, token, secret, open }
}

/// A new account's id.
pub(crate) async fn account(operator: &Client, name: &str, admins: &[&str]) -> String {
    let request = CreateAccountRequest {
        name: name.to_owned(),
        admin_emails: admins.iter().map(|&admin| admin.to_owned()).collect(),
    };
    let made = operator.accounts().create_account(request).await.unwrap().into_inner();
    made.account.unwrap().account_id
}

/// A new token of that name, and its secret.
pub(crate) async fn named_token(
    operator: &Client,
    account: &str,
    name: &str,
    kind: TokenKind,
    scopes: &[&str],
    whitelist: &[&str],
) -> (Token, String) {
    let request = CreateTokenRequest {
        labels: Default::default(),
        expire_time: None,
        ttl: None,
        account_id: account.to_owned(),
        name: name.to_owned(),
        kind: kind.into(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        whitelist: whitelist.iter().map(|&entry| entry.to_owned()).collect(),
        validate_only: false,
    };
    let made = operator.tokens().create_token(request).await.unwrap().into_inner();
    (made.token.unwrap(), made.secret)
}
